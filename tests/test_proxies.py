"""A proxy that fails is named as a proxy, with its variable and without its password, not as the archive or CRDS."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import threading

import pytest

from survey.archive.attempts import Watch
from survey.archive.client import bounded, observations_client
from survey.archive.download import FetchSettings, Part, RemoteFile, Source
from survey.archive.proxies import fault_of_proxy, for_urllib, malformed, proxy_of, through
from survey.archive.transfers import Transfers
from survey.credentials import scrub
from survey.errors import AccessRefusedError, ServiceUnreachableError, SurveyError
from survey.references.child import ask_catalog

# Not of this machine, so that a proxy is used; no name is looked up, since the proxy would do that.
PLAIN, ENCRYPTED = "http://archive.example.invalid", "https://archive.example.invalid"
LOGIN = "astronomer:sesame%40word"
VARIABLES = tuple(
    spelling for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for spelling in (name, name.upper())
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def answering(status):
    """A proxy on loopback that answers every request, CONNECT included, with this status; its host and port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        do_POST = do_CONNECT = do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def query(server, _tmp_path, seconds=40.0):
    """What a query of astroquery's client says."""

    def work(watch: Watch):
        client = observations_client(server, watch, retries=0)
        return client.query_criteria_count(proposal_id="1345")

    with pytest.raises((ServiceUnreachableError, AccessRefusedError)) as raised:
        bounded(server, seconds, work)
    return raised.value


def fetch(server, tmp_path, seconds=40.0):
    """What the download of a file says."""
    file = RemoteFile("a_uncal.fits", f"{server}/a_uncal.fits", Part(tmp_path, "a_uncal.fits"))
    settings = FetchSettings(downloads=1, retries=0, timeout_seconds=seconds, backoff_seconds=0.01)
    try:
        outcome = Transfers([file], Source(server), settings, lambda file: file).run()
    except SurveyError as error:
        return error
    return SurveyError("; ".join([*outcome.missing.values(), *outcome.refused.values()]))


def catalog(server, _tmp_path, seconds=40.0):
    """What the look-up of a CRDS context says."""
    with pytest.raises((ServiceUnreachableError, AccessRefusedError)) as raised:
        ask_catalog("jwst_0001.pmap", None, server, seconds)
    return raised.value


# A look-up starts a process that imports crds, in 3 s.
WAYS = [query, fetch, pytest.param(catalog, marks=pytest.mark.slow)]


def check(error, *, says, variable, address):
    text = str(error)
    assert says in text and variable in text and address in text, text
    assert "sesame" not in text and "astronomer" not in text
    assert "Check archive.server" not in text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("server", "variable"),
    [(PLAIN, "http_proxy"), (ENCRYPTED, "https_proxy"), (ENCRYPTED, "HTTPS_PROXY"), (ENCRYPTED, "ALL_PROXY")],
)
def test_a_proxy_that_is_down(monkeypatch, tmp_path, way, server, variable):
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv(variable, address.replace("//", f"//{LOGIN}@"))
    error = way(server, tmp_path)
    check(error, says=f"the proxy {address} (of the variable", variable=variable, address=address)
    assert "cannot be reached" in str(error) and "Connection refused" in str(error)
    assert error.exit_code == 3


@pytest.mark.parametrize("way", [query, fetch, catalog])
@pytest.mark.parametrize("server", [PLAIN, ENCRYPTED])
def test_a_proxy_that_wants_a_login(monkeypatch, tmp_path, way, server):
    with answering(407) as place:
        variable = f"{server.partition(':')[0]}_proxy"
        monkeypatch.setenv(variable, f"http://{LOGIN}@{place}")
        error = way(server, tmp_path)
    check(error, says="asks for a user name and a password (HTTP 407)", variable=variable, address=place)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [403, 502, 503])
def test_a_proxy_that_refuses_to_connect(monkeypatch, tmp_path, way, status):
    with answering(status) as place:
        monkeypatch.setenv("https_proxy", f"http://{LOGIN}@{place}")
        error = way(ENCRYPTED, tmp_path)
    says = f"refused to connect to archive.example.invalid (HTTP {status})"
    check(error, says=says, variable="https_proxy", address=place)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [403, 502])
def test_an_answer_that_may_be_the_proxys(monkeypatch, tmp_path, way, status):
    """Of plain http, the proxy sees and answers the request itself."""
    with answering(status) as place:
        monkeypatch.setenv("http_proxy", f"http://{LOGIN}@{place}")
        text = str(way(PLAIN, tmp_path))
    assert f"or the proxy http://{place} (of the variable http_proxy)" in text and str(status) in text, text
    assert "sesame" not in text


