"""Queries by the unmodified astroquery client against the simulated archive."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from observatory import CORNERS, make_observatory

from survey.archive.query import find_exposures, find_program
from survey.archive.rows import footprint, footprints, read_parent, read_product, whole
from survey.errors import AccessRefusedError, ServiceUnreachableError, SurveyError
from survey.models import Exposure
from survey.nircam import passband
from survey.simulate.faults import Fault
from survey.simulate.server import serve

pytestmark = pytest.mark.slow  # a server whose faults take their time


@pytest.fixture(scope="module")
def observatory(tmp_path_factory):
    return make_observatory(tmp_path_factory.mktemp("observatory"))


@pytest.fixture(scope="module", autouse=True)
def imported():
    """astroquery takes seconds to import; limits below are shorter."""
    import astroquery.mast  # noqa: F401


@pytest.fixture
def server(observatory):
    with serve(observatory, page_size=20) as running:
        yield running


def test_every_exposure_once_from_level_3_rows_on_many_pages(server):
    found = find_exposures(1345, server=server.url)
    assert [item.name for item in found] == sorted(server.archive.exposures)
    for item in found:
        row = server.archive.exposures[item.name]
        assert (item.detector, item.filter, item.pupil) == (row["detector"], row["filter"], "CLEAR")
        assert (item.program, item.observation, item.visit) == (1345, row["observation"], 1)
        assert item.subarray == "SUB320" and item.uri == f"mast:JWST/product/{item.file}"
        assert item.size in (None, row["size"]) and item.start_mjd is None and item.footprint is None
    assert any(item.size is None for item in found) and any(item.size for item in found)
    invoked = [item for item in server.requests if item.path == "/api/v0/invoke"]
    assert len(invoked) > 3  # pages


def test_rows_per_exposure_bring_time_and_footprint(observatory):
    with serve(observatory, per_exposure=True) as server:
        found = find_exposures(1345, server=server.url)
    assert [item.name for item in found] == sorted(server.archive.exposures)
    for item in found:
        assert item.start_mjd == server.archive.exposures[item.name]["start_mjd"] and item.footprint == CORNERS
        assert item.subarray == "SUB320"  # of the level-3 row


def test_rows_per_exposure_alone(observatory):
    with serve(observatory, per_exposure=True) as server:
        server.archive.observations = [row for row in server.archive.observations if row["calib_level"] == 2]
        found = find_exposures(1345, server=server.url)
    assert [item.name for item in found] == sorted(server.archive.exposures)
    assert {item.filter for item in found} == {"F200W", "F444W"}


def test_c1000_rows_alone(server):
    server.archive.observations = [row for row in server.archive.observations if "-c1000" in row["obs_id"]]
    assert [item.name for item in find_exposures(1345, server=server.url)] == sorted(server.archive.exposures)


def test_observations_and_filters_are_chosen_and_other_lists_not_asked(server):
    found = find_exposures(1345, server=server.url, observations=[2], filters=["f444w"])
    assert {(item.observation, item.filter, item.detector) for item in found} == {(2, "F444W", "NRCBLONG")}
    assert len(found) == 3


def test_two_servers_in_one_process(server, tmp_path):
    other = make_observatory(tmp_path, program=2561, observations=(1,), exposures=1)
    with serve(other) as second:
        assert len(find_exposures(2561, server=second.url)) == 3
        assert len(find_exposures(1345, server=server.url + "/")) == 27
        with pytest.raises(SurveyError, match="2561"):
            find_exposures(2561, server=server.url)


def test_nothing_fits_says_what_there_is(server):
    with pytest.raises(SurveyError, match=r"F115W.*F200W, F444W.*1, 2, 3") as caught:
        find_exposures(1345, server=server.url, filters=["F115W"])
    assert caught.value.exit_code == 1
    with pytest.raises(SurveyError, match="program 999"):
        find_exposures(999, server=server.url)


def test_executing_is_waited_for(observatory):
    with serve(observatory, executing=1) as server:
        assert len(find_exposures(1345, server=server.url)) == 27


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "silence", "seconds": 60},
        {"kind": "drip", "seconds": 0.1, "bytes": 1},
        {"kind": "drip_headers", "seconds": 0.1},
        {"kind": "executing"},
        {"kind": "error", "status": 500},
        {"kind": "error", "status": 404},
        {"kind": "html"},
        {"kind": "reset"},
        {"kind": "short", "bytes": 100},
        {"kind": "portal_error"},
    ],
    ids=lambda fault: " ".join(map(str, fault.values())),
)
def test_server_that_does_not_answer_is_given_up(server, fault):
    server.faults.add(Fault(match="POST .*Mast.Caom.Products", **fault))
    start = time.monotonic()
    with pytest.raises(ServiceUnreachableError, match=server.url) as caught:
        find_exposures(1345, server=server.url, timeout_seconds=0.5, retries=1)
    assert time.monotonic() - start < 15 and caught.value.exit_code == 3


@pytest.mark.parametrize("where", ["columnsconfig", "Mast.Caom.Filtered"])
@pytest.mark.parametrize("kind", ["silence", "html"])
def test_server_that_does_not_answer_earlier(server, where, kind):
    server.faults.add(Fault(kind=kind, match=f"POST .*{where}"))
    with pytest.raises(ServiceUnreachableError, match=server.url):
        find_exposures(1345, server=server.url, timeout_seconds=0.5)


@pytest.mark.parametrize("kind", ["error", "reset", "short"])
def test_fault_that_passes_is_retried(server, kind):
    server.faults.add(Fault(kind=kind, match="Mast.Caom", times=1))
    assert len(find_exposures(1345, server=server.url)) == 27


# Of a limit of 3 s, an attempt has 1 s.
ONCE = [
    {"kind": "silence", "seconds": 60},
    {"kind": "delay", "seconds": 2},
    {"kind": "drip", "seconds": 0.1, "bytes": 1},
    {"kind": "drip_headers", "seconds": 0.1},
    {"kind": "error", "status": 502},
    {"kind": "error", "status": 408},
    {"kind": "reset"},
    {"kind": "reset", "bytes": 2},
    {"kind": "short", "bytes": 2},
    {"kind": "unsized", "bytes": 2},
    {"kind": "wrong_length", "bytes": 100},
    {"kind": "html"},
]


@pytest.mark.parametrize("where", ["columnsconfig", "Mast.Caom.Filtered", "Mast.Caom.Products"])
@pytest.mark.parametrize("fault", ONCE, ids=lambda fault: " ".join(map(str, fault.values())))
def test_one_fault_of_each_request_is_survived(server, where, fault):
    server.faults.add(Fault(match=f"POST .*{where}", times=1, **fault))
    assert len(find_exposures(1345, server=server.url, timeout_seconds=3.0)) == 27


@pytest.mark.parametrize("fault", ONCE, ids=lambda fault: " ".join(map(str, fault.values())))
def test_one_fault_of_a_poll_is_survived(server, fault):
    """The query is EXECUTING, and the request that asks how it goes fails."""
    server.faults.add(Fault(match="Mast.Caom.Filtered", times=1, kind="executing"))
    server.faults.add(Fault(match="Mast.Caom.Filtered", times=1, **fault))
    assert len(find_exposures(1345, server=server.url, timeout_seconds=3.0)) == 27


def test_one_silence_of_every_request_is_survived(server):
    """Each complete reply starts the limit anew: five silences last longer than one limit."""
    for where in ("columnsconfig", "Mast.Caom.Filtered", "Mast.Caom.Filtered", "Products.*", "Products"):
        server.faults.add(Fault(match=f"POST .*{where}", times=1, kind="silence", seconds=60))
    start = time.monotonic()
    assert len(find_exposures(1345, server=server.url, timeout_seconds=2.4)) == 27
    assert time.monotonic() - start > 3.0


def test_server_that_is_always_late_is_waited_for(server):
    """Each answer takes two of the three shares of an attempt."""
    server.faults.add(Fault(match="Mast.Caom.Filtered", kind="delay", seconds=1.6))
    assert len(find_exposures(1345, server=server.url, timeout_seconds=2.4, observations=[1])) == 9


@pytest.mark.parametrize("status", [401, 403])
def test_refused(server, status):
    server.faults.add(Fault(kind="error", status=status))
    with pytest.raises(AccessRefusedError):
        find_exposures(1345, server=server.url)


def test_no_server():
    with pytest.raises(ServiceUnreachableError, match="cannot be reached"):
        find_exposures(1345, server="http://127.0.0.1:9", retries=0)


def test_server_that_never_reaches_its_last_page(server, monkeypatch):
    monkeypatch.setattr("survey.archive.client.MAX_PAGES", 20)
    answer = server.invoke

    def endless(request):
        reply = answer(request)
        return reply | {"paging": {"page": 1, "pagesFiltered": 2}}

    monkeypatch.setattr(server, "invoke", endless)
    with pytest.raises(ServiceUnreachableError, match="pages"):
        find_exposures(1345, server=server.url)


@pytest.mark.parametrize("reply", [[], {}, {"status": "COMPLETE"}, {"status": "COMPLETE", "data": [1, None, {}]},
                                   {"status": "COMPLETE", "data": [], "paging": {}}])  # fmt: skip
def test_replies_of_another_form(server, monkeypatch, reply):
    monkeypatch.setattr(server, "invoke", lambda request: reply)
    with pytest.raises(SurveyError):
        find_exposures(1345, server=server.url, retries=0)


ODD = [None, "", "x", -1, 10**30, 1.5, True, [], {}, "../../etc/passwd", "NaN", "jw\u0661", "a\0b"]


@pytest.mark.parametrize("column", ["obs_id", "obsid", "instrument_name", "filters", "calib_level", "s_region", "t_min",
                                    "proposal_id"])  # fmt: skip
def test_odd_observation_rows_are_left_out_or_read(server, column):
    good = next(row for row in server.archive.observations if row["obs_id"].startswith("jw01345-o001"))
    read_parent({}, 1345)
    read_parent({key: value for key, value in good.items() if key != column}, 1345)
    for value in ODD:
        parent = read_parent(good | {column: value}, 1345)
        assert parent is None or str(parent.name) == good["obs_id"]


@pytest.mark.parametrize(
    ("name", "observation"),
    [("jw01345-o001_t005-epoch1_nircam_clear-f200w", 1), ("jw01345-c1001_t005-epoch12_nircam_clear-f200w", None),
     ("jw01345-t005-epoch1_nircam_clear-f200w", None)],
)  # fmt: skip
def test_rows_of_one_epoch_are_read(server, name, observation):
    row = next(row for row in server.archive.observations if row["obs_id"].startswith("jw01345-o001"))
    parent = read_parent(row | {"obs_id": name}, 1345)
    assert (str(parent.name), parent.observation, parent.filter) == (name, observation, "F200W")


@pytest.mark.parametrize("column", ["dataURI", "productType", "productSubGroupDescription", "size", "calib_level"])
def test_odd_product_rows_are_left_out_or_read(server, column):
    row = next(row for row in server.archive.observations if row["obs_id"].startswith("jw01345-o001"))
    parent = read_parent(row, 1345)
    good = next(row for row in server.archive.products[row["obsid"]] if row["dataURI"].endswith("_uncal.fits"))
    read_product({}, parent, 1345)
    for value in ODD:
        exposure = read_product(good | {column: value}, parent, 1345)
        assert exposure is None or (isinstance(exposure, Exposure) and "/" not in exposure.name)
    size = read_product(good | {"size": "14400"}, parent, 1345).size
    assert size == 14400


def test_odd_rows_through_the_client(server):
    server.faults.add(Fault(kind="row", match="nrcb1_uncal", columns={"dataURI": "mast:JWST/product/../../nrcb1.fits"}))
    server.faults.add(Fault(kind="row", match="nrcb2_uncal", columns={"size": "many", "parent_obsid": None}))
    found = find_exposures(1345, server=server.url, filters=["F200W"])
    assert {item.detector for item in found} == {"NRCB2"} and {item.size for item in found} == {None}


def test_long_wave_exposure_listed_under_a_short_wave_row_is_not_its_member(server):
    short = next(row for row in server.archive.observations if "o001" in row["obs_id"] and "f200w" in row["obs_id"])
    long = next(row for row in server.archive.observations if "o001" in row["obs_id"] and "f444w" in row["obs_id"])
    strays = [row | {"parent_obsid": short["obsid"]} for row in server.archive.products[long["obsid"]]]
    server.archive.products[short["obsid"]] += strays
    found = {item.name: item.filter for item in find_exposures(1345, server=server.url)}
    assert found == {name: row["filter"] for name, row in server.archive.exposures.items()}


def test_passbands():
    assert passband(["clear", "f200w"]) == ("F200W", "CLEAR")
    assert passband(["F444W"]) == ("F444W", "CLEAR")
    assert passband(["f150w2", "f162m"]) == ("F162M", "F150W2")
    assert passband(["f405n", "f444w"]) == ("F405N", "F444W")
    for pair in (["f444w", "grismr"], ["clear"], [], ["f200w", "f150w"], ["maskrnd", "f335m"], ["x"]):
        assert passband(pair) is None


def test_rows_of_mosaics_bring_outlines_but_no_footprints(observatory):
    with serve(observatory) as server:
        found = find_program(1345, server=server.url, filters=["F444W"])
    assert {item.footprint for item in found.exposures} == {None}
    assert {(item.filter, item.observation) for item in found.outlines} == {("F444W", 1), ("F444W", 2), ("F444W", 3)}
    for item in found.outlines:
        assert len(item.corners) == 4
        for corner in CORNERS:
            assert min(abs(ra - corner[0]) + abs(dec - corner[1]) for ra, dec in item.corners) < 1e-8


def test_a_region_of_several_polygons():
    triangle, other = "POLYGON ICRS 1 2 3 4 5 6", "polygon 7 8 9 10 11 12"
    assert footprints(f"{triangle} {other}") == (((1, 2), (3, 4), (5, 6)), ((7, 8), (9, 10), (11, 12)))
    assert footprints(triangle) == (footprint(triangle),)
    assert footprint(f"{triangle} {other}") is None
    for region in (None, "", "CIRCLE 1 2 3", "POLYGON 1 2 x"):
        assert footprints(region) == ()


def test_footprints():
    assert footprint("POLYGON ICRS 1 2 3 4 5 6") == ((1, 2), (3, 4), (5, 6))
    assert footprint("POLYGON 1 2 3 4 5 6 1 2") == ((1, 2), (3, 4), (5, 6))
    for region in (
        None,
        "",
        "CIRCLE ICRS 1 2 3",
        "POLYGON ICRS 1 2 3 4 5",
        "POLYGON 1 nan 3 4 5 6",
        "POLYGON 1 99 3 4 5 6",
    ):
        assert footprint(region) is None


def test_whole_numbers():
    assert [whole(value) for value in (42, 42.0, "42", " 42 ", "42.0")] == [42] * 5
    assert [whole(value) for value in (None, True, "4x", 4.5, "nan", "1" * 40)] == [None] * 6


def test_no_token_leaves_this_machine_with_a_query(server, monkeypatch):
    monkeypatch.setenv("MAST_API_TOKEN", "secret-token")
    find_exposures(1345, server=server.url)
    assert "secret" not in json.dumps(server.requests)


@pytest.mark.slow
def test_program_of_13000_exposures(tmp_path):
    (tmp_path / "raw").mkdir()
    rows = []
    for observation in range(1, 53):
        for number in range(1, 26):
            for detector in (
                "nrca1",
                "nrca2",
                "nrca3",
                "nrca4",
                "nrcalong",
                "nrcb1",
                "nrcb2",
                "nrcb3",
                "nrcb4",
                "nrcblong",
            ):
                name = f"jw01345{observation:03d}001_02101_{number:05d}_{detector}"
                filter_name = "F444W" if detector.endswith("long") else "F200W"
                rows.append({"name": name, "program": 1345, "observation": observation, "detector": detector.upper(),
                             "filter": filter_name, "size": 75_000_000})  # fmt: skip
    (tmp_path / "exposures.json").write_text(json.dumps(rows))
    with serve(tmp_path, page_size=None) as server:
        start = time.monotonic()
        assert len(find_exposures(1345, server=server.url)) == 13000
        assert time.monotonic() - start < 15  # with the server on the same two cores; measured 3 s


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "html"},
        {"kind": "unsized", "bytes": 500},
        {"kind": "portal_error"},
        {"kind": "empty"},
        {"kind": "error", "status": 429, "retry_after": "0"},
        {"kind": "gzip"},
    ],
    ids=lambda fault: fault["kind"],
)
def test_reply_that_is_none_is_asked_for_again(server, fault):
    """A page, JSON that ends in the middle without any length, the portal's ERROR, nothing at all, packed bytes."""
    server.faults.add(Fault(match="Mast.Caom.Products", times=1, **fault))
    assert len(find_exposures(1345, server=server.url)) == 27


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_query_comes_back_when_the_server_asks(server, form):
    asked = "2" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    server.faults.add(Fault(kind="error", status=429, retry_after=asked, match="Mast.Caom.Filtered", times=1))
    start = time.monotonic()
    assert len(find_exposures(1345, server=server.url)) == 27
    assert time.monotonic() - start >= 1.9  # a date has whole seconds: at least 2 of 3


