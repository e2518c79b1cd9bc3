"""Sizes of a local cluster, and addresses that are none."""

from __future__ import annotations

import json
import logging
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import survey.cluster.connect
from survey.cluster.capacity import capacity
from survey.cluster.connect import connect, dashboard, starts_workers
from survey.cluster.deploy import RESOURCE
from survey.cluster.local import RESERVE_GB, local_sizes
from survey.cluster.preview import preview
from survey.errors import ConfigError, ServiceUnreachableError

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("small", "large", "cores", "total", "count"),
    [
        (3.0, 3.0, 2, 25.0, 2),  # as many as cores
        (3.0, 3.0, 16, 25.0, 7),  # as many as memory holds
        (3.0, 15.0, 16, 25.0, 3),  # room for the largest
        (3.0, 23.0, 16, 25.0, 1),
        (0.5, 0.5, 4, 1.0, 2),  # a machine too small for the reserve still gets workers
        (30.0, 30.0, 8, 16.0, 1),  # what does not fit at all is said when the plan is run
        (3.0, 99.0, 8, 25.0, 7),  # a mosaic that fits nowhere does not make the exposures slow
    ],
)
def test_local_sizes(small, large, cores, total, count):
    sizes = local_sizes(small, large, cores, total)
    budget = max(total - RESERVE_GB, 1.0)
    assert len(sizes) == count
    assert sum(sizes) == pytest.approx(budget, abs=1e-3)  # sizes are rounded to MB
    assert sizes[0] == max(sizes)
    assert sizes[1:] == [small] * (count - 1)
    if large <= budget:
        assert sizes[0] >= large


@pytest.mark.parametrize(
    ("where", "ours"),
    [
        (None, True),
        ("local", True),
        ("deploy/local.yaml", True),
        ("deploy/slurm.yaml", True),
        ("deploy/pbs.yaml", True),
        ("tcp://127.0.0.1:8786", False),
        ("deploy/address.yaml", False),
        ("deploy/kubernetes.yaml", False),
    ],
)
def test_whose_workers_they_are(where, ours, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert starts_workers(where) is ours


@pytest.mark.parametrize("where", ["", "slurm.yaml", "127.0.0.1:8786", "http://127.0.0.1:8786", "tcp://"])
def test_what_is_no_address_is_refused(where):
    with pytest.raises(ConfigError, match=r"expected 'local' or an address"), connect(where):
        pass


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("{}", "holds no address"),
        ("[1]", "holds no address"),
        ('{"address": 8786}', "holds no address"),
        ('{"address": "deploy.yaml"}', "holds no address"),
    ],
)
def test_a_scheduler_file_that_names_no_scheduler(tmp_path, monkeypatch, text, found):
    """Of `survey cluster` and `survey run` alike: the deploy file and the other by name, and exit code 2."""
    monkeypatch.chdir(tmp_path)
    Path("deploy.yaml").write_text("kind: address\nscheduler_file: scheduler.json\n")
    if text is not None:
        Path("scheduler.json").write_bytes(text.encode("latin-1"))
    said = rf"^deploy\.yaml: scheduler_file scheduler\.json {found}"
    with pytest.raises(ConfigError, match=said) as raised, connect("deploy.yaml"):
        pass
    assert raised.value.exit_code == 2
    with pytest.raises(ConfigError, match=said):
        preview(Path("deploy.yaml"), "ws")


def test_a_scheduler_file_as_dask_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scheduler.json").write_text(json.dumps({"type": "Scheduler", "address": "tcp://127.0.0.1:8786"}))
    Path("deploy.yaml").write_text("kind: address\nscheduler_file: scheduler.json\n")
    assert "tcp://127.0.0.1:8786" in preview(Path("deploy.yaml"), "ws")["address"]


def test_an_address_where_nobody_answers(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(survey.cluster.connect, "CONNECT_SECONDS", 1)
    with pytest.raises(ServiceUnreachableError, match=rf"tcp://127.0.0.1:{port}"), connect(f"tcp://127.0.0.1:{port}"):
        pass


def test_an_address_that_accepts_and_stays_silent(monkeypatch):
    monkeypatch.setattr(survey.cluster.connect, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceUnreachableError, match=where), connect(where):
            pass


@pytest.mark.slow
def test_a_local_cluster_listens_on_loopback_alone():
    with connect("local", 1.0, 2.0) as client:
        assert capacity(client) >= 2.0
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert all(worker["nthreads"] == 1 for worker in workers)
        assert all(set(worker["resources"]) == {RESOURCE} for worker in workers)
        addresses = [client.scheduler.address, *(worker["nanny"] for worker in workers), dashboard(client)]
        assert all("//127.0.0.1:" in address for address in addresses)
        me = psutil.Process()
        ears = [ear for process in (me, *me.children(recursive=True)) for ear in process.net_connections("inet")]
        listening = [ear.laddr for ear in ears if ear.status == psutil.CONN_LISTEN]
        assert len(listening) >= 4 and {address.ip for address in listening} == {"127.0.0.1"}  # dashboards, nannies
        places = {Path(place) for place in client.run(lambda dask_worker: dask_worker.local_directory).values()}
        private = {place.parents[1] for place in places}  # dask-scratch-space in between
        assert len(private) == 1 and stat.S_IMODE(private.pop().stat().st_mode) == 0o700
    assert not any(place.exists() for place in places)


FAILING = """
import asyncio
from pathlib import Path
from survey.cluster.connect import connect

def fail():
    raise OSError("a task's own trouble")

async def unheard():
    raise OSError("nobody asks for this")

if __name__ == "__main__":
    with connect("local", 1.0, 1.0, Path("cluster.log")) as client:
        assert "trouble" in str(client.submit(fail, retries=1).exception())
        client.run_on_scheduler(lambda: asyncio.ensure_future(unheard()) and None)
        client.submit(int).result()
"""


@pytest.mark.slow
def test_a_local_cluster_leaves_the_terminal_to_the_run(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    done = subprocess.run([sys.executable, "failing.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nobody asks for this" in (tmp_path / "cluster.log").read_text()


@pytest.mark.slow
def test_loggers_are_given_back():
    logger = logging.getLogger("asyncio")
    before = (logger.handlers, logger.propagate)
    with connect("local", 1.0, 1.0):
        assert not logger.propagate
    assert (logger.handlers, logger.propagate) == before
