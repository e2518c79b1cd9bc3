"""References: a made-up CRDS folder, the real crds library, a loopback server."""

from __future__ import annotations

import contextlib
import errno
import http.server
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from survey import reference_cache, references
from survey.digest import file_sha1
from survey.errors import ConfigError, DiskFullError, ReferencesError, ServiceUnreachableError
from survey.reference_lookup import read_primary_header
from survey.simulate.crds_server import CrdsServer

TYPES = ("flat", "mask", "rscd", "pars-jumpstep", "pars-tweakregstep", "gain")
ROOT = Path(__file__).resolve().parent.parent


def write_mapping(folder: Path, name: str, header: dict, selector: str) -> None:
    """A rule file with the checksum that crds wants."""
    from hashlib import sha1

    def text(checksum: str) -> str:
        lines = [f"    {key!r} : {value!r}," for key, value in {**header, "name": name}.items()]
        return "header = {\n" + "\n".join([*lines, f"    'sha1sum' : '{checksum}',"]) + "\n}\n\nselector = " + selector

    plain = "".join(line for line in text("").splitlines(True) if "sha1sum" not in line)
    (folder / name).write_text(text(sha1(plain.encode()).hexdigest()) + "")


def write_reference(path: Path, kind: str, value: float) -> None:
    header = {"TELESCOP": "JWST", "REFTYPE": kind.upper(), "INSTRUME": "NIRCAM", "USEAFTER": "2022-01-01T00:00:00"}
    primary = fits.PrimaryHDU(header=fits.Header(header))
    fits.HDUList([primary, fits.ImageHDU(np.full((8, 8), value, "f4"), name="SCI")]).writeto(path)


def make_observatory(folder: Path) -> Path:
    """Two contexts that differ in the F200W flat of NRCB1; flats have a second one from 2023 on."""
    mappings, files = folder / "mappings" / "jwst", folder / "references" / "jwst" / "nircam"
    mappings.mkdir(parents=True)
    files.mkdir(parents=True)
    for name, value in (("flat_0001", 1.0), ("flat_0002", 2.0), ("flat_0003", 3.0), ("mask_0001", 0.0)):
        write_reference(files / f"jwst_nircam_{name}.fits", name.split("_")[0], value)
    (files / "jwst_nircam_pars-jumpstep_0001.asdf").write_bytes(b"#ASDF 1.0.0\nmade up\n")
    common = {"observatory": "JWST", "derived_from": "made up"}
    dates = ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")
    rule = {**common, "mapping": "REFERENCE", "instrument": "NIRCAM", "classes": ("Match", "UseAfter")}

    def rmap(kind: str, number: int, parkeys: tuple, selector: str) -> None:
        header = {**rule, "filekind": kind.upper(), "parkey": (parkeys, dates), "suffix": kind}
        write_mapping(mappings, f"jwst_nircam_{kind}_{number:04d}.rmap", header, selector)

    for number, first in ((1, "flat_0001"), (2, "flat_0003")):
        selector = (
            "Match({\n    ('NRCB1', 'F200W') : UseAfter({\n"
            f"        '2021-01-01 00:00:00' : 'jwst_nircam_{first}.fits',\n"
            "        '2023-01-01 00:00:00' : 'jwst_nircam_flat_0002.fits',\n    }),\n})\n"
        )
        rmap("flat", number, ("META.INSTRUMENT.DETECTOR", "META.INSTRUMENT.FILTER"), selector)
    for kind, name in (("mask", "mask_0001.fits"), ("pars-jumpstep", "pars-jumpstep_0001.asdf")):
        selector = f"Match({{\n    ('NRCB1',) : UseAfter({{\n        '2021-01-01 00:00:00' : 'jwst_nircam_{name}',\n    }}),\n}})\n"
        rmap(kind, 1, ("META.INSTRUMENT.DETECTOR",), selector)
    for number in (1, 2):
        chosen = {kind: f"jwst_nircam_{kind}_0001.rmap" for kind in ("mask", "pars-jumpstep")}
        chosen |= {"flat": f"jwst_nircam_flat_{number:04d}.rmap", "rscd": "N/A", "pars-tweakregstep": "N/A"}
        header = {**common, "mapping": "INSTRUMENT", "instrument": "NIRCAM", "parkey": ("REFTYPE",)}
        write_mapping(mappings, f"jwst_nircam_{number:04d}.imap", header, selector_of(chosen))
        header = {**common, "mapping": "PIPELINE", "parkey": ("META.INSTRUMENT.NAME",)}
        write_mapping(
            mappings, f"jwst_{number:04d}.pmap", header, selector_of({"nircam": f"jwst_nircam_{number:04d}.imap"})
        )
    return write_catalog(folder)


