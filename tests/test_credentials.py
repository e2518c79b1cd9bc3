"""The archive's token: where it must go, and every byte of everything else, in which it must not be."""

from __future__ import annotations

import html
import http.server
import logging
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest
from observatory import make_observatory
from stub_steps import ENVIRONMENT
from whole_run import SENTINEL

from survey import credentials
from survey.archive.fetch import FetchSettings, fetch
from survey.archive.query import find_exposures
from survey.config.values import expand
from survey.credentials import MASK, TOKEN, hidden, scrub, without
from survey.errors import ServiceError, ServiceUnreachableError, SurveyError
from survey.execution.children import ChildServer
from survey.models import Exposure
from survey.simulate.server import serve

TESTS = Path(__file__).parent
NAME = "jw01345003001_02101_00001_nrcb1"
QUICK = FetchSettings(downloads=1, retries=1, timeout_seconds=2.0, backoff_seconds=0.01)


@pytest.fixture(autouse=True)
def forget():
    yield
    credentials._seen.clear()


def spellings(secret: str = SENTINEL) -> list[bytes]:
    words = (secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote(secret), html.escape(secret))
    return [word.encode() for word in dict.fromkeys(words)]


def holders(folder: Path) -> list[str]:
    """Files of which a byte sequence, or the name, is the token."""
    found = []
    for path in sorted(folder.rglob("*")):
        content = os.fsencode(path) + (path.read_bytes() if path.is_file() else b"")
        if path.is_symlink():
            content += os.fsencode(os.readlink(path))
        if any(word in content for word in spellings()):
            found.append(str(path))
    return found


# --- the words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", spellings())
def test_every_spelling_is_blotted_out(monkeypatch, spelling):
    monkeypatch.setenv(TOKEN, SENTINEL)
    assert scrub(f"<a href='/x?t={spelling.decode()}'>") == f"<a href='/x?t={MASK}'>"
    monkeypatch.delenv(TOKEN)
    assert MASK in scrub(spelling.decode(), SENTINEL)


