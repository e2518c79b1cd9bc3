"""Every fault of archive, CRDS server and config, by the real command line: ``python benchmarks/faults.py [--json]``.

    python benchmarks/faults.py --only "drip|silent" --at-once 2

A small simulated observatory is served with one fault at a time; the command runs with the config's default limits.
The table says what it ended with, after how many seconds, and what was kept: files that are whole, byte by byte.
Seconds count from the first request that the server sees, so that a busy machine's start-up of Python is left out (the
whole time stands beside them in --json); without a request, from the start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measure import ROOT, SURVEY, say

from survey.archive.download import Part
from survey.config.model import read_config
from survey.digest import file_sha1, file_sha256
from survey.reduction import inputs
from survey.simulate.faults import Fault
from survey.simulate.server import serve

SCENE = ROOT / "tests" / "whole_scene.yaml"
ONE = "jw01345001001_02201_00001_nrcb1"
CONFIG = {
    "survey": "faults",
    "program": 1345,
    "archive": {},
    "references": {"context": "jwst_0001.pmap", "cache": "crds"},
    "workspace": "ws",
}
TRACEBACK = -1  # in place of an exit code: what no fault may end with
GIVE_UP_SECONDS = 600.0  # of a command: 120 is what is promised, of a machine that has nothing else to do


@dataclass
class Bench:
    """What one case works with: its own folder, its own server."""

    folder: Path
    server: Any
    observatory: Path
    processes: int = 1
    config: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(CONFIG)))


@dataclass(frozen=True)
class Case:
    part: str  # 'archive', 'CRDS' or 'config'
    fault: str
    command: str
    code: int  # expected
    faults: tuple[dict[str, Any], ...] = ()
    prepare: Callable[[Bench], None] | None = None
    text: bytes | None = None  # the config's own, in place of CONFIG


@dataclass(frozen=True)
class Result:
    part: str
    fault: str
    expected: int
    code: int
    seconds: float  # since the first request
    whole_seconds: float
    said: str
    kept: str


def fault(kind: str, match: str = "", **changes: Any) -> tuple[dict[str, Any], ...]:
    return ({"kind": kind, "match": match, **changes},)


def once_each(kind: str, *matches: str, **changes: Any) -> tuple[dict[str, Any], ...]:
    """A fault of the first request that each pattern matches."""
    return tuple({"kind": kind, "match": match, "times": 1, **changes} for match in matches)


def resume(kind: str) -> Callable[[Bench], None]:
    """A part of the file lies there from an earlier try; the server answers the Range request in the wrong way."""

    def prepare(bench: Bench) -> None:
        (bench.folder / "ws" / "raw").mkdir(parents=True)
        part = Part(bench.folder / "ws" / "raw", f"{ONE}_uncal.fits")
        part.start("")
        part.path.write_bytes((bench.observatory / "raw" / f"{ONE}_uncal.fits").read_bytes()[:100_000])
        bench.server.faults.add(Fault(kind=kind, match=f"GET .*{ONE}", bytes=2880, times=1))

    return prepare


def no_server(part: str) -> Callable[[Bench], None]:
    return lambda bench: bench.config[part].update(server="http://127.0.0.1:9")


def close_observation(bench: Bench) -> None:
    for name, row in bench.server.archive.exposures.items():
        row["proprietary"] = name.endswith("nrcb1")


def wrong_size(bench: Bench) -> None:
    bench.server.faults.add(Fault(kind="row", match=f"{ONE}_uncal", columns={"size": 2880}))


def unknown_context(bench: Bench) -> None:
    bench.config["references"]["context"] = "jwst_0999.pmap"


def filled_cache(bench: Bench) -> Path:
    """A cache that holds all that is needed, through the command itself."""
    write_config(bench)
    run(bench, "refs")
    return bench.folder / "crds"


def truncated_reference(bench: Bench) -> None:
    flat = next(filled_cache(bench).rglob("*flat*.fits"))
    os.truncate(flat, flat.stat().st_size // 2)


def damaged_cache_without_server(bench: Bench) -> None:
    truncated_reference(bench)
    no_server("references")(bench)


def full_cache_without_server(bench: Bench) -> None:
    filled_cache(bench)
    (bench.folder / "ws" / "references.json").unlink()
    no_server("references")(bench)


def small_cache_disk(bench: Bench) -> None:
    (bench.folder / "crds").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(bench.folder / "crds")]
    subprocess.run(command, check=True, capture_output=True)


def ten_at_once(bench: Bench) -> None:
    bench.processes = 10
    for number in range(1, bench.processes):
        fetch_raw(bench, f"ws{number}")


QUERY, FILES, CRDS, REFERENCES = "POST ", "GET .*Download", "/crds", "GET /crds.*references"
REQUESTS = ("columnsconfig", "Mast.Caom.Filtered", "Mast.Caom.Products", FILES)
CRDS_REQUESTS = ("POST .*get_server_info", "POST .*get_mapping_names", "GET /crds.*pmap", REFERENCES)
FILE = f"GET .*{ONE}"
FLAT = "GET /crds.*_flat_.*fits"
SLOW = {"bytes": 1, "seconds": 0.1}
PASSES = "; passes"
WRONG = b"""\
survey: EGS
program: 1345
fliters: [F200W]
archive: {sever: x}
references: {context: latest, cache: crds, server: null}
steps:
  - detector1: {jump: {rejection_treshold: 4}}
  - imge2