def write_catalog(folder: Path) -> Path:
    found = [*(folder / "mappings" / "jwst").iterdir(), *(folder / "references" / "jwst" / "nircam").iterdir()]
    files = {path.name: {"sha1sum": file_sha1(path), "size": path.stat().st_size} for path in found}
    contexts = ["jwst_0001.pmap", "jwst_0002.pmap"]
    catalog = {"contexts": contexts, "operational": "jwst_0002.pmap", "files": files}
    (folder / "catalog.json").write_text(json.dumps(catalog))
    return folder


def selector_of(chosen: dict[str, str]) -> str:
    return "{\n" + "".join(f"    {key!r} : {value!r},\n" for key, value in chosen.items()) + "}\n"


def write_raw(path: Path, date: str = "2022-06-21", time_of_day: str = "10:00:00.0", detector: str = "NRCB1") -> Path:
    header = {"INSTRUME": "NIRCAM", "DETECTOR": detector, "FILTER": "F200W", "PUPIL": "CLEAR", "TSOVISIT": False}
    header |= {"DATE-OBS": date, "TIME-OBS": time_of_day, "EXP_TYPE": "NRC_IMAGE", "NGROUPS": 5, "TGROUP": 10.5}
    header |= {"TARGNAME": "O'NEIL", "OBSERVTN": "001"}
    fits.PrimaryHDU(header=fits.Header(header)).writeto(path)
    return path


