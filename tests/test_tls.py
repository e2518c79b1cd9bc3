"""Certificates of a deployment: what is made, what is refused, and a real scheduler that turns strangers away."""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

import survey.cluster.connect
from survey.cli.main import main
from survey.cluster import tls
from survey.cluster.addresses import cluster_faults
from survey.cluster.connect import connect
from survey.errors import ConfigError, ServiceUnreachableError


@pytest.fixture(scope="module")
def deployment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "certificates"
    tls.make(folder, hosts=["login1.example.org", "192.0.2.7"])
    return folder


@pytest.fixture(scope="module")
def another(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "another"
    tls.make(folder)
    return folder


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


# --- what is made -----------------------------------------------------------------------------------------------


def test_nobody_else_can_read_the_files_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        tls.make(tmp_path / "deep" / "tls")
    finally:
        os.umask(before)
    folder = tmp_path / "deep" / "tls"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == sorted(tls.FILES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert [path.name for path in folder.parent.iterdir()] == ["tls"]


def test_the_authority_signs_three_and_its_key_is_gone(deployment):
    authority = certificate(deployment / "ca.pem")
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    keys = {path.name for path in deployment.iterdir() if b"PRIVATE KEY" in path.read_bytes()}
    assert keys == {"scheduler-key.pem", "worker-key.pem", "client-key.pem"}
    public = {certificate(deployment / f"{role}.pem").public_key().public_numbers() for role in tls.ROLES}
    assert len(public) == 3 and authority.public_key().public_numbers() not in public
    for role in tls.ROLES:
        made = certificate(deployment / f"{role}.pem")
        made.verify_directly_issued_by(authority)
        assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert tls.faults(deployment, [role]) == []


def test_a_clients_certificate_is_no_servers(deployment):
    served = {}
    for role in tls.ROLES:
        purposes = certificate(deployment / f"{role}.pem").extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert ExtendedKeyUsageOID.CLIENT_AUTH in purposes.value
        served[role] = ExtendedKeyUsageOID.SERVER_AUTH in purposes.value
    assert served == {"scheduler": True, "worker": True, "client": False}


def test_names_and_days(deployment, tmp_path):
    made = certificate(deployment / "scheduler.pem")
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"login1.example.org", "localhost"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"192.0.2.7", "127.0.0.1"} <= set(map(str, names.get_values_for_type(x509.IPAddress)))
    ends = tls.make(tmp_path / "short", days=3)
    made, now = certificate(tmp_path / "short" / "client.pem"), datetime.datetime.now(datetime.UTC)
    assert made.not_valid_after_utc == ends
    assert datetime.timedelta(days=2, hours=23) < ends - now <= datetime.timedelta(days=3)
    assert made.not_valid_before_utc < now - datetime.timedelta(minutes=50)  # clocks of hosts differ


# --- what is refused --------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unless_it_is_asked_for(tmp_path):
    folder = tmp_path / "tls"
    tls.make(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="--force"):
        tls.make(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    tls.make(folder, force=True)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys() and not set(after.values()) & set(before.values())
    assert [path.name for path in tmp_path.iterdir()] == ["tls"]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_other_things_is_left_alone(tmp_path, force):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        tls.make(tmp_path, force=force)
    (tmp_path / "a file").write_text("")
    with pytest.raises(ConfigError, match="a file"):
        tls.make(tmp_path / "a file", force=force)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "thesis.tex"]


@pytest.mark.parametrize(
    "host", ["", "a b", "../x", "host/..", "tcp://host", "hôte", "a\0b", "-x", "x" * 64, "1" * 300]
)
def test_what_is_no_host_is_refused(tmp_path, host):
    with pytest.raises(ConfigError, match="expected a host's name"):
        tls.make(tmp_path / "tls", hosts=["good.example.org", host])
    assert not (tmp_path / "tls").exists()


@pytest.mark.parametrize("days", [0, -1, 4000])
def test_absurd_lifetimes_are_refused(tmp_path, days):
    with pytest.raises(ConfigError, match="--days"):
        tls.make(tmp_path / "tls", days=days)


@pytest.mark.parametrize("damage", ["missing", "open", "other key", "other authority", "no pem", "a pipe"])
def test_certificates_that_do_not_serve_are_named(deployment, another, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(deployment, folder)
    name = "client-key.pem"
    if damage == "missing":
        (folder / name).unlink()
    elif damage == "open":
        (folder / name).chmod(0o644)
    elif damage == "other key":
        name = "client.pem"
        shutil.copy(another / "client-key.pem", folder)
    elif damage == "other authority":
        name = "client.pem"
        shutil.copy(another / "ca.pem", folder)
    elif damage == "no pem":
        name = "client.pem"
        (folder / name).write_text("secret words")
    else:
        (folder / name).unlink()
        os.mkfifo(folder / name)
    found = tls.faults(folder)
    assert name in found[0] and "survey tls" in found[-1] and "secret" not in "".join(found)
    with pytest.raises(ConfigError, match="survey tls"):
        tls.security(folder)
    assert any(name in fault for fault in cluster_faults("tls://127.0.0.1:8786", folder))


def test_certificates_that_ended_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tls, "CLOCKS_APART", datetime.timedelta(days=3))
    monkeypatch.setattr(tls, "datetime", _Past)
    tls.make(tmp_path / "tls", days=1)
    monkeypatch.undo()
    assert "expired" in tls.faults(tmp_path / "tls")[0]


class _Past:
    """The module datetime, two days ago."""

    UTC, timedelta = datetime.UTC, datetime.timedelta

    class datetime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.now(tz) - datetime.timedelta(days=2)


# --- where a run may happen -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    ["tcp://127.0.0.1:8786", "tcp://localhost:8786", "tcp://127.3.4.5:1", "tcp://[::1]:8786", "ws://localhost:9"],
)
def test_loopback_needs_no_tls(where):
    assert cluster_faults(where) == []