mosaic: {kernel: squar, tile: many}
workspace: ws
"""
CASES = (
    # Archive, passing
    Case("archive", "none", "fetch", 0),
    Case("archive", "HTTP 503, twice" + PASSES, "fetch", 0, fault("error", FILES, times=2)),
    Case("archive", "HTTP 503 to the query" + PASSES, "fetch", 0, fault("error", QUERY, times=2)),
    Case("archive", "HTTP 429, Retry-After 5" + PASSES, "fetch", 0,
         fault("error", FILES, status=429, retry_after="5", times=1)),
    Case("archive", "connection reset in a body" + PASSES, "fetch", 0, fault("reset", FILES, bytes=50_000, times=2)),
    Case("archive", "silence" + PASSES, "fetch", 0, fault("silence", FILES, times=1)),
    Case("archive", "each request once: silence" + PASSES, "fetch", 0, once_each("silence", *REQUESTS)),
    Case("archive", "each request once: answer after 20 s" + PASSES, "fetch", 0,
         once_each("delay", *REQUESTS, seconds=20)),
    Case("archive", "each request once: 10 bytes a second" + PASSES, "fetch", 0, once_each("drip", *REQUESTS, **SLOW)),
    Case("archive", "each request once: headers that never end" + PASSES, "fetch", 0,
         once_each("drip_headers", *REQUESTS, seconds=0.5)),
    Case("archive", "each request once: reset" + PASSES, "fetch", 0, once_each("reset", *REQUESTS)),
    Case("archive", "each request once: HTTP 502" + PASSES, "fetch", 0, once_each("error", *REQUESTS, status=502)),
    Case("archive", "each request once: truncated body" + PASSES, "fetch", 0, once_each("short", *REQUESTS, bytes=1)),
    Case("archive", "EXECUTING, then silence to the poll" + PASSES, "fetch", 0,
         (*once_each("executing", "Mast.Caom.Filtered"), *once_each("silence", "Mast.Caom.Filtered"))),
    Case("archive", "body of 10 bytes a second" + PASSES, "fetch", 0, fault("drip", FILES, **SLOW, times=1)),
    Case("archive", "short body" + PASSES, "fetch", 0, fault("short", FILES, bytes=50_000, times=2)),
    Case("archive", "Content-Length 100 too large" + PASSES, "fetch", 0,
         fault("wrong_length", FILES, bytes=100, times=1)),
    Case("archive", "Content-Length 100 too small" + PASSES, "fetch", 0,
         fault("wrong_length", FILES, bytes=-100, times=1)),
    Case("archive", "body of no bytes" + PASSES, "fetch", 0, fault("empty", FILES, times=1)),
    Case("archive", "200 to a Range request", "fetch", 0, prepare=resume("ignore_range")),
    Case("archive", "another range than asked for", "fetch", 0, prepare=resume("wrong_range")),
    Case("archive", "HTML page with status 200" + PASSES, "fetch", 0, fault("html", FILES, times=1)),
    Case("archive", "HTML page in place of JSON" + PASSES, "fetch", 0, fault("html", QUERY, times=1)),
    Case("archive", "JSON that ends in the middle" + PASSES, "fetch", 0,
         fault("unsized", "invoke", bytes=400, times=1)),
    Case("archive", "EXECUTING three times" + PASSES, "fetch", 0, fault("executing", "Mast.Caom.Products", times=3)),
    Case("archive", "bodies packed by a proxy", "fetch", 0, fault("gzip", "")),
    # Archive, lasting
    Case("archive", "one file: HTTP 500", "fetch", 1, fault("error", FILE, status=500)),
    Case("archive", "one file: HTTP 404", "fetch", 1, fault("error", FILE, status=404)),
    Case("archive", "one file: silence", "fetch", 1, fault("silence", FILE)),
    Case("archive", "one file: body of 10 bytes a second", "fetch", 1, fault("drip", FILE, **SLOW)),
    Case("archive", "one file: wrong bytes of equal length", "fetch", 1, fault("corrupt", FILE)),
    Case("archive", "one file: body of no bytes", "fetch", 1, fault("empty", FILE)),
    Case("archive", "one file: HTML page with status 200", "fetch", 1, fault("html", FILE)),
    Case("archive", "one file: gzip that holds 1 GB", "fetch", 1, fault("bomb", FILE, bytes=1 << 30)),
    Case("archive", "one file: wrong size in its row", "fetch", 1, prepare=wrong_size),
    Case("archive", "one file: 429, Retry-After 3600", "fetch", 1,
         fault("error", FILE, status=429, retry_after="3600")),
    Case("archive", "no server", "fetch", 3, prepare=no_server("archive")),
    Case("archive", "everything 503", "fetch", 3, fault("error", "")),
    Case("archive", "everything 429, Retry-After 3600", "fetch", 3, fault("error", "", status=429, retry_after="3600")),
    Case("archive", "silent from the start", "fetch", 3, fault("silence", "")),
    Case("archive", "silent to product lists", "fetch", 3, fault("silence", "Mast.Caom.Products")),
    Case("archive", "silent to downloads", "fetch", 3, fault("silence", FILES)),
    Case("archive", "headers that never end", "fetch", 3, fault("drip_headers", "", seconds=0.5)),
    Case("archive", "headers of files that never end", "fetch", 3, fault("drip_headers", FILES, seconds=0.5)),
    Case("archive", "everything drips, 10 bytes a second", "fetch", 3, fault("drip", "", **SLOW)),
    Case("archive", "files drip, 1 kB a second", "fetch", 3, fault("drip", FILES, bytes=100, seconds=0.1)),
    Case("archive", "EXECUTING for ever", "fetch", 3, fault("executing", "invoke")),
    Case("archive", "status ERROR for ever", "fetch", 3, fault("portal_error", "invoke")),
    Case("archive", "HTML in place of JSON", "fetch", 3, fault("html", QUERY)),
    Case("archive", "HTML in place of files", "fetch", 3, fault("html", FILES)),
    Case("archive", "files 429, Retry-After 3600", "fetch", 3, fault("error", FILES, status=429, retry_after="3600")),
    Case("archive", "files 503", "fetch", 3, fault("error", FILES)),
    Case("archive", "query packed: 4 GB in 4 MB", "fetch", 3, fault("bomb", "invoke", bytes=4 << 30)),
    Case("archive", "token expired, 401 to every file", "fetch", 3, fault("error", FILES, status=401)),
    Case("archive", "403 to the query", "fetch", 3, fault("error", QUERY, status=403)),
    Case("archive", "two files of four need a token", "fetch", 3, prepare=close_observation),
    # CRDS
    Case("CRDS", "none", "refs", 0),
    Case("CRDS", "HTTP 503, once" + PASSES, "refs", 0, fault("error", CRDS, times=1)),
    Case("CRDS", "429 to a file, Retry-After 5" + PASSES, "refs", 0,
         fault("error", FLAT, status=429, retry_after="5", times=1)),
    Case("CRDS", "wrong bytes of equal length" + PASSES, "refs", 0, fault("corrupt", FLAT, bytes=5000, times=1)),
    Case("CRDS", "reset in a body" + PASSES, "refs", 0, fault("reset", FLAT, bytes=5000, times=1)),
    Case("CRDS", "silence" + PASSES, "refs", 0, fault("silence", FLAT, times=1)),
    Case("CRDS", "each request once: silence" + PASSES, "refs", 0, once_each("silence", *CRDS_REQUESTS)),
    Case("CRDS", "each request once: answer after 20 s" + PASSES, "refs", 0,
         once_each("delay", *CRDS_REQUESTS, seconds=20)),
    Case("CRDS", "each request once: 10 bytes a second" + PASSES, "refs", 0, once_each("drip", *CRDS_REQUESTS, **SLOW)),
    Case("CRDS", "each request once: headers that never end" + PASSES, "refs", 0,
         once_each("drip_headers", *CRDS_REQUESTS, seconds=0.5)),
    Case("CRDS", "each request once: reset" + PASSES, "refs", 0, once_each("reset", *CRDS_REQUESTS)),
    Case("CRDS", "each request once: HTTP 502" + PASSES, "refs", 0, once_each("error", *CRDS_REQUESTS, status=502)),
    Case("CRDS", "each request once: truncated body" + PASSES, "refs", 0, once_each("short", *CRDS_REQUESTS, bytes=1)),
    Case("CRDS", "each request once: HTML page" + PASSES, "refs", 0, once_each("html", *CRDS_REQUESTS)),
    Case("CRDS", "truncated file in the cache", "refs", 0, prepare=truncated_reference),
    Case("CRDS", "no server, cache suffices", "refs", 0, prepare=full_cache_without_server),
    Case("CRDS", "ten processes, one cache", "refs", 0, prepare=ten_at_once),
    Case("CRDS", "one file: SHA-1 is not the listed one", "refs", 1, fault("corrupt", FLAT, bytes=5000)),
    Case("CRDS", "one file: HTTP 500", "refs", 1, fault("error", FLAT, status=500)),
    Case("CRDS", "one file: silence", "refs", 1, fault("silence", FLAT)),
    Case("CRDS", "one file: body of 10 bytes a second", "refs", 1, fault("drip", FLAT, **SLOW)),
    Case("CRDS", "no server, truncated file in the cache", "refs", 1, prepare=damaged_cache_without_server),
    Case("CRDS", "context that the server does not know", "refs", 2, prepare=unknown_context),
    Case("CRDS", "no server, empty cache", "refs", 3, prepare=no_server("references")),
    Case("CRDS", "everything 503", "refs", 3, fault("error", CRDS)),
    Case("CRDS", "everything 403", "refs", 3, fault("error", CRDS, status=403)),
    Case("CRDS", "silent from the start", "refs", 3, fault("silence", CRDS)),
    Case("CRDS", "everything drips, 10 bytes a second", "refs", 3, fault("drip", CRDS, **SLOW)),
    Case("CRDS", "HTML in place of JSON", "refs", 3, fault("html", "POST /crds")),
    Case("CRDS", "silent to references", "refs", 3, fault("silence", REFERENCES)),
    Case("CRDS", "cache on a full disk (20 MB)", "refs", 5, prepare=small_cache_disk),
    # Config
    Case("config", "eight faults at once", "plan", 2, text=WRONG),
    Case("config", "a key twice", "plan", 2, text=b"survey: a\nsurvey: b\n"),
    Case("config", "no YAML", "plan", 2, text=b"survey: egs\nfilters: [F200W\nprogram: 1345\n"),
    Case("config", "a tag that makes objects", "plan", 2, text=b"survey: !!python/object/apply:os.system [id]\n"),
    Case("config", "aliases that expand to gigabytes", "plan", 2,
         text=b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n, n, n - 1, n - 1) for n in range(98, 122))),
    Case("config", "400,000 brackets", "plan", 2, text=b"a: " + b"[" * 400_000),
    Case("config", "0.9 MB of unknown keys", "plan", 2, text=b"".join(b"k%06d: 1\n" % n for n in range(80_000))),
    Case("config", "10 MB", "plan", 2, text=b"# " + b"x" * 10_000_000),
    Case("config", "binary file", "plan", 2, text=bytes(range(256)) * 40),
    Case("config", "not UTF-8", "plan", 2, text="survey: a\ntarget: \u00e9\n".encode("latin-1")),
    Case("config", "empty file", "plan", 2, text=b""),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose 'part: fault' matches this regular expression")
    parser.add_argument("--at-once", type=int, default=4, help="cases that run at the same time; most of them wait")
    parser.add_argument("--observatory", type=Path, help="made by 'survey simulate'; default: a new small one")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    chosen = [case for case in CASES if re.search(given.only, f"{case.part}: {case.fault}")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        observatory = given.observatory or folder / "observatory"
        if given.observatory is None:
            command = [*SURVEY, "simulate", observatory, "--scene", SCENE]
            subprocess.run(command, check=True, cwd=ROOT, env=environment(), capture_output=True)
        with ThreadPoolExecutor(given.at_once) as pool:
            numbered = enumerate(chosen)
            results = list(pool.map(lambda item: try_case(item[1], folder / str(item[0]), observatory), numbered))
    if given.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    else:
        print_table(results)
    sys.exit(1 if any(result.code != result.expected for result in results) else 0)


def fetch_raw(bench: Bench, workspace: str = "ws") -> None:
    """Bring every raw file into a workspace, in this process and without faults: the cases of the CRDS server."""
    write_config(bench)
    inputs.fetch(read_config(bench.folder / "c.yaml", workspace=bench.folder / workspace))


def try_case(case: Case, folder: Path, observatory: Path) -> Result:
    folder.mkdir()
    with serve(observatory) as server, unmounted(folder / "crds"):
        bench = Bench(folder, server, observatory)
        if case.command == "refs":
            fetch_raw(bench)
        if case.prepare is not None:
            case.prepare(bench)
        server.faults.add(*(Fault(**item) for item in case.faults))
        write_config(bench, case.text)
        with first_request(server) as since:
            code, said, whole_seconds = run(bench, case.command)
            seconds = time.monotonic() - since[0] if since else whole_seconds
        kept = kept_files(bench, case)
    unexpected = "" if code == case.code else f", EXPECTED {case.code}"
    say(f"{case.part}: {case.fault}: {code} after {seconds:.1f} of {whole_seconds:.1f} s{unexpected}; {kept}; {said}")
    shutil.rmtree(folder, ignore_errors=True)
    return Result(case.part, case.fault, case.code, code, round(seconds, 1), round(whole_seconds, 1), said, kept)


@contextlib.contextmanager
def first_request(server: Any) -> Iterator[list[float]]:
    """The moment of the next request, as the only entry of a list once it has come."""
    before, found, over = len(server.requests), [], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if len(server.requests) > before:
                found.append(time.monotonic())
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield found
    finally:
        over.set()


@contextlib.contextmanager
def unmounted(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        if folder.is_mount():
            subprocess.run(["umount", "-l", str(folder)], check=True)


def write_config(bench: Bench, text: bytes | None = None) -> None:
    values = json.loads(json.dumps(bench.config))
    values["archive"].setdefault("server", bench.server.url)
    values["references"].setdefault("server", bench.server.crds_url)
    (bench.folder / "c.yaml").write_bytes(json.dumps(values).encode() if text is None else text)


def run(bench: Bench, name: str) -> tuple[int, str, float]:
    """Exit code, what was said, seconds; of the slowest where there are several processes."""
    start = time.monotonic()
    commands: list[Sequence[str]] = [(*SURVEY, name, "c.yaml")]
    for number in range(1, bench.processes):
        commands.append((*SURVEY, name, "c.yaml", "--workspace", f"ws{number}"))
    keep: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    started = [subprocess.Popen(command, cwd=bench.folder, **keep) for command in commands]
    said = [process.communicate(timeout=GIVE_UP_SECONDS * bench.processes)[1] for process in started]
    code = max(process.returncode for process in started)
    if any("Traceback" in text for text in said):
        return TRACEBACK, said[0].splitlines()[-1], time.monotonic() - start
    lines = [line for line in "".join(said).splitlines() if line and not line.startswith(("INFO", "DEBUG"))]
    return code, shortened(bench, lines), time.monotonic() - start


def environment() -> dict[str, str]:
    dropped = ("MAST_API_TOKEN", "CRDS_PATH", "CRDS_SERVER_URL", "CRDS_CONTEXT")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": str(ROOT)}


def shortened(bench: Bench, lines: list[str]) -> str:
    """What the user reads first that names the fault, without this run's folders and ports."""
    said = [line for line in lines if not re.match(r"\d+ exposures|\d+/\d+ |fetch: ", line)]
    text = " / ".join(said[:2]) + (f" / ... ({len(said)} lines)" if len(said) > 2 else "")
    text = text.replace(f"{bench.folder}/", "").replace("localhost", "HOST").replace("127.0.0.1", "HOST")
    text = re.sub(r"HOST:\d+", "HOST", text)
    return text if len(text) <= 260 else text[:257] + "..."