class Server:
    """A CrdsServer on loopback, with a fault to switch on: 'silent', 'broken' (503), 'short', 'wrong'."""

    def __init__(self, folder: Path):
        self.crds, self.fault, self.requests = CrdsServer(folder), "", []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                outer.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self):
                outer.answer(self, b"")

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://localhost:{self.http.server_address[1]}/crds"

    def answer(self, handler, body: bytes) -> None:
        self.requests.append(handler.path)
        if self.fault == "silent" and handler.command == self.silent_for:
            time.sleep(30)
        status, kind, content = self.crds.handle(handler.command, handler.path.removeprefix("/crds"), body, self.url)
        data = content.read_bytes() if isinstance(content, Path) else content
        if self.fault == "broken":
            status, data = 503, b"busy"
        if isinstance(content, Path) and self.fault == "wrong":
            data = bytes(len(data))
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(data[: len(data) // 2] if isinstance(content, Path) and self.fault == "short" else data)

    silent_for = "POST"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.http.shutdown()
        self.http.server_close()


@dataclass
class Settings:
    server: str | None
    context: str
    cache: Path
    timeout_seconds: float = 20.0


@pytest.fixture(scope="module")
def observatory(tmp_path_factory) -> Path:
    return make_observatory(tmp_path_factory.mktemp("observatory") / "crds")


@pytest.fixture
def server(observatory):
    with Server(observatory) as running:
        yield running


@pytest.fixture
def raw(tmp_path) -> dict[str, Path]:
    return {
        "early": write_raw(tmp_path / "early.fits"),
        "same": write_raw(tmp_path / "same.fits", time_of_day="11:30:00.5"),
        "late": write_raw(tmp_path / "late.fits", date="2023-01-01", time_of_day="00:00:00.000"),
    }


@pytest.fixture(scope="module")
def full_cache(observatory, tmp_path_factory) -> Path:
    """A cache with everything that context 1 needs; tests copy it."""
    folder = tmp_path_factory.mktemp("full")
    raw = {"early": write_raw(folder / "a.fits"), "late": write_raw(folder / "b.fits", date="2023-05-01")}
    with Server(observatory) as running:
        references.sync(raw, Settings(running.url, "jwst_0001.pmap", folder / "cache"), types=TYPES)
    return folder / "cache"


def copy_cache(full: Path, to: Path) -> Path:
    return Path(shutil.copytree(full, to, copy_function=shutil.copy2))


def test_sync_fetches_what_the_rules_choose(server, raw, tmp_path):
    found = references.sync(raw, Settings(server.url, "jwst_0001.pmap", tmp_path / "cache"), types=TYPES)
    assert found.of("early") == {
        "flat": "jwst_nircam_flat_0001.fits",
        "mask": "jwst_nircam_mask_0001.fits",
        "rscd": "N/A",
        "pars-jumpstep": "jwst_nircam_pars-jumpstep_0001.asdf",
        "pars-tweakregstep": "N/A",
        "gain": found.of("early")["gain"],
    }
    assert list(found.not_found("early", TYPES)) == ["gain"]
    assert found.of("late")["flat"] == "jwst_nircam_flat_0002.fits"  # the use-after date itself is inside
    assert len(found.groups) == 2  # 'early' and 'same' differ in their time alone
    assert found.for_step("early", ["flat", "rscd", "gain"]) == {"flat": "jwst_nircam_flat_0001.fits"}
    for name, sha1 in found.files.items():
        assert file_sha1(found.path(name)) == sha1
    assert not list((tmp_path / "cache").glob(".part*"))


def test_rerun_asks_nothing_and_is_quick(server, raw, tmp_path):
    settings = Settings(server.url, "jwst_0001.pmap", tmp_path / "cache")
    first = references.sync(raw, settings, types=TYPES, record=tmp_path / "references.json")
    server.requests.clear()
    start = time.perf_counter()
    assert references.sync(raw, settings, types=TYPES, record=tmp_path / "references.json") == first
    assert time.perf_counter() - start < 0.5  # stat calls; a child process alone takes longer
    assert server.requests == []


@pytest.mark.parametrize("context", ["latest", "jwst-latest", "jwst-operational", None, "jwst_0001.pmap\n", "jwst_0001"])
def test_only_a_pinned_context_is_taken(server, context):
    with pytest.raises(ConfigError, match=r"Write jwst_0002\.pmap"):
        references.pin(context, server.url)


def test_pin_without_a_server_still_answers():
    assert references.pin("jwst_1584.pmap") == "jwst_1584.pmap"
    with pytest.raises(ConfigError, match="such as jwst_1584"):
        references.pin("latest", "http://localhost:9/crds", timeout_seconds=5)


def test_unknown_context_names_the_server(server, raw, tmp_path):
    with pytest.raises(ConfigError, match=r"jwst_0009\.pmap"):
        references.sync(raw, Settings(server.url, "jwst_0009.pmap", tmp_path / "cache"), types=TYPES)


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "mapping"])
def test_a_damaged_file_is_replaced(server, raw, full_cache, tmp_path, damage):
    cache = copy_cache(full_cache, tmp_path / "cache")
    flat = cache / "references/jwst/nircam/jwst_nircam_flat_0001.fits"
    good, size = file_sha1(flat), flat.stat().st_size
    mapping = cache / "mappings/jwst/jwst_nircam_flat_0001.rmap"
    if damage == "truncate":
        os.truncate(flat, size // 2)
    elif damage == "flip":
        flat.write_bytes(flat.read_bytes().replace(b"JWST", b"JUST"))
    elif damage == "delete":
        flat.unlink()
    else:
        mapping.write_text(mapping.read_text().replace("flat_0001.fits", "flat_0002.fits"))
    found = references.sync(raw, Settings(server.url, "jwst_0001.pmap", cache), types=TYPES)
    assert file_sha1(flat) == good == found.files[flat.name]
    assert reference_cache.mapping_is_whole(mapping)


@pytest.mark.parametrize("server_url", [None, "http://localhost:9/crds"])
def test_works_without_a_server_when_the_cache_suffices(raw, full_cache, tmp_path, server_url):
    cache = copy_cache(full_cache, tmp_path / "cache")
    found = references.sync(raw, Settings(server_url, "jwst_0001.pmap", cache), types=TYPES)
    assert len(found.files) == 4


def test_says_what_is_missing_without_a_server(raw, full_cache, tmp_path):
    cache = copy_cache(full_cache, tmp_path / "cache")
    (cache / "references/jwst/nircam/jwst_nircam_flat_0001.fits").unlink()
    os.truncate(cache / "references/jwst/nircam/jwst_nircam_mask_0001.fits", 100)
    with pytest.raises(ReferencesError) as caught:
        references.sync(raw, Settings(None, "jwst_0001.pmap", cache), types=TYPES)
    assert "flat_0001.fits: missing" in str(caught.value)
    assert "mask_0001.fits: 100 bytes" in str(caught.value)


def test_a_damaged_mapping_without_a_server(raw, full_cache, tmp_path):
    cache = copy_cache(full_cache, tmp_path / "cache")
    path = cache / "mappings/jwst/jwst_nircam_flat_0001.rmap"
    path.write_text(path.read_text().replace("2021", "2020"))
    with pytest.raises(ReferencesError, match=r"flat_0001\.rmap"):
        references.sync(raw, Settings(None, "jwst_0001.pmap", cache), types=TYPES)


def test_an_empty_cache_without_a_server(raw, tmp_path):
    with pytest.raises(ReferencesError, match=r"jwst_0001\.pmap"):
        references.sync(raw, Settings(None, "jwst_0001.pmap", tmp_path / "cache"), types=TYPES)


def test_a_silent_server_is_given_up(server, raw, tmp_path):
    server.fault = "silent"
    start = time.monotonic()
    with pytest.raises(ServiceUnreachableError):
        references.sync(raw, Settings(server.url, "jwst_0001.pmap", tmp_path / "cache", 2.0), types=TYPES)
    assert time.monotonic() - start < 10


def test_a_server_silent_in_mid_file_is_given_up(server, raw, full_cache, tmp_path):
    cache = copy_cache(full_cache, tmp_path / "cache")
    (cache / "references/jwst/nircam/jwst_nircam_flat_0001.fits").unlink()
    server.fault, server.silent_for = "silent", "GET"
    with pytest.raises(ServiceUnreachableError):
        references.sync(raw, Settings(server.url, "jwst_0001.pmap", cache, 5.0), types=TYPES)


def test_a_broken_server(server, raw, tmp_path):
    server.fault = "broken"
    with pytest.raises(ServiceUnreachableError):
        references.sync(raw, Settings(server.url, "jwst_0001.pmap", tmp_path / "cache"), types=TYPES)


@pytest.mark.parametrize("fault", ["short", "wrong"])
def test_bad_bodies_never_get_a_name(server, raw, full_cache, tmp_path, fault):
    cache = copy_cache(full_cache, tmp_path / "cache")
    flat = cache / "references/jwst/nircam/jwst_nircam_flat_0001.fits"
    flat.unlink()
    server.fault = fault
    with pytest.raises((ReferencesError, ServiceUnreachableError), match="flat_0001|none of 1"):
        references.sync(raw, Settings(server.url, "jwst_0001.pmap", cache), types=TYPES)
    assert not flat.exists()
    assert not list(cache.glob(".part*"))


def test_a_full_disk_says_so(server, raw, full_cache, tmp_path, monkeypatch):
    cache = copy_cache(full_cache, tmp_path / "cache")
    (cache / "references/jwst/nircam/jwst_nircam_flat_0001.fits").unlink()

    def full(self, url, wanted, part):
        return OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reference_cache._Downloads, "_transfer", full)
    with pytest.raises(DiskFullError, match="no space left"):
        references.sync(raw, Settings(server.url, "jwst_0001.pmap", cache), types=TYPES)