def test_what_is_no_token_stays(monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    assert scrub("a plain word") == "a plain word"
    monkeypatch.setenv(TOKEN, "a")  # too short to be one
    assert scrub("a plain word") == "a plain word"


def test_it_is_blotted_out_also_while_it_is_hidden(monkeypatch):
    monkeypatch.setenv(TOKEN, SENTINEL)
    with pytest.raises(KeyError), hidden():
        assert TOKEN not in os.environ
        assert scrub(f"sent {SENTINEL}") == f"sent {MASK}"
        raise KeyError
    assert os.environ[TOKEN] == SENTINEL


def test_a_config_cannot_take_it_in(monkeypatch):
    monkeypatch.setenv(TOKEN, SENTINEL)
    for text in (f"${{{TOKEN}}}", f"https://host/${{{TOKEN}:-none}}"):
        with pytest.raises(ValueError, match="is a secret") as raised:
            expand(text)
        assert SENTINEL not in str(raised.value)


# --- processes ---------------------------------------------------------------------------------------------------


def test_children_do_not_inherit_it(monkeypatch, tmp_path):
    monkeypatch.setenv(TOKEN, SENTINEL)
    server = ChildServer({**ENVIRONMENT, "SURVEY_PRELOAD": ""})
    try:
        server.run("child_jobs:write_environment", tmp_path, tmp_path / "log", 20.0)
        inherited = Path(f"/proc/{server._process.pid}/environ").read_bytes()
    finally:
        server.close()
    written = (tmp_path / "environment").read_text()
    assert "SURVEY_PRELOAD=" in written and TOKEN not in written and SENTINEL not in written
    assert TOKEN.encode() not in inherited
    assert without({TOKEN: SENTINEL, "HOME": "/"}) == {"HOME": "/"}


# --- servers that tell on us -------------------------------------------------------------------------------------


class _Echo(http.server.BaseHTTPRequestHandler):
    """Sends the cookie back in every place that an answer has."""

    kind = ""
    asked: list[str]

    def log_message(self, format, *args):
        """Quiet."""

    def do_POST(self):
        self.do_GET()

    def do_GET(self):
        cookie = self.headers.get("Cookie", "")
        type(self).asked.append(cookie)
        told = cookie.partition("=")[2]
        body = f"<html>{html.escape(told)} {told}</html>".encode()
        status, reason, headers = 200, "OK", {"Content-Type": "application/fits", "ETag": f'"{told}"'}
        if self.kind == "reason":
            status, reason = 500, f"no good token: {told}"
        elif self.kind == "final reason":
            status, reason = 404, f"no good token: {told}"
        elif self.kind == "page":
            headers = {"Content-Type": f"text/html; token={told}"}
        elif self.kind == "json":
            headers, body = {"Content-Type": "text/plain"}, f'{{"status": "ERROR {told}", "msg": "{told}"}}'.encode()
        elif self.kind == "range":
            status, headers = 206, {"Content-Range": f"bytes {told}"}
        elif self.kind == "redirect":
            status, headers = 302, {"Location": f"http://127.0.0.1:9/{urllib.parse.quote(told)}?t={told}"}
        elif self.kind == "odd address":
            status, headers = 302, {"Location": f"http://[{told}/"}
        elif self.kind == "refused":
            status, reason = 401, told
        elif self.kind == "status line":
            self.wfile.write(f"HTTP/1.1 {told}\r\n\r\n".encode())
            self.close_connection = True
            return
        self.send_response(status, reason)
        length = len(body) + 5000 if self.kind == "part" else len(body)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@pytest.fixture
def echo():
    handler = type("Echo", (_Echo,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("in_environment", [True, False])
@pytest.mark.parametrize(
    "kind",
    ["reason", "final reason", "page", "range", "redirect", "odd address", "refused", "status line", "part", "body"],
)
def test_a_server_that_echoes_it_finds_no_one_to_tell(echo, tmp_path, monkeypatch, caplog, kind, in_environment):
    server, handler = echo
    handler.kind = kind
    if in_environment:
        monkeypatch.setenv(TOKEN, SENTINEL)
    caplog.set_level(logging.DEBUG)
    wanted = [Exposure(NAME, 1345, 3, 1, "NRCB1", "F200W", uri=f"mast:JWST/product/{NAME}_uncal.fits")]
    texts = []
    try:
        report = fetch(wanted, tmp_path / "raw", server=server, token=SENTINEL, settings=QUICK)
        texts += [*report.missing.values(), *report.refused.values(), str(report.error), repr(report)]
    except SurveyError as error:
        import traceback

        texts += [str(error), *traceback.format_exception(error)]
    assert SENTINEL in handler.asked[0]  # the server had it to tell
    shown = "\n".join(texts).encode() + caplog.text.encode()
    assert shown and not any(word in shown for word in spellings()), shown.decode()
    assert (tmp_path / "raw").is_dir() and holders(tmp_path / "raw") == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reason", "page", "json", "refused"])
def test_the_query_sends_no_token_and_its_errors_hold_none(echo, monkeypatch, kind):
    server, handler = echo
    handler.kind = kind
    monkeypatch.setenv(TOKEN, SENTINEL)
    with pytest.raises(ServiceError) as raised:
        find_exposures(1345, server=server, timeout_seconds=3.0, retries=0)
    assert handler.asked and not any(handler.asked)
    assert SENTINEL not in str(raised.value)


@pytest.mark.slow
def test_a_portal_that_knows_it_from_elsewhere_is_scrubbed(monkeypatch):
    from survey.archive.client import ask

    monkeypatch.setenv(TOKEN, SENTINEL)

    class Reply:
        def json(self):
            return {"status": f"ERROR {SENTINEL}", "msg": f"token {SENTINEL} has ended"}

    with pytest.raises(ServiceUnreachableError, match=r"token \*\*\* has ended") as raised:
        ask("https://archive.example.org", lambda: [Reply()])
    assert SENTINEL not in str(raised.value)


# --- a whole run with stub steps ---------------------------------------------------------------------------------

RUN = """
import os, sys
from pathlib import Path
import stub_steps
from survey.reduction import job as reduction
from survey.cli.main import console
from distributed.comm import tcp

def noted(function, part):
    async def wrapped(self, *arguments, **options):
        if part == "sent":
            note(arguments[0])
        answer = await function(self, *arguments, **options)
        if part == "received":
            note(answer)
        return answer
    return wrapped

def note(message):
    from distributed.protocol import dumps
    with open(os.environ["COMMS"], "ab") as stream:
        for frame in dumps(message):
            stream.write(bytes(frame))

def look(record, reused):
    import psutil
    seen = Path(os.environ["ENVIRONMENTS"])
    for process in psutil.Process().children(recursive=True):
        try:
            (seen / f"{process.pid}").write_bytes(Path(f"/proc/{process.pid}/environ").read_bytes())
        except OSError:
            pass

class References(stub_steps.FakeReferences):
    cache = "cache"

if __name__ == "__main__":
    tcp.TCP.read, tcp.TCP.write = noted(tcp.TCP.read, "received"), noted(tcp.TCP.write, "sent")
    reduction.sync_references = lambda config, exposures: References()
    run = reduction._run_tasks
    def watched(job, made, references):
        def watch(plan):
            progress = job.callbacks.watch(plan)
            return lambda *decided: (progress(*decided), look(*decided))
        callbacks = reduction.replace(job.callbacks, watch=watch)
        return run(reduction.replace(job, callbacks=callbacks), made, references)
    reduction._run_tasks = watched
    sys.argv = ["survey", *sys.argv[1:]]
    console()
"""
CONFIG = """\
survey: t
program: 1345
observations: [3]
archive: {{server: "{server}", timeout_seconds: 20}}
references: {{server: null, context: jwst_0001.pmap, cache: cache}}
steps: [detector1: {{}}, image2: {{}}]
mosaic: {{engine: stock, max_missing: 1}}
workspace: ws
"""


@pytest.mark.slow
def test_not_a_byte_of_a_run_holds_it(tmp_path):
    """Proprietary files are fetched with it; it is in no file, no message between dask's processes, no environment,
    no line.
    """
    make_observatory(tmp_path / "observatory", observations=(3,), exposures=1)
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "environments").mkdir()
    workspace = tmp_path / "ws"
    (workspace / "attempts").mkdir(parents=True)
    failing = f"detector1/{NAME}"
    (workspace / "faults.json").write_text(f'{{"{failing}": ["never"]}}')  # a failure tells more than a success
    paths = {"COMMS": str(tmp_path / "comms"), "ENVIRONMENTS": str(tmp_path / "environments")}
    with serve(tmp_path / "observatory", token=SENTINEL) as server:
        (tmp_path / "c.yaml").write_text(CONFIG.format(server=server.url))
        done = subprocess.run(
            [sys.executable, "run.py", "--verbose", "run", "c.yaml", "--json"], cwd=tmp_path, capture_output=True,
            timeout=200, env={**os.environ, **ENVIRONMENT, **paths, TOKEN: SENTINEL},
        )  # fmt: skip
        assert [item.status for item in server.downloads()] == [200] * 3  # refused without it
    assert done.returncode == 1, done.stderr.decode()
    assert failing.encode() in done.stdout + done.stderr and b"bad pixels" in done.stderr
    said = done.stdout + done.stderr + (tmp_path / "comms").read_bytes()
    assert not any(word in said for word in spellings())
    assert NAME.encode() in (tmp_path / "comms").read_bytes()  # the recorder heard the tasks
    environments = {path.name: path.read_bytes() for path in (tmp_path / "environments").iterdir()}
    assert len(environments) >= 3 and all(b"SURVEY_PRELOAD" in content for content in environments.values())
    assert [pid for pid, content in environments.items() if TOKEN.encode() in content or b"T0ken" in content] == []
    assert holders(workspace) == [] and len(list(workspace.rglob("*.fits"))) >= 5
    assert provenance_words(workspace).find(SENTINEL) == -1


def provenance_words(workspace: Path) -> str:
    """All text of provenance.zarr, whose chunks are compressed."""
    import xarray as xr

    found = xr.open_zarr(workspace / "provenance.zarr", consolidated=False)
    words = str(found.attrs) + "".join(str(value) for name in found.variables for value in found[name].values.ravel())
    assert "detector1/" in words
    return words


@pytest.mark.whole
@pytest.mark.xdist_group("whole")  # one finished run serves all of them
def test_not_a_byte_of_what_the_pipeline_makes_holds_it(small, finished):
    """FITS files, zarr, logs, records, reports and the reference cache of a run that had it."""
    config, said = finished
    assert len(list(small.workspace.rglob("*_i2d.fits"))) == 2
    assert holders(small.workspace) == [] and holders(small.folder / "crds") == []
    assert not any(word in (config.read_text() + str(said)).encode() for word in spellings())
    assert SENTINEL not in provenance_words(small.workspace)
