"""The fetcher against a server that has every fault there is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from astropy.io import fits
from observatory import make_observatory

from survey.archive.download import Part
from survey.archive.fetch import DOWNLOAD_PATH, FetchSettings, fetch
from survey.archive.headers import DamagedFileError
from survey.archive.ledger import LEDGER, Ledger
from survey.archive.local import find_exposures as find_local
from survey.archive.query import find_exposures
from survey.archive.raw import link_local
from survey.archive.structure import check_structure
from survey.digest import file_sha256
from survey.errors import (
    AccessRefusedError,
    ConfigError,
    DiskFullError,
    DownloadError,
    ProductNameError,
    ServiceUnreachableError,
)
from survey.models import Exposure
from survey.simulate.faults import Fault
from survey.simulate.server import serve

pytestmark = pytest.mark.slow  # a server whose faults take their time

# Everything small, so that giving up takes a second; 20 kB/s is far below loopback and far above the drips here.
QUICK = FetchSettings(downloads=2, retries=2, timeout_seconds=2.0, min_bytes_per_second=20_000, backoff_seconds=0.01)
# For servers that never recover.
HASTY = FetchSettings(downloads=2, retries=2, timeout_seconds=0.9, min_bytes_per_second=20_000, backoff_seconds=0.01)
ONE = "jw01345001001_02101_00001_nrcb1"


@pytest.fixture(scope="module")
def observatory(tmp_path_factory):
    return make_observatory(tmp_path_factory.mktemp("observatory"), observations=(1, 3), exposures=2)


@pytest.fixture
def own_observatory(tmp_path_factory):
    """One that a test may damage."""
    return make_observatory(tmp_path_factory.mktemp("own"), observations=(1,), exposures=1)


@pytest.fixture
def server(observatory):
    with serve(observatory, page_size=None) as running:
        yield running


def rows(server, **changes):
    """Exposures without the archive's query, one per public raw file."""
    found = [row for row in server.archive.exposures.values() if not row["proprietary"]]
    return [exposure(row, **changes) for row in found]


def exposure(row, **changes):
    values = {key: row[key] for key in ("name", "program", "observation", "visit", "detector", "filter", "size")}
    return Exposure(**values | {"uri": f"mast:JWST/product/{row['name']}_uncal.fits"} | changes)


def assert_whole(report, exposures, directory, observatory):
    assert report.error is None
    assert [item.name for item in report.exposures] == [item.name for item in exposures]
    for item in report.exposures:
        assert (directory / item.file).read_bytes() == (observatory / "raw" / item.file).read_bytes()
        assert item.sha256 == file_sha256(observatory / "raw" / item.file)
    assert sorted(path.name for path in directory.iterdir()) == sorted([LEDGER, *(item.file for item in exposures)])


def test_fetches_what_the_query_found_and_reads_the_headers(server, observatory, tmp_path):
    found = [item for item in find_exposures(1345, server=server.url) if item.observation == 1]
    seen = []
    report = fetch(found, tmp_path / "raw", server=server.url, settings=QUICK, progress=lambda *args: seen.append(args))
    assert_whole(report, found, tmp_path / "raw", observatory)
    first = report.exposures[0]
    assert (first.groups, first.integrations, first.subarray, first.filter) == (3, 1, "SUB320", "F200W")
    assert first.footprint is not None and len(first.footprint) == 4
    assert report.bytes == sum(item.size for item in report.exposures)
    assert (first.name, first.size, first.size) in seen


def test_second_fetch_asks_for_nothing(server, tmp_path):
    found = rows(server)
    fetch(found, tmp_path, server=server.url, settings=QUICK)
    before = len(server.requests)
    again = fetch(found, tmp_path, server=server.url, settings=QUICK)
    assert again.error is None and again.fetched == () and len(server.requests) == before
    assert all(item.sha256 for item in again.exposures)


