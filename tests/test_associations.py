"""Which exposures make which mosaic, the pipeline's file for it, and files that must not be believed."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survey.errors import ConfigError
from survey.models import Association, Exposure
from survey.mosaics.association_files import MAX_FILE_BYTES, read_association, write_association
from survey.names import parse_mosaic
from survey.planning.associations import group

PRODUCT = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
MEMBER = "jw01345001001_02201_00001_nrcb1_cal.fits"


def make_exposure(observation=1, number=1, detector="NRCB1", **changes) -> Exposure:
    name = f"jw01345{observation:03d}001_02201_{number:05d}_{detector.lower()}"
    values = {"filter": "F200W", "subarray": "SUB320"} | changes
    return Exposure(name, 1345, observation, 1, detector, **values)


def make_document(product=PRODUCT, members=(MEMBER,), **changes):
    rows = [{"expname": member, "exptype": "science"} for member in members]
    return {"asn_type": "image3", "products": [{"name": product, "members": rows}]} | changes


@pytest.fixture
def exposures():
    """Two observations of two dithers; three detectors, the long-wave one in F444W."""
    made = [
        make_exposure(observation, number, detector, filter="F444W" if detector == "NRCBLONG" else "F200W")
        for observation in (1, 2)
        for number in (1, 2)
        for detector in ("NRCB1", "NRCB2", "NRCBLONG")
    ]
    random.Random(1).shuffle(made)
    return made


@pytest.fixture
def read(tmp_path):
    def reader(document):
        path = tmp_path / "x_asn.json"
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        return read_association(path)

    return reader


def test_one_mosaic_per_filter(exposures):
    short, long = group(exposures, ("filter",))
    assert (short.product, short.filter, short.field, short.program) == (PRODUCT, "F200W", "all", 1345)
    assert long.product == "jw01345-a3001_t001_nircam_clear-f444w-sub320"
    assert len(short.members) == 8
    assert list(short.members) == sorted(short.members)
    assert group(sorted(exposures, key=lambda e: e.name), "filter") == (short, long)


def test_one_mosaic_per_filter_and_observation(exposures):
    made = group(exposures, ["filter", "observation"])
    assert [(item.filter, item.field, len(item.members)) for item in made] == [
        ("F200W", "o001", 4), ("F444W", "o001", 2), ("F200W", "o002", 4), ("F444W", "o002", 2),
    ]  # fmt: skip
    assert parse_mosaic(made[0].product).acid == "o001"


def test_the_subarray_is_named_only_when_it_is_one_and_not_full(exposures):
    mixed = [*exposures[:-1], replace(exposures[-1], subarray="FULL")]
    assert {parse_mosaic(item.product).subarray for item in group(mixed)} == {"sub320", None}
    full = [replace(item, subarray="FULL") for item in exposures]
    assert {parse_mosaic(item.product).subarray for item in group(full)} == {None}


def test_a_filter_in_the_pupil_wheel_makes_its_own_mosaic():
    wide = make_exposure(number=1, filter="F150W2")
    medium = make_exposure(number=2, filter="F150W2", pupil="F162M")
    assert [parse_mosaic(item.product).elements for item in group([wide, medium])] == ["clear-f150w2", "f150w2-f162m"]


def test_no_exposures_make_no_mosaics():
    assert group([], "filter") == ()


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ([make_exposure(), make_exposure()], "is listed 2 times"),
        ([make_exposure(filter="")], "filter is unknown"),
    ],
)
def test_bad_exposures_are_named(bad, cause):
    with pytest.raises(ConfigError, match=cause):
        group(bad)


@pytest.mark.parametrize("per", ["visit", ("observation",), (), ("filter", "visit")])
def test_unknown_grouping_is_refused(per):
    with pytest.raises(ConfigError, match=r"mosaic\.per"):
        group([], per)


@pytest.mark.parametrize("suffix", ["cal", "a3001_crf", "o001_crf"])
def test_an_association_is_read_in_its_own_order(read, suffix):
    names = [f"jw01345001001_02201_0000{n}_nrcb1" for n in (2, 1)]
    made = read(make_document(members=[f"{name}_{suffix}.fits" for name in names], asn_pool="ignored"))
    assert made == Association(PRODUCT, "F200W", "all", tuple(names), 1345)


def test_filter_and_field_come_from_the_product_name(read):
    made = read(make_document("jw01345-o003_t001_nircam_f150w2-f162m"))
    assert (made.filter, made.field) == ("F162M", "o003")  # the narrow one, as of exposures


@pytest.mark.parametrize(
    "member",
    [
        "../../../../etc/passwd",
        "/etc/passwd",
        f"/data/{MEMBER}",
        f"../{MEMBER}",
        f"sub/../../{MEMBER}",
        f"sub//{MEMBER}",
        f"sub/{MEMBER.replace('_cal', '_rate')}",
        f"sub/{MEMBER.replace('_cal', '_a3001_i2d')}",
        f"sub\\{MEMBER}",
        f"{MEMBER}\0",
        f"{MEMBER}\n",
        f"\0{MEMBER}",
        "",
        ".",
        "..",
        "jw01345001001_02201_00001_nrcb1_uncal.fits",
        "jw01345001001_02201_00001_nrcb1.fits",
        "jw01345001001_02201_00001_mirimage_cal.fits",
        "jw0134500100\u0661_02201_00001_nrcb1_cal.fits",
        MEMBER.upper(),
        f"{MEMBER}[1]",
        f"http://localhost/{MEMBER}",
        "a" * 100_000,
    ],
)
def test_members_are_plain_names(read, member):
    with pytest.raises(ConfigError, match="member 1: ") as caught:
        read(make_document(members=[member]))
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 50_000, "not valid JSON"),
        (b'{"products": [], "products": []}', "is given twice"),
        (b"[]", "found list"),
        (b"null", "found NoneType"),
        ({}, "products: found NoneType"),
        (make_document(products=[]), "found 0 products"),
        (make_document(products=make_document()["products"] * 2), "found 2 products"),
        (make_document(products=["x"]), "expected a list of one object"),
        (make_document(products=[{"name": PRODUCT}]), "members: found NoneType"),
        (make_document(members=[]), "members: found 0 members"),
        (make_document(members=[MEMBER] * 20_001), "20001 members"),
        (make_document(members=[MEMBER, MEMBER]), "is listed 2 times"),
        (make_document(asn_type="image2"), "asn_type: found 'image2'"),
        (make_document("../x"), "product name"),
        (make_document(7), "product name: found 7"),
        (make_document("jw01345-o001_t001_miri_f770w-clear"), "instrument 'miri'"),
        (make_document(products=[{"name": PRODUCT, "members": [3]}]), "member 1: expected an object"),
        (make_document(products=[{"name": PRODUCT, "members": [{"expname": MEMBER, "exptype": "background"}]}]),
         "exptype 'background'"),
        (b" " * (MAX_FILE_BYTES + 1), "larger than"),
    ],
)  # fmt: skip
def test_wrong_associations_are_refused(read, document, cause):
    with pytest.raises(ConfigError, match=cause):
        read(document)


def test_every_fault_is_named_at_once_but_not_without_end(read):
    with pytest.raises(ConfigError) as caught:
        read(make_document("o/d", members=["../a", MEMBER, "/b"], asn_type="spec3"))
    assert len(caught.value.faults) == 4
    with pytest.raises(ConfigError) as caught:
        read(make_document(members=[f"../{n}" for n in range(1000)]))
    assert len(caught.value.faults) == 51
    assert caught.value.faults[-1].endswith("and 950 more.")


@pytest.mark.parametrize("name", ["none.json", ".", "a\0b", "x" * 5000])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(ConfigError):
        read_association(tmp_path / name)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe_asn.json")
    with pytest.raises(ConfigError, match="no such file"):
        read_association(tmp_path / "pipe_asn.json")


_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([MEMBER, PRODUCT, "image3"])
)
_KEYS = st.sampled_from(["products", "members", "name", "expname", "exptype", "asn_type"]) | st.text(max_size=3)
_ANY = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.binary(max_size=60)
    | _ANY
    | st.builds(make_document, st.text() | st.just(PRODUCT), st.lists(st.text(), max_size=3))
)
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory, document):
    path = tmp_path_factory.getbasetemp() / "fuzz_asn.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    try:
        made = read_association(path)
    except ConfigError as error:
        assert error.faults
    else:
        assert made.members and all("/" not in member for member in made.members)


@pytest.mark.pipeline
def test_the_pipeline_reads_what_we_write(exposures, tmp_path):
    from jwst.associations.load_asn import load_asn

    made = group(exposures)[0]
    path = write_association(made, tmp_path / "asn")
    assert path.name == f"{PRODUCT}_asn.json"
    assert read_association(path) == made
    document = load_asn(path.read_text())
    assert document["asn_rule"] == "Asn_Lv3Image"
    assert [document[key] for key in ("asn_type", "program", "asn_id", "target")] == [
        "image3",
        "01345",
        "a3001",
        "t001",
    ]
    assert [row["expname"] for row in document["products"][0]["members"]] == [f"{m}_cal.fits" for m in made.members]
    before = path.read_bytes()
    assert write_association(made, tmp_path / "asn").read_bytes() == before