@pytest.mark.parametrize(
    "where",
    ["tcp://192.0.2.1:8786", "tcp://login1:8786", "tcp://0.0.0.0:8786", "ws://login1:8786", "ucx://10.0.0.1:8786",
     "tcp://127.0.0.1.example.org:8786", "tcp://localhost.example.org:8786", "tcp://[2001:db8::1]:8786",
     "tcp://x@127.0.0.1:8786", "tcp://127.0.0.1@example.org:8786"],
)  # fmt: skip
def test_another_host_without_tls_is_refused_unless_a_flag_says_so(where):
    (fault,) = cluster_faults(where)
    assert f"tls://{where.partition('://')[2]}" in fault and "--insecure" in fault
    assert cluster_faults(where, insecure=True) == []
    with pytest.raises(ConfigError, match="--insecure"), connect(where):
        pass


def test_tls_needs_certificates_and_certificates_need_tls(deployment, monkeypatch):
    assert "--tls DIR" in cluster_faults("tls://login1:8786")[0]
    assert cluster_faults("tls://login1:8786", deployment) == []
    assert "write tls://127.0.0.1:1" in cluster_faults("tcp://127.0.0.1:1", deployment)[0]
    assert "write tls://login1:1" in cluster_faults("tcp://login1:1", deployment, insecure=True)[0]
    assert "needs an address" in cluster_faults(None, deployment)[0]
    assert "no-such-folder" in cluster_faults("tls://login1:8786", Path("no-such-folder"))[0]


CONFIG = """\
survey: t
program: 1345
archive: {local: raw}
references: {server: null, context: jwst_0001.pmap, cache: crds}
steps: [detector1: {}, imagge2: {}]
workspace: ws
"""