def test_one_cache_per_server(server, raw, full_cache, tmp_path):
    cache = copy_cache(full_cache, tmp_path / "cache")
    with pytest.raises(ConfigError, match="was filled from loopback"):
        references.sync(raw, Settings("https://crds.example.org", "jwst_0001.pmap", cache), types=TYPES)


def test_an_unreadable_raw_file_is_named(full_cache, raw, tmp_path):
    (tmp_path / "cut.fits").write_bytes(raw["early"].read_bytes()[:1000])
    with pytest.raises(ReferencesError, match="cut: ValueError"):
        references.sync(
            {**raw, "cut": tmp_path / "cut.fits"},
            Settings(None, "jwst_0001.pmap", copy_cache(full_cache, tmp_path / "cache")),
            types=TYPES,
        )


def test_what_another_context_would_change(server, raw, full_cache, tmp_path):
    cache = copy_cache(full_cache, tmp_path / "cache")
    before = references.sync(raw, Settings(server.url, "jwst_0001.pmap", cache), types=TYPES)
    references.sync(raw, Settings(server.url, "jwst_0002.pmap", cache), types=TYPES)
    after = references.best_references("jwst_0002.pmap", cache, raw, TYPES)
    change = {"flat": ("jwst_nircam_flat_0001.fits", "jwst_nircam_flat_0003.fits")}
    assert references.changed(before, after) == {"early": change, "same": change}


