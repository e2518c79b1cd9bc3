"""CRDS servers that misbehave, and disks that are full: real servers on loopback, real small file systems."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import crds_folder
import observatory as archive_folder
import pytest
from small_disk import small_disk  # noqa: F401 - a fixture
from test_references import write_raw

from survey import references
from survey.digest import file_sha1
from survey.errors import AccessRefusedError, DiskFullError, ReferencesError, ServiceUnreachableError
from survey.references import cache
from survey.references.cache import Cache, Wanted
from survey.references.child import ask_catalog
from survey.references.record import References
from survey.simulate.faults import Fault
from survey.simulate.server import serve

pytestmark = pytest.mark.slow  # servers whose faults take their time

FLAT = "jwst_nircam_flat_0001.fits"
TYPES = ("flat", "mask", "rscd", "pars-jumpstep", "pars-tweakregstep")


@dataclass
class Settings:
    server: str | None
    context: str
    cache: Path
    timeout_seconds: float = 20.0


@pytest.fixture(scope="module")
def observatory(tmp_path_factory):
    folder = archive_folder.make_observatory(tmp_path_factory.mktemp("observatory"), observations=(1,), exposures=1)
    crds_folder.make_observatory(folder / "crds")
    return folder


@pytest.fixture
def server(observatory, monkeypatch):
    monkeypatch.setattr(cache, "BACKOFF_SECONDS", 0.01)
    with serve(observatory) as running:
        yield running


@pytest.fixture
def files(observatory) -> list[Wanted]:
    catalog = json.loads((observatory / "crds" / "catalog.json").read_text())["files"]
    return [
        Wanted(name, f"references/jwst/nircam/{name}", info["size"], info["sha1sum"])
        for name, info in sorted(catalog.items())
        if name.endswith(".fits")
    ]


@pytest.fixture
def raw(tmp_path) -> dict[str, Path]:
    return {"one": write_raw(tmp_path / "one.fits")}


def fetch(server, folder: Path, files: list[Wanted], seconds: float = 3.0, held: int = 0) -> None:
    urls = {f"{server.crds_url}/references/jwst/{item.name}": item for item in files}
    Cache(folder).fetch(urls, seconds, held)


def assert_whole(folder: Path, files: list[Wanted]) -> None:
    for item in files:
        assert file_sha1(folder / item.path) == item.sha1
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == sorted(item.name for item in files)


FAULTS = [
    {"kind": "error", "status": 500},
    {"kind": "error", "status": 429, "retry_after": "0"},
    {"kind": "silence", "seconds": 60},
    {"kind": "drip", "seconds": 0.05, "bytes": 10},
    {"kind": "drip_headers", "seconds": 0.2},
    {"kind": "error", "status": 502},
    {"kind": "reset"},
    {"kind": "short", "bytes": 3000},
    {"kind": "unsized", "bytes": 3000},
    {"kind": "wrong_length", "bytes": 100},
    {"kind": "wrong_length", "bytes": -100},
    {"kind": "corrupt", "bytes": 3000},
    {"kind": "empty"},
    {"kind": "html"},
    {"kind": "bomb", "bytes": 1 << 26},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: " ".join(map(str, fault.values())))
def test_fault_that_passes_is_retried(server, tmp_path, files, fault):
    server.faults.add(Fault(match=f"GET .*{FLAT}", times=1, **fault))
    fetch(server, tmp_path, files)
    assert_whole(tmp_path, files)


# A body that breaks off again and again still arrives, by resuming; one of no bytes does not.
LASTING = [fault | {"bytes": 0} if fault["kind"] in ("short", "unsized") else fault for fault in FAULTS]


@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: " ".join(map(str, fault.values())))
def test_file_that_cannot_be_had_is_named_and_the_others_kept(server, tmp_path, files, fault):
    server.faults.add(Fault(match=f"GET .*{FLAT}", **fault))
    start = time.monotonic()
    with pytest.raises(ReferencesError, match=FLAT) as caught:
        fetch(server, tmp_path, files, 1.0)
    assert time.monotonic() - start < 6
    assert "1 CRDS file(s)" in str(caught.value)
    assert_whole(tmp_path, [item for item in files if item.name != FLAT])


def test_body_that_breaks_off_is_resumed(server, tmp_path, files):
    """Each connection brings 3,000 of 8,640 bytes."""
    server.faults.add(Fault(kind="short", bytes=3000, match=f"GET .*{FLAT}"))
    fetch(server, tmp_path, files)
    assert_whole(tmp_path, files)
    assert [item.status for item in server.requests if FLAT in item.path] == [200, 206, 206]


def test_wrong_sha1_in_the_servers_list_is_said(server, tmp_path, files):
    wrong = [Wanted(files[0].name, files[0].path, files[0].size, "0" * 40), *files[1:]]
    with pytest.raises(ReferencesError, match=f"{files[0].name}: .*the server lists .* and 0000"):
        fetch(server, tmp_path, wrong)
    assert_whole(tmp_path, files[1:])


@pytest.mark.parametrize(("held", "error"), [(0, ServiceUnreachableError), (3, ReferencesError)])
def test_last_file_of_a_good_cache_is_no_sign_of_a_server_that_is_down(server, tmp_path, files, held, error):
    server.faults.add(Fault(kind="error", status=500, match="GET "))
    with pytest.raises(error):
        fetch(server, tmp_path, files[:1], held=held)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept(server, tmp_path, files, form):
    asked = "2" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    server.faults.add(Fault(kind="error", status=429, retry_after=asked, match=f"GET .*{FLAT}", times=1))
    start = time.monotonic()
    fetch(server, tmp_path, files, 10.0)
    assert time.monotonic() - start >= 1.9


def test_retry_after_is_kept_within_the_limit_alone(server, tmp_path, files):
    server.faults.add(Fault(kind="error", status=429, retry_after="3600", match="GET "))
    start = time.monotonic()
    with pytest.raises(ServiceUnreachableError, match="429"):
        fetch(server, tmp_path, files, 1.0)
    assert time.monotonic() - start < 5


def test_four_silent_files_do_not_hide_the_others(server, tmp_path, files):
    """As many as there are threads: the others still come."""
    many = [Wanted(f"silent_{number}.fits", f"references/jwst/nircam/silent_{number}.fits") for number in range(4)]
    server.faults.add(Fault(kind="silence", seconds=60, match="silent_"))
    with pytest.raises(ReferencesError, match=r"4 CRDS file\(s\)"):
        fetch(server, tmp_path, [*many, *files], 1.5)
    assert_whole(tmp_path, files)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "html"}, ServiceUnreachableError),
        ({"kind": "short", "bytes": 50}, ServiceUnreachableError),
        ({"kind": "unsized", "bytes": 50}, ServiceUnreachableError),
        ({"kind": "drip", "bytes": 1, "seconds": 0.2}, ServiceUnreachableError),
        ({"kind": "error", "status": 403}, AccessRefusedError),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_server_whose_replies_are_none(server, raw, tmp_path, fault, error):
    """The unmodified crds client in its child process."""
    server.faults.add(Fault(match="POST /crds", **fault))
    seconds = 5.0 if fault["kind"] == "drip" else 60.0
    start = time.monotonic()
    with pytest.raises(error):
        references.sync(raw, Settings(server.crds_url, "jwst_0001.pmap", tmp_path / "cache", seconds), types=TYPES)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "silence", "seconds": 60},
        {"kind": "delay", "seconds": 4},
        {"kind": "drip", "seconds": 0.2, "bytes": 1},
        {"kind": "drip_headers", "seconds": 0.2},
        {"kind": "error", "status": 502},
        {"kind": "error", "status": 429, "retry_after": "1"},
        {"kind": "reset"},
        {"kind": "reset", "bytes": 50},
        {"kind": "short", "bytes": 50},
        {"kind": "unsized", "bytes": 50},
        {"kind": "html"},
    ],
    ids=lambda fault: " ".join(map(str, fault.values())),
)
def test_one_fault_of_each_request_is_survived(server, tmp_path, fault):
    """Of a limit of 9 s, an attempt has 3 s."""
    for method in ("get_server_info", "get_mapping_names"):
        server.faults.add(Fault(match=f"POST /crds.*{method}", times=1, **fault))
    start = time.monotonic()
    found = ask_catalog("jwst_0001.pmap", tmp_path, server.crds_url, 9.0)
    assert "jwst_0001.pmap" in found.mappings and len(found.sha1s) == len(found.mappings)
    assert found.urls["references"].startswith(server.crds_url)
    for method in ("get_server_info", "get_mapping_names"):
        assert len([item for item in server.requests if method in item.path]) == 2
    if fault["kind"] == "silence":
        assert time.monotonic() - start >= 6.0


def test_one_fault_of_each_kind_of_request_does_not_stop_a_sync(server, raw, tmp_path):
    for match in ("POST /crds.*server_info", "GET /crds.*pmap", "GET /crds.*rmap", "GET /crds.*flat_0001.fits"):
        server.faults.add(Fault(kind="silence", seconds=60, match=match, times=1))
    settings = Settings(server.crds_url, "jwst_0001.pmap", tmp_path / "cache", 9.0)
    assert FLAT in references.sync(raw, settings, types=TYPES).files


def test_cache_on_a_full_disk(server, raw, tmp_path, files, small_disk):  # noqa: F811
    """A file system of 48 kB: what fits is kept and good, and the sync goes on once there is room."""
    cache = small_disk("48k").path / "cache"
    with pytest.raises(DiskFullError, match="no space left"):
        references.sync(raw, Settings(server.crds_url, "jwst_0001.pmap", cache), types=TYPES)
    assert not list(cache.glob(".part*"))
    for item in files:
        held = cache / item.path
        assert not held.exists() or file_sha1(held) == item.sha1
    shutil.copytree(cache, tmp_path / "cache")
    found = references.sync(raw, Settings(server.crds_url, "jwst_0001.pmap", tmp_path / "cache"), types=TYPES)
    assert file_sha1(found.path(FLAT)) == found.files[FLAT]


SYNC = """
import json, sys
from pathlib import Path
from test_references_faults import TYPES, Settings
from survey import references
url, cache, raw = sys.argv[1:]
found = references.sync({"one": Path(raw)}, Settings(url, "jwst_0001.pmap", Path(cache), 100.0), types=TYPES)
print(json.dumps(dict(found.files)))
"""


def test_processes_sync_one_cache_at_once(server, raw, tmp_path):
    """Whole syncs, with the crds library; ten of `complete` alone: test_references."""
    command = [sys.executable, "-c", SYNC, server.crds_url, str(tmp_path / "cache"), str(raw["one"])]
    folder = Path(__file__).parent
    running = [subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = {process.communicate(timeout=200)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 3
    assert len(told) == 1
    for name, sha1 in json.loads(told.pop()).items():
        assert file_sha1(tmp_path / "cache" / "references/jwst/nircam" / name) == sha1
    gets = [item.path for item in server.requests if item.method == "GET"]
    assert len(gets) == len(set(gets))


@pytest.mark.parametrize(
    "odd",
    [
        {"exposures": {"x": 99}}, {"exposures": {"x": -1}}, {"exposures": {"x": "a"}}, {"exposures": {"x": True}},
        {"groups": [5]}, {"groups": [{"flat": 5}]}, {"groups": 5}, {"files": []}, {"paths": {"f": 1}}, {"other": 1},
    ],
)  # fmt: skip
def test_an_answer_of_odd_parts_is_none(odd):
    good = {
        "context": "jwst_0001.pmap", "cache": "/c", "groups": [{"flat": "f"}], "exposures": {"x": 0},
        "files": {"f": "1" * 40}, "paths": {"f": "references/f"}, "mappings": {},
    }  # fmt: skip
    assert References.from_json(good).of("x") == {"flat": "f"}
    with pytest.raises((ValueError, TypeError)):
        References.from_json(good | odd)