def kept_files(bench: Bench, case: Case) -> str:
    """Files under their final names, and whether each is what the observatory has."""
    if case.part == "config":
        return "nothing started" if not (bench.folder / "ws").exists() else "A WORKSPACE WAS MADE"
    if case.command == "fetch":
        there = sorted((bench.folder / "ws" / "raw").glob("*_uncal.fits"))
        whole = [path for path in there if file_sha256(path) == file_sha256(bench.observatory / "raw" / path.name)]
        return f"{len(whole)} of {len(list((bench.observatory / 'raw').iterdir()))} raw files{damaged(there, whole)}"
    listed = json.loads((bench.observatory / "crds" / "catalog.json").read_text())["files"]
    there = [path for path in (bench.folder / "crds").rglob("*") if path.name in listed]
    whole = [path for path in there if file_sha1(path) == listed[path.name]["sha1sum"]]
    return f"{len(whole)} CRDS files{damaged(there, whole)}"


def damaged(there: list[Path], whole: list[Path]) -> str:
    return f", {len(there) - len(whole)} DAMAGED" if len(there) != len(whole) else ""


def print_table(results: list[Result]) -> None:
    print("| Fault | Exit code | Seconds | What the user sees | What was kept |\n|---|---|---|---|---|")
    for result in results:
        unexpected = "" if result.code == result.expected else f" (expected {result.expected})"
        said = result.said.replace("|", "\\|") or "(all done)"
        row = (
            f"{result.part}: {result.fault}",
            f"{result.code}{unexpected}",
            f"{result.seconds:.1f}",
            said,
            result.kept,
        )
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