def test_query_waits_no_longer_than_its_limit(server):
    server.faults.add(Fault(kind="error", status=429, retry_after="3600", match="Mast.Caom.Filtered"))
    start = time.monotonic()
    with pytest.raises(ServiceUnreachableError, match="HTTP 429"):
        find_exposures(1345, server=server.url, timeout_seconds=1.0)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("kind", ["unsized", "empty"])
def test_reply_that_never_comes_whole_is_given_up(server, kind):
    server.faults.add(Fault(kind=kind, bytes=300, match="Mast.Caom.Products"))
    with pytest.raises(ServiceUnreachableError, match=r"truncated or damaged|answered with a page"):
        find_exposures(1345, server=server.url, timeout_seconds=5, retries=1)


def test_packed_reply_is_unpacked_no_further_than_its_limit(server):
    """4 MB of gzip that hold 4 GB, in a process that may not have them."""
    server.faults.add(Fault(kind="bomb", bytes=4 << 30, match="Mast.Caom.Filtered"))
    script = (
        "import resource, sys\n"
        "import astroquery.mast\n"
        "from survey.archive.query import find_exposures\n"
        "from survey.errors import ServiceUnreachableError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    find_exposures(1345, server=sys.argv[1], retries=0)\n"
        "except ServiceUnreachableError as error:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, server.url], capture_output=True, text=True, timeout=120)
    assert "holds more than 268435456 bytes" in done.stdout, done.stderr
    assert int(done.stdout.split()[0]) < 600_000  # kB; the limit, once