@pytest.mark.parametrize("damage", ["truncate", "change", "remove"])
def test_damaged_file_is_fetched_again(server, observatory, tmp_path, damage):
    found = rows(server)
    fetch(found, tmp_path, server=server.url, settings=QUICK)
    path = tmp_path / f"{ONE}_uncal.fits"
    if damage == "truncate":
        os.truncate(path, 2880)
    elif damage == "change":
        data = bytearray(path.read_bytes())
        data[-3000] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    report = fetch(found, tmp_path, server=server.url, settings=QUICK)
    assert report.fetched == (ONE,)
    assert_whole(report, found, tmp_path, observatory)


def test_touched_file_is_hashed_and_kept(server, tmp_path):
    found = rows(server)
    fetch(found, tmp_path, server=server.url, settings=QUICK)
    os.utime(tmp_path / f"{ONE}_uncal.fits")
    lines = len((tmp_path / LEDGER).read_text().splitlines())
    assert fetch(found, tmp_path, server=server.url, settings=QUICK).fetched == ()
    assert len((tmp_path / LEDGER).read_text().splitlines()) == lines + 1


def test_file_without_ledger_line_is_adopted_only_when_whole(server, observatory, tmp_path):
    found = rows(server)
    for item in found[:2]:
        shutil.copy(observatory / "raw" / item.file, tmp_path / item.file)
    os.truncate(tmp_path / found[1].file, 2880 * 2)
    report = fetch(found, tmp_path, server=server.url, settings=QUICK)
    assert found[0].name not in report.fetched and found[1].name in report.fetched
    assert_whole(report, found, tmp_path, observatory)


def test_torn_ledger_line_is_ignored(server, observatory, tmp_path):
    found = rows(server)
    fetch(found, tmp_path, server=server.url, settings=QUICK)
    with (tmp_path / LEDGER).open("a") as stream:
        stream.write('{"name": "jw0134')
    (tmp_path / found[0].file).unlink()
    assert fetch(found, tmp_path, server=server.url, settings=QUICK).fetched == (found[0].name,)
    assert len(Ledger(tmp_path / LEDGER)) == len(found)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "status": 500},
        {"kind": "error", "status": 503, "retry_after": "0"},
        {"kind": "error", "status": 429, "retry_after": "1"},
        {"kind": "delay", "seconds": 0.1},
        {"kind": "silence", "seconds": 60},
        {"kind": "drip", "seconds": 0.05, "bytes": 10},
        {"kind": "drip_headers", "seconds": 0.2},
        {"kind": "delay", "seconds": 1.0},
        {"kind": "error", "status": 502},
        {"kind": "reset"},
        {"kind": "reset", "bytes": 5000},
        {"kind": "short", "bytes": 5000},
        {"kind": "wrong_length", "bytes": 100},
        {"kind": "wrong_length", "bytes": -100},
        {"kind": "corrupt", "bytes": 0},
        {"kind": "html"},
        {"kind": "empty"},
        {"kind": "unsized", "bytes": 5000},
        {"kind": "bomb", "bytes": 1 << 26},
        {"kind": "error", "status": 408},
    ],
    ids=lambda fault: " ".join(map(str, fault.values())),
)
def test_fault_that_passes_is_retried(server, observatory, tmp_path, fault):
    found = rows(server)
    server.faults.add(Fault(match=f"GET .*{ONE}", times=1, **fault))
    report = fetch(found, tmp_path, server=server.url, settings=QUICK)
    assert_whole(report, found, tmp_path, observatory)
    assert len(server.downloads(found[-1].name)) == 1


