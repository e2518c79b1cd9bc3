"""References: a made-up CRDS folder, the real crds library, a loopback server."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from astropy.io import fits
from crds_folder import Server, make_observatory

from survey import references
from survey.digest import file_sha1
from survey.errors import AccessRefusedError, ConfigError, DiskFullError, ReferencesError, ServiceUnreachableError
from survey.references import cache as cache_module
from survey.references.cache import Cache, Wanted, mapping_is_whole, plain_name, server_identity
from survey.references.lookup import KEYWORDS, NO_KEYWORD, keywords_of_schema

TYPES = ("flat", "mask", "rscd", "pars-jumpstep", "pars-tweakregstep", "gain")
FLAT = "jwst_nircam_flat_0001.fits"
FLAT_PATH = f"references/jwst/nircam/{FLAT}"


def write_raw(path: Path, date: str = "2022-06-21", time_of_day: str = "10:00:00.0", detector: str = "NRCB1") -> Path:
    header = {"INSTRUME": "NIRCAM", "DETECTOR": detector, "FILTER": "F200W", "PUPIL": "CLEAR", "TSOVISIT": False}
    header |= {"DATE-OBS": date, "TIME-OBS": time_of_day, "EXP_TYPE": "NRC_IMAGE", "NGROUPS": 5, "TGROUP": 10.5}
    header |= {"TARGNAME": "O'NEIL", "OBSERVTN": "001"}
    fits.PrimaryHDU(header=fits.Header(header)).writeto(path)
    return path


@dataclass
class Settings:
    server: str | None
    context: str
    cache: Path
    timeout_seconds: float = 30.0


@pytest.fixture(scope="module")
def observatory(tmp_path_factory) -> Path:
    return make_observatory(tmp_path_factory.mktemp("observatory") / "crds")


@pytest.fixture
def server(observatory):
    with Server(observatory) as running:
        yield running


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("raw")
    return {
        "early": write_raw(folder / "early.fits"),
        "same": write_raw(folder / "same.fits", time_of_day="11:30:00.5"),
        "late": write_raw(folder / "late.fits", date="2023-01-01", time_of_day="00:00:00.000"),
    }


@pytest.fixture(scope="module")
def synced(observatory, raw, tmp_path_factory):
    """A first sync of context 1: the answer, its seconds of a rerun, and what the rerun asked the server."""
    folder = tmp_path_factory.mktemp("synced")
    with Server(observatory) as running:
        settings = Settings(running.url, "jwst_0001.pmap", folder / "cache")
        found = references.sync(raw, settings, types=TYPES, record=folder / "references.json")
        running.requests.clear()
        start = time.perf_counter()
        again = references.sync(raw, settings, types=TYPES, record=folder / "references.json")
        return found, again, time.perf_counter() - start, list(running.requests)


@pytest.fixture
def cache(synced, tmp_path) -> Path:
    """A copy of the cache that holds all that context 1 needs."""
    return Path(shutil.copytree(synced[0].cache, tmp_path / "cache", copy_function=shutil.copy2))


@pytest.fixture
def wanted(synced) -> Wanted:
    """The flat, which the cache does not hold."""
    return Wanted(FLAT, FLAT_PATH, synced[0].path(FLAT).stat().st_size, synced[0].files[FLAT])


def fetch(server: Server, folder: Path, wanted: Wanted, seconds: float = 30.0) -> None:
    Cache(folder).fetch({f"{server.url}/references/jwst/{wanted.name}": wanted}, seconds)


# The sync


def test_sync_fetches_what_the_rules_choose(synced):
    found = synced[0]
    assert found.of("early") == {
        "flat": FLAT,
        "mask": "jwst_nircam_mask_0001.fits",
        "rscd": "N/A",
        "pars-jumpstep": "jwst_nircam_pars-jumpstep_0001.asdf",
        "pars-tweakregstep": "N/A",
        "gain": found.of("early")["gain"],
    }
    assert list(found.not_found("early", TYPES)) == ["gain"]
    assert found.of("late")["flat"] == "jwst_nircam_flat_0002.fits"  # the use-after date itself is inside
    assert len(found.groups) == 2  # 'early' and 'same' differ in their time alone
    assert found.for_step("early", ["flat", "rscd", "gain"]) == {"flat": FLAT}
    for name, sha1 in found.files.items():
        assert file_sha1(found.path(name)) == sha1
    assert not list(Path(found.cache).glob(".part*"))
    assert references.References.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(ReferencesError, match="survey refs"):
        found.of("another")


def test_rerun_asks_nothing_and_is_quick(synced):
    found, again, seconds, requests = synced
    assert again == found
    assert requests == []
    assert seconds < 0.5  # stat calls; a child process alone takes longer


@pytest.mark.slow
def test_damaged_files_are_replaced_though_the_record_is_there(server, raw, cache, tmp_path, synced):
    record = tmp_path / "references.json"
    mapping = cache / "mappings/jwst/jwst_nircam_flat_0001.rmap"
    settings = Settings(server.url, "jwst_0001.pmap", cache)
    flat, mask = cache / FLAT_PATH, cache / "references/jwst/nircam/jwst_nircam_mask_0001.fits"
    os.truncate(flat, flat.stat().st_size // 2)
    mask.write_bytes(mask.read_bytes().replace(b"JWST", b"JUST"))
    mapping.write_text(mapping.read_text().replace("flat_0001.fits", "flat_0002.fits"))
    found = references.sync(raw, settings, types=TYPES, record=record)
    assert found.files == synced[0].files
    assert file_sha1(flat) == found.files[FLAT]
    assert mapping_is_whole(mapping)
    os.truncate(flat, 0)
    references.sync(raw, settings, types=TYPES, record=record)
    assert file_sha1(flat) == found.files[FLAT]


def test_says_what_is_missing_without_a_server(raw, cache):
    (cache / FLAT_PATH).unlink()
    os.truncate(cache / "references/jwst/nircam/jwst_nircam_mask_0001.fits", 100)
    with pytest.raises(ReferencesError) as caught:
        references.sync(raw, Settings(None, "jwst_0001.pmap", cache), types=TYPES)
    assert "flat_0001.fits: missing" in str(caught.value)
    assert "mask_0001.fits: 100 bytes" in str(caught.value)


@pytest.mark.parametrize("url", [None, pytest.param("http://localhost:9/crds", marks=pytest.mark.slow)])
def test_works_without_a_server_when_the_cache_suffices(raw, cache, synced, url):
    if url is None:
        (cache / "survey-ledger.json").unlink()  # crds' own server information still tells the SHA-1 of every file
    found = references.sync(raw, Settings(url, "jwst_0001.pmap", cache), types=TYPES)
    assert found.files == synced[0].files


@pytest.mark.slow
def test_files_that_the_server_calls_invalid_are_refused(raw, cache, monkeypatch):
    path = cache / "config/jwst/server_config"
    path.write_text(path.read_text().replace("'bad_files_list': []", f"'bad_files_list': ['{FLAT}']"))
    settings = Settings(None, "jwst_0001.pmap", cache)
    with pytest.raises(ReferencesError, match="scientifically invalid"):
        references.sync(raw, settings, types=TYPES)
    monkeypatch.setenv("CRDS_ALLOW_BAD_REFERENCES", "1")
    references.sync(raw, settings, types=TYPES)


@pytest.mark.slow
def test_a_damaged_mapping_without_a_server(raw, cache):
    path = cache / "mappings/jwst/jwst_nircam_flat_0001.rmap"
    path.write_text(path.read_text().replace("2021", "2020"))
    with pytest.raises(ReferencesError, match=r"flat_0001\.rmap"):
        references.sync(raw, Settings(None, "jwst_0001.pmap", cache), types=TYPES)


@pytest.mark.slow
def test_an_empty_cache_without_a_server(raw, tmp_path):
    with pytest.raises(ReferencesError, match=r"jwst_0001\.pmap"):
        references.sync(raw, Settings(None, "jwst_0001.pmap", tmp_path / "cache"), types=TYPES)


@pytest.mark.slow
def test_an_unreadable_raw_file_is_named(cache, raw, tmp_path):
    (tmp_path / "cut.fits").write_bytes(raw["early"].read_bytes()[:1000])
    with pytest.raises(ReferencesError, match="cut: DamagedFileError: ends within the header"):
        references.sync({**raw, "cut": tmp_path / "cut.fits"}, Settings(None, "jwst_0001.pmap", cache), types=TYPES)


@pytest.mark.slow
def test_what_another_context_would_change(server, raw, cache, synced):
    settings = Settings(server.url, "jwst_0002.pmap", cache)
    after = references.sync(raw, settings, types=TYPES)
    for name in raw:
        flat = "jwst_nircam_flat_0002.fits" if name == "late" else "jwst_nircam_flat_0003.fits"
        assert after.of(name) == dict(synced[0].of(name)) | {"flat": flat}


@pytest.mark.slow
def test_unknown_context_names_it(server, raw, tmp_path):
    with pytest.raises(ConfigError, match=r"jwst_0009\.pmap"):
        references.sync(raw, Settings(server.url, "jwst_0009.pmap", tmp_path / "cache"), types=TYPES)


def test_a_silent_server_is_given_up(server, raw, tmp_path):
    server.fault = "silent"
    start = time.monotonic()
    with pytest.raises(ServiceUnreachableError):
        references.sync(raw, Settings(server.url, "jwst_0001.pmap", tmp_path / "cache", 2.0), types=TYPES)
    assert time.monotonic() - start < 60  # 2, and the import of crds on a busy machine


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "error"), [("broken", ServiceUnreachableError), ("refused", AccessRefusedError)])
def test_a_server_that_refuses_everything(server, raw, tmp_path, fault, error):
    server.fault = fault
    with pytest.raises(error):
        references.sync(raw, Settings(server.url, "jwst_0001.pmap", tmp_path / "cache"), types=TYPES)


# The context


def test_only_a_pinned_context_is_taken(server):
    assert references.pin("jwst_1584.pmap", "http://localhost:9/crds") == "jwst_1584.pmap"
    with pytest.raises(ConfigError, match=r"Write jwst_0002\.pmap"):
        references.pin("latest", server.url)
    for context in ("jwst-latest", "jwst-operational", None, "jwst_0001.pmap\n", "jwst_0001", "jwst_\u0660001.pmap"):
        with pytest.raises(ConfigError, match="such as jwst_1584"):
            references.pin(context)


# The cache


def test_a_file_is_fetched_whole(server, tmp_path, wanted):
    fetch(server, tmp_path, wanted)
    assert file_sha1(tmp_path / FLAT_PATH) == wanted.sha1
    assert Cache(tmp_path).fault(wanted) is None


@pytest.mark.parametrize("fault", ["short", "wrong", "missing"])
def test_bad_bodies_never_get_a_name(server, tmp_path, wanted, fault, monkeypatch):
    monkeypatch.setattr(cache_module, "BACKOFF_SECONDS", 0.01)
    server.fault = fault
    with pytest.raises((ReferencesError, ServiceUnreachableError)):
        fetch(server, tmp_path, wanted)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_single_bad_files_are_named_and_the_others_kept(server, tmp_path, wanted):
    other = Wanted("none.fits", "references/jwst/nircam/none.fits", 5, "0" * 40)
    urls = {f"{server.url}/references/jwst/{item.name}": item for item in (other, wanted)}
    with pytest.raises(ReferencesError, match=r"none\.fits: HTTP 404"):
        Cache(tmp_path).fetch(urls, 20)
    assert (tmp_path / FLAT_PATH).exists()


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_server_that_stalls_is_given_up(server, tmp_path, wanted, fault):
    server.fault, server.silent_for = fault, "GET"
    start = time.monotonic()
    with pytest.raises(ServiceUnreachableError, match="sends no files"):
        fetch(server, tmp_path, wanted, seconds=1.0)
    assert time.monotonic() - start < 5
    assert not (tmp_path / FLAT_PATH).exists()


def test_a_full_disk_says_so(server, tmp_path, wanted, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("survey.archive.download._receive", full)
    with pytest.raises(DiskFullError, match="no space left"):
        fetch(server, tmp_path, wanted)


def test_an_answer_after_the_end_leaves_no_part(tmp_path, monkeypatch):
    """The fetch is interrupted while the server has not answered yet: what comes then is not written."""
    asked, answer = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.set()
            answer.wait(30)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 100)

        def log_message(self, *_):
            """No log."""

    def interrupt(_):
        if asked.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr("survey.archive.transfers.Transfers._watch", interrupt)
    before = set(threading.enumerate())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Cache(tmp_path).fetch({f"http://127.0.0.1:{server.server_port}/a": Wanted("a", "a", 100)}, 30.0)
        workers = [thread for thread in threading.enumerate() if thread.name == "download" and thread not in before]
        assert workers
        answer.set()
        for thread in workers:
            thread.join(30)
            assert not thread.is_alive()
        assert list(tmp_path.iterdir()) == []
    finally:
        answer.set()
        server.shutdown()
        server.server_close()


def test_one_cache_per_server(cache):
    held = Cache(cache)
    held.check_server("http://127.0.0.1:4321/crds")  # loopback ports change at every start
    for ledger in (True, False):
        if not ledger:
            (cache / "survey-ledger.json").unlink()
        with pytest.raises(ConfigError, match="was filled from loopback"):
            Cache(cache).check_server("https://crds.example.org")


def test_server_identity():
    assert server_identity("https://jwst-crds.stsci.edu/") == "jwst-crds.stsci.edu"
    assert server_identity("http://localhost:1/crds") == server_identity("http://[::1]:5/crds") == "loopback"
    assert server_identity(None) is None


@pytest.mark.parametrize("name", ["../x.fits", "/etc/passwd", "a/b.fits", ".hidden", "", "a\n.fits", "x\0"])
def test_only_plain_names_become_paths(name):
    with pytest.raises(ReferencesError, match="not a plain file name"):
        plain_name(name)


def test_a_held_lock_is_waited_for_and_then_named(tmp_path):
    with (
        Cache(tmp_path).locked(1.0),
        pytest.raises(ReferencesError, match="another process"),
        Cache(tmp_path).locked(0.1),
    ):
        pass
    with Cache(tmp_path).locked(0.1):
        pass


def test_a_damaged_ledger_only_costs_time(cache, wanted):
    for content in ("", "[]", '{"server": 5, "files": {"a": {}}}', '{"files": 3}'):
        (cache / "survey-ledger.json").write_text(content)
        assert Cache(cache).fault(wanted) is None


COMPLETE = """
import json, sys
from pathlib import Path
from survey.references.cache import Cache
from survey.references.cache import Wanted
from survey.references.sync import complete
folder, urls, files = json.loads(sys.argv[1])
complete(Cache(Path(folder)), [Wanted(**item) for item in files], urls, 30)
"""


@pytest.mark.slow
def test_ten_processes_share_one_cache(server, tmp_path, observatory):
    catalog = json.loads((observatory / "catalog.json").read_text())["files"]
    files = [
        {"name": name, "path": f"references/jwst/nircam/{name}", "size": info["size"], "sha1": info["sha1sum"]}
        for name, info in catalog.items()
        if name.endswith((".fits", ".asdf"))
    ]
    urls = {kind: f"{server.url}/{kind}/jwst" for kind in ("references", "mappings")}
    command = [sys.executable, "-c", COMPLETE, json.dumps([str(tmp_path), urls, files])]
    processes = [subprocess.Popen(command) for _ in range(10)]
    assert [process.wait(100) for process in processes] == [0] * 10
    assert sorted(server.requests) == sorted(f"/crds/references/jwst/{item['name']}" for item in files)
    for item in files:
        assert file_sha1(tmp_path / item["path"]) == item["sha1"]
    assert Cache(tmp_path).ledger.files.keys() == {item["path"] for item in files}


@pytest.mark.slow
def test_two_syncs_at_once(server, raw, tmp_path):
    settings = Settings(server.url, "jwst_0001.pmap", tmp_path / "cache")
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(references.sync, raw, settings, types=TYPES) for _ in range(2)]
    assert found[0].result() == found[1].result()


# The workers

WORKER = """
import json, socket, sys, time
def refuse(*args, **kwargs):
    raise SystemExit("a worker opened a socket")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import crds