@pytest.mark.parametrize("way", WAYS)
def test_a_proxy_that_stays_silent(monkeypatch, tmp_path, way):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("https_proxy", address)
        text = str(way(ENCRYPTED, tmp_path, 2.0))
    assert f"the proxy {address} (of the variable https_proxy)" in text, text


@pytest.mark.parametrize("way", [query, fetch, catalog])
@pytest.mark.parametrize(
    "value",
    [f"http://{LOGIN}@", f"http://{LOGIN}@127.0.0.1:port", "://", "ftp://127.0.0.1:9", "http://astronomer:pa/ss@h:3128",
     "no proxy at all", "http://127.0.0.1:0", "http://[::1:3128"],
)  # fmt: skip
def test_an_address_that_is_none(monkeypatch, tmp_path, way, value):
    monkeypatch.setenv("https_proxy", value)
    error = way(ENCRYPTED, tmp_path)
    check(error, says="is not an address such as http://HOST:PORT", variable="https_proxy", address="the proxy")
    assert "pa/ss" not in str(error)


def test_a_socks_proxy_without_its_package(monkeypatch, tmp_path):
    pytest.importorskip("requests")
    monkeypatch.setenv("all_proxy", f"socks5://{LOGIN}@127.0.0.1:{free_port()}")
    text = str(query(ENCRYPTED, tmp_path))
    assert "the proxy socks5://127.0.0.1" in text and "(of the variable all_proxy)" in text and "sesame" not in text


@pytest.mark.parametrize(
    ("url", "environment", "variable"),
    [
        (PLAIN, {"http_proxy": "a:1", "HTTP_PROXY": "b:1"}, "http_proxy"),
        (PLAIN, {"https_proxy": "a:1"}, None),
        (ENCRYPTED, {"https_proxy": "", "HTTPS_PROXY": "a:1"}, "HTTPS_PROXY"),
        (ENCRYPTED, {"all_proxy": "a:1"}, "all_proxy"),
        (ENCRYPTED, {"https_proxy": "a:1", "no_proxy": "example.invalid"}, None),
        (ENCRYPTED, {"https_proxy": "a:1", "no_proxy": "*"}, None),
        (ENCRYPTED, {"https_proxy": "a:1", "no_proxy": "example.org"}, "https_proxy"),
        ("https://10.1.2.3/x", {"https_proxy": "a:1", "no_proxy": "10.0.0.0/8"}, None),
        ("https://10.1.2.3/x", {"https_proxy": "a:1", "no_proxy": ",, ,"}, "https_proxy"),
    ],
)
def test_the_variable_that_counts(url, environment, variable):
    found = proxy_of(url, environment)
    assert (found and found.variable) == variable


def test_requests_agrees(monkeypatch):
    """The rule is that of requests, which is asked here for each combination."""
    from requests.utils import get_environ_proxies, select_proxy

    for values in ({"https_proxy": "a:1"}, {"all_proxy": "a:1"}, {"HTTPS_PROXY": "a:1", "NO_PROXY": "example.invalid"},
                   {"http_proxy": "a:1"}, {"https_proxy": "a:1", "no_proxy": "*"}):  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            for name, value in values.items():
                patch.setenv(name, value)
            for url in (PLAIN, ENCRYPTED, "https://127.0.0.1:1"):
                used = select_proxy(url, get_environ_proxies(url))
                assert bool(used) == bool(proxy_of(url)), (values, url)


def test_a_host_that_no_proxy_exempts(monkeypatch):
    """The direct way failed: the variable that chose it is named."""
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "example.invalid")
    assert through(ENCRYPTED) == " (directly, as no_proxy says)"
    monkeypatch.delenv("https_proxy")
    assert through(ENCRYPTED) == malformed(ENCRYPTED) == fault_of_proxy(ENCRYPTED, OSError("x")) == ""


def test_urllib_uses_all_proxy_like_requests():
    assert for_urllib({"all_proxy": "http://p:1"}) == {"http": "http://p:1", "https": "http://p:1"}
    assert for_urllib({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:1"}) == {"http": "http://p:1"}
    assert for_urllib({"all_proxy": "socks5://p:1"}) == for_urllib({}) == {}


def test_logins_of_proxies_are_masked_wherever_they_are(monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://{LOGIN}@proxy:3128")
    assert scrub(f"Failed to parse: http://{LOGIN}@proxy:3128; sesame@word") == (
        "Failed to parse: http://***@proxy:3128; ***"
    )
    assert scrub("nothing of it") == "nothing of it"


@pytest.mark.slow
def test_a_crds_server_on_this_machine_is_asked_directly(monkeypatch):
    """As the archive is."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    server = f"http://127.0.0.1:{free_port()}"
    text = str(catalog(server, None))
    assert "proxy" not in text and "Connection refused" in text
    assert "http_proxy" in os.environ