@pytest.mark.parametrize(
    "fault",
    [{"kind": "reset", "bytes": 5000}, {"kind": "short", "bytes": 5000}, {"kind": "wrong_length", "bytes": 100},
     {"kind": "wrong_length", "bytes": -100}, {"kind": "corrupt", "bytes": 0}, {"kind": "empty"},
     {"kind": "unsized", "bytes": 5000}],
    ids=lambda fault: " ".join(map(str, fault.values())),
)  # fmt: skip
def test_fault_that_passes_is_seen_without_a_size_in_the_row(server, observatory, tmp_path, fault):
    found = rows(server, size=None)
    server.faults.add(Fault(match=f"GET .*{ONE}", times=1, **fault))
    assert_whole(fetch(found, tmp_path, server=server.url, settings=QUICK), found, tmp_path, observatory)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "status": 500},
        {"kind": "error", "status": 404},
        {"kind": "error", "status": 429, "retry_after": "0"},
        {"kind": "silence", "seconds": 60},
        {"kind": "drip", "seconds": 0.05, "bytes": 10},
        {"kind": "drip_headers", "seconds": 0.2},
        {"kind": "short", "bytes": 0},
        {"kind": "wrong_length", "bytes": -100},
        {"kind": "corrupt", "bytes": 100},
        {"kind": "html"},
        {"kind": "empty"},
        {"kind": "unsized", "bytes": 0},
        {"kind": "bomb", "bytes": 1 << 26},
        {"kind": "error", "status": 429, "retry_after": "3600"},
    ],
    ids=lambda fault: " ".join(map(str, fault.values())),
)
def test_file_that_cannot_be_had_is_named_and_the_others_kept(server, tmp_path, fault):
    found = rows(server)
    server.faults.add(Fault(match=f"GET .*{ONE}", **fault))
    start = time.monotonic()
    report = fetch(found, tmp_path, server=server.url, settings=HASTY)
    assert time.monotonic() - start < 15
    assert set(report.missing) == {ONE} and isinstance(report.error, DownloadError) and ONE in str(report.error)
    assert [item.name for item in report.exposures] == [item.name for item in found if item.name != ONE]
    assert not (tmp_path / f"{ONE}_uncal.fits").exists()


@pytest.mark.parametrize("size", ["of the row", None])
def test_body_that_a_proxy_packed_is_unpacked(server, observatory, tmp_path, size):
    found = rows(server) if size else rows(server, size=None)
    server.faults.add(Fault(kind="gzip", match="GET "))
    part = Part(tmp_path, found[0].file)
    part.start("")
    part.path.write_bytes(b"x" * 5000)  # a resume that is answered with a packed body starts again
    assert_whole(fetch(found, tmp_path, server=server.url, settings=QUICK), found, tmp_path, observatory)


def test_packed_body_is_unpacked_no_further_than_its_size(server, tmp_path):
    """1 GB of zeros in 1 MB: no more than the row's size, or the largest file that there is, reaches the disk."""
    server.faults.add(Fault(kind="bomb", bytes=1 << 30, match="GET "))
    largest, one = 0, exposure(server.archive.exposures[ONE])

    def watch(name, done, total):
        nonlocal largest
        largest = max(largest, done)

    report = fetch([one], tmp_path, server=server.url, settings=HASTY, progress=watch)
    assert f"more than {one.size} bytes came" in report.missing[one.name]
    assert largest <= one.size
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept(server, observatory, tmp_path, form):
    found = rows(server)
    asked = "2" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    server.faults.add(Fault(kind="error", status=429, retry_after=asked, match="GET ", times=1))
    settings = FetchSettings(downloads=1, retries=1, timeout_seconds=10, backoff_seconds=0.01)
    start = time.monotonic()
    assert_whole(fetch(found, tmp_path, server=server.url, settings=settings), found, tmp_path, observatory)
    assert time.monotonic() - start >= 1.9  # a date has whole seconds: at least 2 of 3


