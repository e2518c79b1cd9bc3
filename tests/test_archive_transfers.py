"""The parts of the download queue, with made-up times; and servers with certificates of their own."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import ssl
import threading
import time

import pytest

from survey.archive.download import FetchSettings, Part, RemoteFile, Source
from survey.archive.transfers import Job, JobQueue, ServerHealth, Transfers, WrongFileError
from survey.errors import DiskFullError, ServiceUnreachableError

SETTINGS = FetchSettings(downloads=2, retries=2, timeout_seconds=30.0, backoff_seconds=1.0, max_wait_seconds=20.0)
QUICK = FetchSettings(downloads=2, retries=1, timeout_seconds=2.0, backoff_seconds=0.01)


def jobs(tmp_path, *names):
    return [Job(RemoteFile(name, f"http://localhost/{name}", Part(tmp_path, name))) for name in names]


def test_files_come_in_order_and_failed_ones_last(tmp_path):
    first, second, third = jobs(tmp_path, "a", "b", "c")
    queue = JobQueue([first, second, third])
    assert queue.take(0.0, False) is first
    queue.put_back(first, not_before=5.0)
    assert [queue.take(0.0, False) for _ in range(3)] == [second, third, None]
    assert len(queue) == 1
    assert queue.take(5.0, False) is first and len(queue) == 0


def test_files_that_wait_come_by_their_time(tmp_path):
    first, second = jobs(tmp_path, "a", "b")
    queue = JobQueue([])
    queue.put_back(first, 7.0)
    queue.put_back(second, 6.0)
    assert queue.take(10.0, False) is second
    assert queue.clear() == [first] and len(queue) == 0


def test_troubled_queue_looks_everywhere(tmp_path):
    """With every failure in one folder, the files of another one are soon tried."""
    taken = {JobQueue(jobs(tmp_path, *"abcdefgh")).take(0.0, True).file.name for _ in range(100)}
    assert len(taken) > 4


def test_server_is_gone_when_nothing_but_failures_came():
    health = ServerHealth(SETTINGS, now=0.0)
    for number in range(6):  # two files at once, three attempts each
        assert not health.is_gone(1.0)
        health.failed(1.0, 0.0)
        assert health.is_troubled == (number >= 1)
    health.failed(1.0, 0.0)
    assert health.is_gone(1.0)
    health.answered(2.0)
    assert not health.is_gone(2.0) and not health.is_troubled


def test_server_is_gone_when_nothing_came_for_the_limit():
    health = ServerHealth(SETTINGS, now=0.0)
    health.made_progress(10.0)
    assert not health.is_gone(40.9)
    assert health.is_gone(41.1)


def test_pause_of_a_troubled_server_grows_up_to_its_limit():
    health = ServerHealth(SETTINGS, now=0.0)
    pauses = []
    for _ in range(12):
        health.failed(100.0, 0.0)
        pauses.append(health.not_before - 100.0)
    assert pauses == [0, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 20]


def test_retry_after_is_kept_within_the_limit():
    health = ServerHealth(SETTINGS, now=0.0)
    assert health.failed(0.0, 20.0) and health.not_before == 20.0
    assert health.failed(0.1, 20.0) and health.not_before == pytest.approx(20.1)  # of the same moment
    assert health.failed(25.0, 3600.0) and health.not_before == pytest.approx(34.9)  # cut: 30 s in all
    assert not health.is_gone(60.0)  # waiting as asked is no silence
    assert not health.failed(40.0, 3600.0)
    health.succeeded(41.0)
    assert health.failed(42.0, 5.0) and health.not_before == 47.0


class Files(http.server.BaseHTTPRequestHandler):
    """Sends 100 bytes for each path."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"x" * 100)

    def log_message(self, *_):
        """No log."""


@pytest.fixture
def server():
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def transfer(server, folder, names, accept, scheme="http", **options):
    url = f"{scheme}://localhost:{server.server_port}"
    files = [RemoteFile(name, f"{url}/{name}", Part(folder, name), 100) for name in names]
    return Transfers(files, Source(url), QUICK, accept, **options).run()


def test_outcome_holds_what_accepting_returned(server, tmp_path):
    outcome = transfer(server, tmp_path, "abc", lambda file: file.part.path.read_bytes())
    assert outcome.done == dict.fromkeys("abc", b"x" * 100) and outcome.bytes == 300 and not outcome.missing


def test_wrong_file_is_fetched_again_and_then_named(server, tmp_path):
    seen = []

    def accept(file):
        seen.append(file.name)
        if file.name == "b":
            raise WrongFileError("odd bytes")

    outcome = transfer(server, tmp_path, "abc", accept)
    assert sorted(seen) == ["a", "b", "b", "c"] and outcome.missing == {"b": "odd bytes (2 attempts)"}
    assert not outcome.by_server and not Part(tmp_path, "b").path.exists()


def test_late_answer_leaves_its_body_the_whole_time(server, tmp_path, monkeypatch):
    """Headers after 0.5 s, a body within 0.4 s: together more than the 0.67 s of an attempt, each of them less."""
    answered = []

    def late(self):
        answered.append(self.path)
        time.sleep(0.5)
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        for _ in range(5):
            self.wfile.write(b"x" * 20)
            self.wfile.flush()
            time.sleep(0.1)

    monkeypatch.setattr(Files, "do_GET", late)
    assert transfer(server, tmp_path, "a", lambda file: None).done == {"a": None} and len(answered) == 1


def test_failures_of_the_disk(server, tmp_path):
    def forbidden(file):
        raise PermissionError(13, "Permission denied")

    assert transfer(server, tmp_path, "a", forbidden).missing == {"a": "cannot be written (Permission denied)."}

    def full(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFullError, match="no space left while writing a"):
        transfer(server, tmp_path, "ab", full)


def test_fault_of_this_package_is_raised_in_the_callers_thread(server, tmp_path):
    def broken(file):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        transfer(server, tmp_path, "ab", broken)


def test_slow_check_of_a_file_is_not_the_servers_silence(server, tmp_path):
    done = threading.Event()
    outcome = transfer(server, tmp_path, "a", lambda file: done.wait(4.0))  # twice the limit
    assert outcome.done == {"a": False}


def write_certificate(folder):
    """A self-signed certificate for localhost; its file holds the key as well."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "own.pem").write_bytes(content + certificate.public_bytes(serialization.Encoding.PEM))
    return folder / "own.pem"


def test_authority_of_the_system_is_accepted(server, tmp_path, monkeypatch):
    """As the crds library does, which asks the same server."""
    path = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with pytest.raises(ServiceUnreachableError, match="SSL"):
        transfer(server, tmp_path, "a", lambda file: None, "https")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert transfer(server, tmp_path, "a", lambda file: None, "https").done == {"a": None}