def _sync_in_a_process(url: str, cache: Path, raw: dict[str, Path], answers) -> None:
    answers.put(references.sync(raw, Settings(url, "jwst_0001.pmap", cache), types=TYPES).files)


@pytest.mark.slow
def test_many_processes_share_one_cache(server, raw, tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (server.url, tmp_path / "cache", raw, answers)
    processes = [context.Process(target=_sync_in_a_process, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert all(files == found[0] for files in found)
    fetched = [path for path in server.requests if path.endswith((".fits", ".asdf"))]
    assert len(fetched) == len(set(fetched)) == 4


WORKER = """
import json, socket, sys, time
from pathlib import Path
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


def test_a_worker_needs_no_network(server, raw, full_cache, tmp_path):
    cache = copy_cache(full_cache, tmp_path / "cache")
    found = references.sync(raw, Settings(server.url, "jwst_0001.pmap", cache), types=TYPES)
    server.requests.clear()
    before = sorted((str(path), path.stat().st_mtime_ns) for path in cache.rglob("*"))
    facts = {
        "meta.instrument.name": "NIRCAM",
        "meta.instrument.detector": "NRCB1",
        "meta.instrument.filter": "F200W",
        "meta.observation.date": "2022-06-21",
        "meta.observation.time": "10:00:00.0",
    }
    environment = {**os.environ, "CRDS_MAPPATH": "/nonexistent", **references.worker_environment(found)}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, json.dumps(facts)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["files"]["flat"] == str(found.path("jwst_nircam_flat_0001.fits"))
    assert answer["files"]["rscd"] == "NOT FOUND n/a"
    assert answer["context"] == "jwst_0001.pmap"
    assert answer["seconds"] < 5  # no retries, no timeouts
    assert server.requests == []
    assert before == sorted((str(path), path.stat().st_mtime_ns) for path in cache.rglob("*"))


def test_the_header_reader_agrees_with_astropy(raw):
    ours = read_primary_header(raw["early"])
    theirs = fits.getheader(raw["early"])
    assert ours == {key: theirs[key] for key in theirs if key}
    assert ours["TSOVISIT"] is False
    assert ours["TARGNAME"] == "O'NEIL"


def test_references_survive_json(full_cache, raw, tmp_path):
    cache = copy_cache(full_cache, tmp_path / "cache")
    found = references.sync(raw, Settings(None, "jwst_0001.pmap", cache), types=TYPES)
    assert references.References.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.pipeline
def test_reference_types_are_those_of_the_installed_pipeline():
    from jwst.pipeline import Detector1Pipeline, Image2Pipeline, Image3Pipeline

    expected: set[str] = set()
    for pipeline in (Detector1Pipeline, Image2Pipeline, Image3Pipeline):
        expected.add(pipeline.get_config_reftype())
        for step in pipeline.step_defs.values():
            expected.add(step.get_config_reftype())
            expected.update(step.reference_file_types)
    assert set(references.reference_types()) >= expected
    assert set(references.reference_types()) - expected == set()