def test_retry_after_is_kept_within_the_limit_alone(server, observatory, tmp_path):
    """A server that asks for an hour is asked again at the limit: once it may have changed its mind, then never."""
    found = rows(server)
    server.faults.add(Fault(kind="error", status=429, retry_after="3600", match="GET ", times=1))
    start = time.monotonic()
    assert_whole(fetch(found, tmp_path / "a", server=server.url, settings=QUICK), found, tmp_path / "a", observatory)
    assert 1.9 <= time.monotonic() - start < 6
    server.faults.add(Fault(kind="error", status=429, retry_after="3600", match="GET "))
    start = time.monotonic()
    with pytest.raises(ServiceUnreachableError, match="HTTP 429"):
        fetch(found, tmp_path / "b", server=server.url, settings=QUICK)
    assert time.monotonic() - start < 6


def test_everything_refused_is_named(server, tmp_path):
    every = [exposure(row) for row in server.archive.exposures.values()]
    server.faults.add(Fault(kind="error", status=404, match=f"GET .*{ONE}"))
    report = fetch(every, tmp_path, server=server.url, settings=QUICK)
    closed = [item.name for item in every if item.observation == 3]
    assert all(name in str(report.error) for name in (*closed, ONE)) and report.error.exit_code == 3


def test_absurd_size_in_the_row_costs_that_file_alone(server, tmp_path):
    found = [exposure(server.archive.exposures[ONE], size=10**15), *rows(server)[1:]]
    report = fetch(found, tmp_path, server=server.url, settings=QUICK)
    assert "no file of the archive is so large" in report.missing[ONE] and len(report.exposures) == len(found) - 1


def test_wrong_size_in_the_row_is_named(server, tmp_path):
    found = [exposure(server.archive.exposures[ONE], size=2880 * 3)]
    report = fetch([*found, *rows(server)[1:]], tmp_path, server=server.url, settings=QUICK)
    assert "8640" in report.missing[ONE] and len(report.exposures) == len(rows(server)) - 1


@pytest.mark.parametrize(
    "fault",
    [{"kind": "error", "status": 503}, {"kind": "silence", "seconds": 60}, {"kind": "reset"}],
    ids=lambda fault: fault["kind"],
)  # fmt: skip
def test_server_that_gives_nothing_is_given_up_early(server, tmp_path, fault):
    found = rows(server)
    server.faults.add(Fault(match="Download", **fault))
    start = time.monotonic()
    with pytest.raises(ServiceUnreachableError, match="sends no files"):
        fetch(found, tmp_path, server=server.url, settings=HASTY)
    assert time.monotonic() - start < 15


def test_no_server_at_all(server, tmp_path):
    found = rows(server)
    server.stop()
    with pytest.raises(ServiceUnreachableError):
        fetch(found, tmp_path, server=server.url, settings=QUICK)


def test_broken_folder_of_an_observation_does_not_stop_the_others(server, tmp_path):
    found = rows(server)
    server.faults.add(Fault(kind="error", status=500, match="_00001_"))
    report = fetch(found, tmp_path, server=server.url, settings=QUICK)
    assert set(report.missing) == {item.name for item in found if "_00001_" in item.name}
    assert all("_00002_" in item.name for item in report.exposures) and report.exposures


def test_resume_asks_only_for_the_rest(server, observatory, tmp_path):
    found = [exposure(server.archive.exposures[ONE])]
    server.faults.add(Fault(kind="short", bytes=5000, match=ONE))  # a reset may take back what was sent
    with pytest.raises(ServiceUnreachableError):
        fetch(found, tmp_path, server=server.url, settings=FetchSettings(retries=0))
    assert Part(tmp_path, found[0].file).size == 5000
    server.faults.clear()
    assert_whole(fetch(found, tmp_path, server=server.url, settings=QUICK), found, tmp_path, observatory)
    assert server.requests[-1].status == 206