start = time.perf_counter()
facts = json.loads(sys.argv[1])
found = crds.getreferences(facts, reftypes=["flat", "mask", "rscd"], observatory="jwst")
print(json.dumps({"files": found, "context": crds.get_context_name("jwst"), "seconds": time.perf_counter() - start}))
"""


def test_a_worker_needs_no_network_and_writes_nothing(cache, raw):
    found = references.sync(raw, Settings(None, "jwst_0001.pmap", cache), types=TYPES)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in cache.rglob("*"))
    facts = {
        "meta.instrument.name": "NIRCAM",
        "meta.instrument.detector": "NRCB1",
        "meta.instrument.filter": "F200W",
        "meta.observation.date": "2022-06-21",
        "meta.observation.time": "10:00:00.0",
    }
    # A user's own settings must not shine through.
    others = {"CRDS_MAPPATH": "/nonexistent", "CRDS_CONTEXT": "latest", "CRDS_MODE": "remote"}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, json.dumps(facts)],
        env={**os.environ, **others, **references.worker_environment(found)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["files"]["flat"] == str(found.path(FLAT))
    assert answer["files"]["rscd"] == "NOT FOUND n/a"
    assert answer["context"] == "jwst_0001.pmap"
    assert answer["seconds"] < 5  # no retries, no timeouts
    assert before == sorted((str(path), path.stat().st_mtime_ns) for path in cache.rglob("*"))


# Types


@pytest.mark.slow
def test_the_keyword_table_is_the_schemas():
    schema = keywords_of_schema()
    assert {path: schema[path] for path in KEYWORDS} == KEYWORDS
    assert not NO_KEYWORD & schema.keys()


@pytest.mark.pipeline
def test_reference_types_are_those_of_the_installed_pipeline():
    from jwst.pipeline import Detector1Pipeline, Image2Pipeline, Image3Pipeline

    expected: set[str] = set()
    for pipeline in (Detector1Pipeline, Image2Pipeline, Image3Pipeline):
        expected.add(pipeline.get_config_reftype())
        for step in pipeline.step_defs.values():
            expected.add(step.get_config_reftype())
            expected.update(step.reference_file_types)
    assert set(references.reference_types()) == expected