@pytest.mark.parametrize("command", ["run", "mosaic"])
def test_the_command_line_refuses_before_anything_starts(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    more = ["--asn", "x_asn.json"] if command == "mosaic" else []
    result = CliRunner().invoke(main, [command, "config.yaml", "--cluster", "tcp://192.0.2.1:8786", *more])
    assert isinstance(result.exception, ConfigError) and result.exception.exit_code == 2
    assert "imagge2" in str(result.exception) and "tls://192.0.2.1:8786" in str(result.exception)
    assert not Path("ws").exists()


def test_the_commands_hold_whatever_the_folder_and_the_host_are_called(tmp_path):
    folder = tmp_path / "my certificates"
    lines = tls.commands(folder, "::1")
    assert shlex.split(lines[2])[3:] == ["--cluster", "tls://[::1]:8786", "--tls", str(folder)]
    assert str(folder / "ca.pem") in shlex.split(lines[1])
    assert "tls://[::1]:8786" in shlex.split(lines[1])


# --- a real scheduler -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scheduler(deployment):
    """Address of a scheduler with one worker, started by the very commands that `survey tls` names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start, work, _ = tls.commands(deployment, "127.0.0.1")
    start = start.replace("--port 8786", f"--port {port} --host 127.0.0.1").replace("127.0.0.1:8787", "127.0.0.1:0")
    work = work.replace(":8786", f":{port}") + " --host 127.0.0.1 --no-nanny"
    python = [sys.executable, "-m", "dask"]
    with contextlib.ExitStack() as stack:
        for line in (start, work):
            words = [*python, *shlex.split(line)[1:]]
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            stack.callback(_end, process)
            _await(port)
        yield f"tls://127.0.0.1:{port}"


def _await(port: int, seconds: float = 60.0) -> None:
    """Until somebody listens: a scheduler that is not there yet would turn everybody away."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end, f"nobody listens at port {port}"
            time.sleep(0.1)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    process.communicate(timeout=30)


@pytest.mark.slow
def test_a_client_with_a_certificate_is_let_in(scheduler, deployment):
    with connect(scheduler, tls=deployment) as client:
        assert client.security.require_encryption
        assert client.submit(sum, [1, 2, 3]).result(timeout=60) == 6
        info = client.scheduler_info(n_workers=-1)
        assert all(address.startswith("tls://127.0.0.1:") for address in (info["address"], *info["workers"]))


@pytest.mark.slow
def test_a_client_of_another_authority_is_turned_away(scheduler, another, monkeypatch):
    monkeypatch.setattr(survey.cluster.connect, "CONNECT_SECONDS", 3)
    with pytest.raises(ServiceUnreachableError, match="another authority"), connect(scheduler, tls=another):
        pass


@pytest.mark.slow
def test_a_client_without_a_certificate_is_turned_away(scheduler, deployment, monkeypatch):
    monkeypatch.setattr(survey.cluster.connect, "CONNECT_SECONDS", 3)
    plain = scheduler.replace("tls:", "tcp:")
    with pytest.raises(ServiceUnreachableError), connect(plain):
        pass
    context = ssl.create_default_context(cafile=str(deployment / "ca.pem"))  # it knows whom to believe, and shows none
    context.check_hostname = False
    address = ("127.0.0.1", int(scheduler.rpartition(":")[2]))
    with (
        pytest.raises(ssl.SSLError, match=r"(?i)certificate"),
        socket.create_connection(address, 10) as raw,
        context.wrap_socket(raw) as guarded,
    ):
        guarded.recv(1)


@pytest.mark.slow
def test_a_stolen_client_certificate_does_not_make_a_scheduler(deployment, monkeypatch):
    """A client must not take another client for its scheduler."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(deployment / "ca.pem"))
    context.load_cert_chain(deployment / "client.pem", deployment / "client-key.pem")
    monkeypatch.setattr(survey.cluster.connect, "CONNECT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1)
        where = f"tls://127.0.0.1:{server.getsockname()[1]}"
        shaken = []

        def serve():
            end = time.monotonic() + 4
            while time.monotonic() < end:
                with contextlib.suppress(OSError), context.wrap_socket(server.accept()[0], server_side=True) as guarded:
                    shaken.append(guarded.recv(1))

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ServiceUnreachableError), connect(where, tls=deployment):
            pass
        thread.join()
    assert not any(shaken)  # not a byte came through