@pytest.mark.parametrize("kind", ["ignore_range", "wrong_range", "other file", "too long"])
def test_part_that_cannot_be_resumed_starts_again(server, observatory, tmp_path, kind):
    found = [exposure(server.archive.exposures[ONE])]
    part = Part(tmp_path, found[0].file)
    part.start('"another"' if kind == "other file" else f'"{server.archive.exposures[ONE]["sha256"]}"')
    part.path.write_bytes(b"x" * (5000 if kind != "too long" else 500_000))
    if kind == "ignore_range" or kind == "wrong_range":
        server.faults.add(Fault(kind=kind, bytes=100, times=1, match=ONE))
    assert_whole(fetch(found, tmp_path, server=server.url, settings=QUICK), found, tmp_path, observatory)


def test_finished_part_is_published_without_a_request(server, observatory, tmp_path):
    found = [exposure(server.archive.exposures[ONE])]
    part = Part(tmp_path, found[0].file)
    shutil.copy(observatory / "raw" / found[0].file, part.path)
    assert_whole(fetch(found, tmp_path, server=server.url, settings=QUICK), found, tmp_path, observatory)
    assert server.downloads() == []


def test_proprietary_observation_needs_the_token(server, observatory, tmp_path):
    every = [exposure(row) for row in server.archive.exposures.values()]
    closed = [item for item in every if item.observation == 3]
    report = fetch(every, tmp_path, server=server.url, settings=QUICK)
    assert set(report.refused) == {item.name for item in closed} and len(report.exposures) == len(every) - len(closed)
    assert isinstance(report.error, AccessRefusedError)
    assert "MAST_API_TOKEN" in str(report.error) and "observation 3" in str(report.error)
    assert len(server.downloads(closed[0].name)) == 1  # no retry
    wrong = fetch(every, tmp_path, server=server.url, token="no-such-token", settings=QUICK)
    assert wrong.refused and "no-such-token" not in str(wrong.error)
    good = fetch(every, tmp_path, server=server.url, token="simulated-token", settings=QUICK)
    assert_whole(good, every, tmp_path, observatory)


def test_token_stays_with_its_server(server, observatory, tmp_path):
    closed = [exposure(row) for row in server.archive.exposures.values() if row["proprietary"]][:1]
    with serve(observatory) as other:
        where = f"{other.url}{DOWNLOAD_PATH}?uri={closed[0].uri}"
        server.faults.add(Fault(kind="redirect", location=where, match="Download"))
        report = fetch(closed, tmp_path, server=server.url, token="simulated-token", settings=QUICK)
        assert report.refused and [item.status for item in other.requests] == [401]
    server.faults.clear()
    server.faults.add(Fault(kind="redirect", location="?" + where.split("?")[1], match="Download", times=1))
    assert fetch(closed, tmp_path, server=server.url, token="simulated-token", settings=QUICK).error is None


def test_redirect_in_circles_ends(server, tmp_path):
    server.faults.add(Fault(kind="redirect", location="?again", match="Download"))
    assert set(fetch(rows(server)[:1], tmp_path, server=server.url, settings=QUICK).missing) == {ONE}


def test_token_with_a_line_break_is_refused_unshown(server, tmp_path):
    with pytest.raises(ConfigError, match="MAST_API_TOKEN") as caught:
        fetch(rows(server), tmp_path, server=server.url, token="se\ncret")
    assert "cret" not in str(caught.value)


