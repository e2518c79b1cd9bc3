"""Associations from outside: how people write them, which files they name, and how their mosaics are called."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from observatory import write_raw
from stub_steps import FakeReferences, exposure

from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.models import Association, ListedMember
from survey.mosaics.association_files import read_association
from survey.mosaics.groups import _GROUP_NAME
from survey.names import association_id, is_free_name, plain_name
from survey.nircam import LONG, PUPIL_FILTERS, SHORT
from survey.planning.planner import Planner, plan
from survey.planning.supplied import group_of, plan_of
from survey.reduction.inputs import fetch
from survey.reduction.members import members_of

NAMES = [f"jw01345001001_02201_0000{number}_nrcb1" for number in (1, 2, 3)]
PRODUCT = "jw01345-o001_t001_nircam_clear-f200w"


def listing(members, product="my_mosaic", **changes):
    """An association as ``asn_from_list --product-name my_mosaic`` of jwst 3.0.0 writes it."""
    rows = [{"expname": item, "exptype": "science"} if isinstance(item, str) else item for item in members]
    return {
        "asn_type": "None", "asn_rule": "DMS_Level3_Base", "version_id": None, "code_version": "3.0.0",
        "degraded_status": "No known degraded exposures in association.", "program": "noprogram",
        "constraints": "No constraints", "asn_id": "a3001", "target": "none", "asn_pool": "none",
        "products": [{"name": product, "members": rows}],
    } | changes  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def writer(*members, **changes):
        path = tmp_path / "asn" / "own_asn.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(listing(members, **changes)))
        return path

    return writer


@pytest.fixture
def config(tmp_path):
    def make(**mosaic):
        return SurveyConfig(
            survey="t", program=1345, archive={"local": str(tmp_path / "archive")}, mosaic=mosaic,
            references={"server": None, "context": "jwst_0001.pmap", "cache": str(tmp_path / "crds")},
            workspace=str(tmp_path / "ws"),
        )  # fmt: skip

    return make


def tweakreg_files(folder, names=NAMES, filter_name="F200W", **keywords):
    return [
        write_raw(folder / f"{name}_tweakreg.fits", name, "NRCB1", filter_name, **keywords) and f"{name}_tweakreg.fits"
        for name in names
    ]


# --- how people write them -------------------------------------------------------------------------------------------


def test_an_association_of_asn_from_list_is_read(write):
    found = read_association(write(f"calibrated/{NAMES[1]}_tweakreg.fits", f"{NAMES[0]}_cal.fits"))
    assert (found.product, found.filter, found.field, found.program) == ("my_mosaic", "", "all", 1345)
    assert found.members == (NAMES[1], NAMES[0])
    assert [item.file for item in found.listed] == [f"calibrated/{NAMES[1]}_tweakreg.fits", f"{NAMES[0]}_cal.fits"]
    assert found.notes == ()


@pytest.mark.parametrize("suffix", ["cal", "tweakreg", "o001_crf", "a3001_crf", "cal_v2", "wisp-sub_cal", "my.cal"])
def test_a_member_can_have_any_suffix_of_a_calibrated_file(write, suffix):
    assert read_association(write(f"{NAMES[0]}_{suffix}.fits")).members == (NAMES[0],)


@pytest.mark.parametrize("suffix", ["uncal", "rate", "rateints", "ramp", "i2d", "a3001_i2d", "segm"])
def test_other_products_of_an_exposure_are_refused(write, suffix):
    with pytest.raises(ConfigError, match=f"member 1: '{NAMES[0]}_{suffix}.fits'"):
        read_association(write(f"{NAMES[0]}_{suffix}.fits"))


def test_absolute_paths_must_lead_into_the_folder(write, tmp_path):
    inside, outside = (f"{tmp_path / folder}/{NAMES[0]}_cal.fits" for folder in ("asn/cal", "cal"))
    assert read_association(write(inside)).listed[0].file == f"cal/{NAMES[0]}_cal.fits"
    for member in (outside, f"{tmp_path}/asn/../cal/{NAMES[0]}_cal.fits"):
        with pytest.raises(ConfigError, match="member 1"):
            read_association(write(member))
    assert read_association(write(outside), tmp_path / "cal").listed[0].file == f"{NAMES[0]}_cal.fits"


def test_members_that_are_not_science_are_left_out_and_named(write):
    background = {"expname": f"{NAMES[1]}_cal.fits", "exptype": "background"}
    found = read_association(write(f"{NAMES[0]}_cal.fits", background, f"{NAMES[2]}_cal.fits"))
    assert found.members == (NAMES[0], NAMES[2])
    assert len(found.notes) == 1 and f"{NAMES[1]}_cal.fits" in found.notes[0] and "background" in found.notes[0]
    with pytest.raises(ConfigError, match="exptype 'background'"):
        read_association(write(background))


def test_attributes_that_the_pipeline_does_not_read_are_named(write):
    rows = [{"expname": f"{name}_cal.fits", "exptype": "science", "exposerr": None, "weight": 2} for name in NAMES]
    found = read_association(write(*rows))
    assert found.notes == ("own_asn.json: 'weight' of 3 members is ignored: the pipeline does not read it.",)


@pytest.mark.parametrize("value", [5, "", "two words", None, ["a"], "a\n"])
def test_a_group_id_that_is_no_text_is_refused(write, value):
    with pytest.raises(ConfigError, match=rf"own_asn.json: member 1 \({NAMES[0]}\): group_id"):
        read_association(write({"expname": f"{NAMES[0]}_cal.fits", "exptype": "science", "group_id": value}))


def test_the_pool_is_kept(write):
    found = read_association(write(f"{NAMES[0]}_cal.fits", asn_pool="jw01345_20230101t000000_pool"))
    assert found.pool == "jw01345_20230101t000000_pool"
    assert read_association(write(f"{NAMES[0]}_cal.fits")).pool == ""


# --- which files they name ---------------------------------------------------------------------------------------


def test_listed_files_are_used_from_a_folder_beside_the_association(write, config, tmp_path):
    tweakreg_files(tmp_path / "asn" / "calibrated")
    path = write(*(f"calibrated/{name}_tweakreg.fits" for name in NAMES))
    found = members_of(config(), read_association(path), path.parent)
    assert [item.uri for item in found.given] == [f"{path.parent}/calibrated/{name}_tweakreg.fits" for name in NAMES]
    assert all(item.is_given and item.sha256 for item in found.given)
    assert (found.association.filter, found.notes) == ("F200W", ())


@pytest.mark.parametrize("folder", ["elsewhere", "elsewhere/calibrated"])
def test_listed_files_are_used_from_the_folder_that_the_config_names(write, config, tmp_path, folder):
    tweakreg_files(tmp_path / "elsewhere" / "calibrated")
    path = write(*(f"calibrated/{name}_tweakreg.fits" for name in NAMES))
    with pytest.raises(ConfigError, match=r"set mosaic\.calibrated"):
        members_of(config(), read_association(path), path.parent)
    found = members_of(config(calibrated=str(tmp_path / folder)), read_association(path), path.parent)
    assert [item.name for item in found.given] == NAMES


def test_a_cal_file_serves_for_a_listed_one_that_is_not_there_and_that_is_said(write, config, tmp_path):
    write_raw(tmp_path / "asn" / f"{NAMES[0]}_cal.fits", NAMES[0], "NRCB1", "F200W")
    path = write(f"calibrated/{NAMES[0]}_tweakreg.fits")
    found = members_of(config(), read_association(path), path.parent)
    assert found.given[0].uri.endswith(f"{NAMES[0]}_cal.fits")
    assert f"{NAMES[0]}_cal.fits for calibrated/{NAMES[0]}_tweakreg.fits" in found.notes[0]


def test_raw_files_of_the_workspace_come_first_and_that_is_said(write, config, tmp_path):
    write_raw(tmp_path / "archive" / f"{NAMES[0]}_uncal.fits", NAMES[0], "NRCB1", "F200W")
    fetch(config())
    tweakreg_files(tmp_path / "asn" / "calibrated", NAMES[:2])
    path = write(*(f"calibrated/{name}_tweakreg.fits" for name in NAMES[:2]))
    found = members_of(config(), read_association(path), path.parent)
    assert ([item.name for item in found.raw], [item.name for item in found.given]) == (NAMES[:1], NAMES[1:2])
    assert "1 members are made from their raw files" in found.notes[0]


def test_links_out_of_the_folder_stay_refused(write, config, tmp_path):
    tweakreg_files(tmp_path / "private", NAMES[:1])
    path = write(f"calibrated/{NAMES[0]}_tweakreg.fits")
    (path.parent / "calibrated").symlink_to(tmp_path / "private")
    with pytest.raises(ConfigError, match="is a link out of its folder"):
        members_of(config(), read_association(path), path.parent)
    assert members_of(config(calibrated=str(tmp_path / "private")), read_association(path), path.parent).given


def test_a_given_file_is_planned_whatever_its_suffix(write, config, tmp_path):
    """It is not taken for an exposure that is made from a raw file, whose references are looked up otherwise."""
    from survey.reduction.inputs import raw_files

    tweakreg_files(tmp_path / "asn")
    path = write(*(f"{name}_tweakreg.fits" for name in NAMES))
    found = members_of(config(), read_association(path), path.parent)
    assert raw_files(config().folders, found.given)[NAMES[0]] == path.parent / f"{NAMES[0]}_tweakreg.fits"
    made = plan_of(plan(config(), []), found.association, Planner(config(), FakeReferences()), found.given)
    assert made[f"given/{NAMES[0]}"].files == (f"{path.parent}/{NAMES[0]}_tweakreg.fits",)
    assert [task.subject for task in made if task.step == "align"] == ["my_mosaic"]


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my_mosaic", "CEERS-F200W_v0.5", "x", "a3001", "jw01345_ceers", "mosaic.fits+2"])
def test_free_names(name):
    assert is_free_name(name)
    assert plain_name(f"{association_id(name)}_crf.fits")
    assert association_id(name) not in ("a3001", "o001", "c1001")
    assert _GROUP_NAME.fullmatch(f"F150W2-{association_id(name)}")


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b", ".hidden", "-x", "a b", "x" * 101, "caf\u00e9", PRODUCT, f"{NAMES[0]}", f"{NAMES[0]}_mine",
     "my_mosaic_x003y012", "my_mosaic_g00001"],
)  # fmt: skip
def test_names_that_are_not_free(name):
    assert not is_free_name(name)


def test_free_names_do_not_share_the_files_of_their_exposures():
    names = [
        "my_mosaic",
        "my-mosaic",
        "My_Mosaic",
        "my.mosaic",
        "my__mosaic",
        "o001",
        "t001-epoch1",
        "x" * 60,
        "x" * 61,
    ]
    assert len({association_id(name) for name in names}) == len(names)
    assert association_id(PRODUCT) == "o001"
    assert association_id("jw01345-t005-epoch1_nircam_clear-f200w") == "t005-epoch1"


def test_a_free_name_gets_a_group_of_its_own():
    own = Association("my_mosaic", "F200W", "all", tuple(NAMES), 1345)
    assert group_of(own, {}) == f"F200W-{association_id('my_mosaic')}"  # F200W is the config's own mosaic
    assert group_of(replace(own, product=PRODUCT), {}) == "F200W"


# --- filters ---------------------------------------------------------------------------------------------------------

PAIRS = [
    ("F150W2", "F162M"), ("F150W2", "F164N"), ("F322W2", "F323N"), ("F444W", "F405N"), ("F444W", "F466N"),
    ("F444W", "F470N"), ("F200W", "CLEAR"), ("F460M", "CLEAR"), ("F150W2", "CLEAR"),
]  # fmt: skip


@pytest.mark.parametrize(("wheel", "pupil"), PAIRS)
@pytest.mark.parametrize("product", ["my_mosaic", None])
def test_every_pair_has_one_filter(write, config, tmp_path, wheel, pupil, product):
    """The element that defines the passband: in the association, its tasks, zarr group, records and tables."""
    name = f"jw01345001001_02201_00001_{'nrcb1' if wheel in SHORT.filters else 'nrcblong'}"
    detector = name.rpartition("_")[2].upper()
    file = tmp_path / "asn" / f"{name}_cal.fits"
    write_raw(file, name, detector, wheel, PUPIL=pupil)
    filter_name = wheel if pupil == "CLEAR" else pupil
    assert (pupil in PUPIL_FILTERS) == (pupil != "CLEAR") and filter_name in (*SHORT.filters, *LONG.filters)
    elements = "-".join(sorted((wheel.lower(), pupil.lower())))
    path = write(file.name, product=product or f"jw01345-o001_t001_nircam_{elements}")
    listed = read_association(path)
    assert listed.filter == ("" if product else filter_name)
    found = members_of(config(), listed, path.parent)
    assert (found.association.filter, found.given[0].filter) == (filter_name, filter_name)
    group = group_of(found.association, {})
    assert group.split("-")[0] == filter_name
    association = replace(found.association, group=group)
    for engine in ("tiled", "stock"):
        planner = Planner(config(engine=engine), FakeReferences())
        made = plan_of(plan(config(engine=engine), []), association, planner, found.given)
        assert {task.filter for task in made} == {filter_name}
        own = plan(config(engine=engine), [replace(found.given[0], uri="")])
        assert {item.filter for item in own.associations} == {filter_name}


def test_a_product_that_contradicts_its_members_is_refused(write, config, tmp_path):
    write_raw(tmp_path / "asn" / "jw01345001001_02201_00001_nrcblong_cal.fits",
              "jw01345001001_02201_00001_nrcblong", "NRCBLONG", "F444W", PUPIL="F470N")  # fmt: skip
    for product, cause in (
        ("jw01345-o001_t001_nircam_clear-f444w", "has filter F470N with F444W, the product clear-f444w"),
        ("jw01345-o001_t001_nircam_f444w-f466n", "has filter F470N with F444W, the product f444w-f466n"),
        ("jw02750-o001_t001_nircam_f444w-f470n", "all 1 members are of another program than 2750"),
    ):
        path = write("jw01345001001_02201_00001_nrcblong_cal.fits", product=product)
        with pytest.raises(ConfigError, match=cause):
            members_of(config(), read_association(path), path.parent)


def test_a_free_name_holds_one_filter(write, config, tmp_path):
    tweakreg_files(tmp_path / "asn", NAMES[:1])
    tweakreg_files(tmp_path / "asn", NAMES[1:2], "F150W2", PUPIL="F162M")
    path = write(*(f"{name}_tweakreg.fits" for name in NAMES[:2]))
    with pytest.raises(ConfigError, match=f"my_mosaic: its members have 2 filters .*f150w2-f162m: {NAMES[1]}"):
        members_of(config(), read_association(path), path.parent)


def test_a_free_name_can_hold_several_programs(write, config, tmp_path):
    names = [NAMES[0], NAMES[0].replace("01345", "02750")]
    tweakreg_files(tmp_path / "asn", names)
    path = write(*(f"{name}_tweakreg.fits" for name in names))
    assert [item.program for item in members_of(config(), read_association(path), path.parent).given] == [1345, 2750]


# --- attributes of members -------------------------------------------------------------------------------------------


def test_catalogues_are_taken_if_the_config_asks_for_them(write, config, tmp_path):
    tweakreg_files(tmp_path / "asn", NAMES[:1])
    row = {"expname": f"{NAMES[0]}_tweakreg.fits", "exptype": "science", "tweakreg_catalog": "mine.ecsv"}
    path = write(row, asn_pool="/data/pools/jw01345_pool.csv")  # a path there is not a file that the pipeline reads
    found = members_of(config(), read_association(path), path.parent)
    assert found.association.catalogs == {}
    assert found.notes == ("tweakreg_catalog of 1 members is not used: "
                           "mosaic.image3.tweakreg.use_custom_catalogs is not true.",)  # fmt: skip
    asked = config(image3={"tweakreg": {"use_custom_catalogs": True}})
    with pytest.raises(ConfigError, match=f"member {NAMES[0]}: its tweakreg_catalog mine.ecsv is not a file"):
        members_of(asked, read_association(path), path.parent)
    (tmp_path / "asn" / "mine.ecsv").write_text("one")
    digests = []
    for text in ("one", "two"):
        (tmp_path / "asn" / "mine.ecsv").write_text(text)
        found = members_of(asked, read_association(path), path.parent)
        assert found.association.catalogs[NAMES[0]][0] == str(tmp_path / "asn" / "mine.ecsv")
        made = plan_of(plan(asked, []), found.association, Planner(asked, FakeReferences()), found.given)
        digests.append(made["association/my_mosaic"].digest)
    assert all(digests) and digests[0] != digests[1]


@pytest.mark.parametrize("file", ["../mine.ecsv", "/etc/passwd"])
def test_catalogues_outside_of_the_folder_are_refused(write, config, tmp_path, file):
    tweakreg_files(tmp_path / "asn", NAMES[:1])
    (tmp_path / "mine.ecsv").write_text("one")
    path = write({"expname": f"{NAMES[0]}_tweakreg.fits", "exptype": "science", "tweakreg_catalog": file})
    with pytest.raises(ConfigError, match="is not a file in the association's folder"):
        members_of(config(image3={"tweakreg": {"use_custom_catalogs": True}}), read_association(path), path.parent)


@pytest.mark.parametrize("engine", ["tiled", "stock"])
def test_groups_are_in_the_plan_and_in_its_digests(engine):
    side = 320 * 0.031 / 3600
    corners = ((214.8, 52.8), (214.8 + side, 52.8), (214.8 + side, 52.8 + side), (214.8, 52.8 + side))
    exposures = [replace(exposure(number), footprint=corners) for number in (1, 2, 3)]
    names = tuple(item.name for item in exposures)
    config = SurveyConfig(
        survey="t", program=1345, workspace="/nowhere", mosaic={"engine": engine, "tile": 256},
        references={"context": "jwst_0001.pmap", "cache": "/nowhere/crds"},
    )  # fmt: skip
    product = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
    plain = Association(product, "F200W", "all", names, 1345, "F200W")
    rows = [ListedMember(name, f"{name}_cal.fits", group) for name, group in zip(names, ("a", "a", ""), strict=True)]
    made = {}
    for key, association in (("plain", plain), ("grouped", replace(plain, listed=tuple(rows)))):
        made[key] = plan_of(
            plan(config, exposures, FakeReferences()), association, Planner(config, FakeReferences()), ()
        )
    one, other = (made[key][f"association/{product}"] for key in ("plain", "grouped"))
    assert "group_ids" not in one.settings
    assert other.settings["group_ids"] == {names[0]: "a", names[1]: "a"}
    assert one.digest != other.digest
    groups = [sum(task.step == "outlier_i2d" for task in made[key]) for key in ("plain", "grouped")]
    assert groups == ([3, 2] if engine == "tiled" else [0, 0])