def test_disk_full(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as small:
        small.setattr("survey.archive.fetch.shutil.disk_usage", lambda _path: usage._replace(free=10**9))
        with pytest.raises(DiskFullError, match="to fetch"):
            fetch(rows(server, size=10**9), tmp_path, server=server.url, settings=QUICK)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("survey.archive.download._receive", full)
    with pytest.raises(DiskFullError, match="no space left"):
        fetch(rows(server), tmp_path, server=server.url, settings=QUICK)


def test_names_outside_the_grammar_never_become_paths(server, tmp_path):
    with pytest.raises(ProductNameError):
        fetch([exposure(server.archive.exposures[ONE], name="../../etc/passwd")], tmp_path, server=server.url)


def test_file_of_another_detector_is_refused(own_observatory, tmp_path):
    raw = own_observatory / "raw"
    shutil.copy(raw / f"{ONE[:-1]}2_uncal.fits", raw / f"{ONE}_uncal.fits")
    with serve(own_observatory) as server:
        report = fetch(rows(server, size=None), tmp_path, server=server.url, settings=QUICK)
    assert "holds detector NRCB2" in report.missing[ONE]


def test_checksums_are_verified_where_they_are(tmp_path):
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.arange(4000, dtype="i4"))]).writeto(path, checksum=True)
    assert len(check_structure(path)) == 2
    data = bytearray(path.read_bytes())
    data[-5000] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="DATASUM"):
        check_structure(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"\0" * 2880, b"SIMPLE  =                    T".ljust(2880),
     b"".join(card.ljust(80) for card in (b"SIMPLE  =                    T", b"BITPIX  =                   16",
              b"NAXIS   =                    2", b"NAXIS1  =            999999999",
              b"NAXIS2  =            999999999", b"END")).ljust(2880)],
    ids=["empty", "html", "zeros", "no end", "petabytes"],
)  # fmt: skip
def test_no_fits_file(tmp_path, content):
    path = tmp_path / "a.fits"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        check_structure(path)


def test_local_folder_is_linked_and_its_changes_are_seen(own_observatory, tmp_path):
    observatory = own_observatory
    found, _ = find_local(observatory / "raw", 1345)
    good, missing = link_local(found, tmp_path / "raw")
    assert not missing and all(item.sha256 for item in good)
    path = tmp_path / "raw" / good[0].file
    assert path.is_symlink() and path.read_bytes() == (observatory / "raw" / good[0].file).read_bytes()
    lines = (tmp_path / "raw" / LEDGER).read_text()
    assert link_local(found, tmp_path / "raw")[0] == good and (tmp_path / "raw" / LEDGER).read_text() == lines
    source = observatory / "raw" / good[0].file
    data = bytearray(source.read_bytes())
    data[-3000] ^= 1
    source.write_bytes(data)
    changed, _ = link_local(found, tmp_path / "raw")
    assert changed[0].sha256 != good[0].sha256 and changed[1:] == good[1:]
    os.truncate(source, 4000)
    (observatory / "raw" / good[1].file).unlink()
    last, missing = link_local(found, tmp_path / "raw")
    assert set(missing) == {good[0].name, good[1].name} and last == good[2:]


def test_folder_that_is_the_workspace_itself_is_left_as_it_is(own_observatory):
    raw = own_observatory / "raw"
    found, _ = find_local(raw)
    good, missing = link_local(found, raw)
    assert not missing and len(good) == len(found) and not any((raw / item.file).is_symlink() for item in good)


def test_archive_takes_over_from_a_folder(server, observatory, own_observatory, tmp_path):
    found, _ = find_local(own_observatory / "raw", observations=[1])
    link_local(found, tmp_path)
    for item in found:
        (own_observatory / "raw" / item.file).unlink()
    assert_whole(fetch(rows(server), tmp_path, server=server.url, settings=QUICK), rows(server), tmp_path, observatory)
    assert not any(path.is_symlink() for path in tmp_path.iterdir())


def test_interrupt_ends_the_fetch_and_leaves_what_arrived(server, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    server.faults.add(Fault(kind="silence", seconds=60, match=ONE))
    monkeypatch.setattr("survey.archive.transfers.Transfers._watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(rows(server), tmp_path, server=server.url, settings=QUICK)
    assert not (tmp_path / f"{ONE}_uncal.fits").exists()


def test_ledger_lines_are_plain_json(server, tmp_path):
    fetch(rows(server), tmp_path, server=server.url, settings=QUICK)
    for line in (tmp_path / LEDGER).read_text().splitlines():
        entry = json.loads(line)
        assert entry["size"] == (tmp_path / entry["name"]).stat().st_size and len(entry["sha256"]) == 64
