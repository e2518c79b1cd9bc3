"""Workers that lack what the client has are refused by name, before their first task and without an endless wait."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dask.distributed import Client, LocalCluster
from whole_run import survey

import survey as package
from survey.errors import WorkersError
from survey.graph import RESOURCE
from survey.planning import installed_versions
from survey.workers import checked, probes, refuse_small

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
ROOTLESS = os.geteuid() != 0 or shutil.which("unshare") is None


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


class Place:
    """A scheduler without workers, and a client of its address."""

    def __init__(self, cluster: LocalCluster):
        self.cluster = cluster
        self.address = cluster.scheduler_address

    @contextlib.contextmanager
    def worker(self, name: str, *options: str, shim: Path | None = None, behind: str = "", wait: bool = True):
        """A real worker process; ``behind`` is shell code of a mount namespace of its own, run before it."""
        path = os.pathsep.join([str(item) for item in (shim, ROOT) if item])
        command = [
            sys.executable, "-m", "distributed.cli.dask_worker", self.address, "--name", name, "--nthreads", "1",
            "--host", "127.0.0.1", "--no-dashboard", *options,
        ]  # fmt: skip
        if behind:
            command = ["unshare", "--mount", "sh", "-c", f'{behind} && exec "$@"', "sh", *command]
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, cwd="/", stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            if wait:
                wait_for(lambda: name in self.names())
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            wait_for(lambda: name not in self.names())

    def names(self) -> set[str]:
        return {worker.name for worker in self.cluster.scheduler.workers.values()}


@pytest.fixture(scope="module")
def place():
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield Place(cluster)


@pytest.fixture
def client(place):
    with Client(place.address, set_as_default=False) as connected:
        yield connected


@pytest.fixture
def folders(tmp_path):
    for name in ("ws/records", "crds"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def old_jwst(tmp_path):
    """A folder in which the metadata of another jwst lie, as an old environment would have them."""
    folder = tmp_path / "old" / "jwst-0.0.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: jwst\nVersion: 0.0.1\n")
    return folder.parent


@contextlib.contextmanager
def check(client: Client, folders: Path, closes: bool = False):
    versions = {**installed_versions(), "survey": package.__version__}
    with (
        probes(folders / "ws", folders / "crds", "jwst_0001.pmap") as files,
        checked(client, versions, files, [str(folders / "ws" / "records")], closes) as guard,
    ):
        yield guard


def refused(client: Client, folders: Path) -> str:
    with pytest.raises(WorkersError) as raised, check(client, folders):
        pass
    assert raised.value.exit_code == 2
    return str(raised.value)


def test_a_worker_that_has_everything_works(place, client, folders):
    with place.worker("good", "--resources", f"{RESOURCE}=3"), check(client, folders) as guard:
        assert client.submit(sum, [1, 2], pure=False).result(30) == 3
        assert guard.trouble() is None
    assert list((folders / "ws").glob(".*")) == list((folders / "crds").glob(".*")) == []  # probes are gone


def test_other_versions_are_named_each_with_both(place, client, folders, old_jwst):
    """Of every worker: one with an older environment, one without survey."""
    for parent, text in ((old_jwst, '__version__ = "0.0.2"'), (folders / "none", "raise ImportError('none here')")):
        (parent / "survey").mkdir(parents=True)
        (parent / "survey" / "__init__.py").write_text(text)
    with place.worker("behind", shim=old_jwst, wait=False), place.worker("bare", shim=folders / "none"):
        wait_for(lambda: place.names() == {"behind", "bare"})
        said = refused(client, folders).splitlines()
    jwst = installed_versions()["jwst"]
    for worker, fault in (
        ("behind", f"jwst is 0.0.1, the client has {jwst}."),
        ("behind", f"survey is 0.0.2, the client has {package.__version__}."),
        ("bare", f"survey is not installed, the client has {package.__version__}."),
    ):
        assert any(line.startswith(f"worker {worker} at tcp://127.0.0.1:") and line.endswith(fault) for line in said)
    assert len(said) == 4  # and what to do; dask, Python and file systems are as they should be


@pytest.mark.skipif(ROOTLESS, reason="a file system of its own needs root and unshare")
def test_other_file_systems_are_named(place, client, folders, monkeypatch):
    """One worker has other folders under the same names, one cannot write to them."""
    monkeypatch.setattr("survey.workers.APPEAR_SECONDS", 0.5)
    workspace, cache = folders / "ws", folders / "crds"
    hidden = f"mount -t tmpfs none {workspace} && mount -t tmpfs none {cache}"
    readonly = f"mount --bind {workspace} {workspace} && mount -o remount,ro,bind {workspace}"
    with place.worker("elsewhere", behind=hidden, wait=False), place.worker("reader", behind=readonly):
        wait_for(lambda: place.names() == {"elsewhere", "reader"})
        said = refused(client, folders)
    elsewhere = "\n".join(line for line in said.splitlines() if line.startswith("worker elsewhere"))
    reader = "\n".join(line for line in said.splitlines() if line.startswith("worker reader"))
    assert f": workspace: {workspace}/.probe-" in elsewhere
    assert f": CRDS cache: {cache}/.probe-" in elsewhere
    assert elsewhere.count("which the client sees, No such file or directory there") == 2
    assert f"{workspace}/records cannot be written: No such file" in elsewhere
    assert reader.endswith(f"{workspace}/records cannot be written: Read-only file system.")


def test_a_cache_that_cannot_be_written_is_known_by_its_rules(place, client, folders):
    rules = folders / "crds" / "mappings" / "jwst" / "jwst_0001.pmap"
    rules.parent.mkdir(parents=True)
    rules.write_text("rules")
    cache = folders / "crds" / "none"  # no folder: nothing can be written there
    with probes(folders / "ws", cache, "jwst_0001.pmap") as files:
        assert set(files) == {"workspace"}
    cache.symlink_to("/proc/self")
    (folders / "link").symlink_to(folders / "crds")
    with probes(folders / "ws", folders / "crds", "jwst_0001.pmap") as files:
        assert set(files) == {"workspace", "CRDS cache"}


class Told:
    """What a client of workers of these sizes says of them."""

    cluster = None

    def __init__(self, limit_gb: float, declared_gb: float = 0.0, threads: int = 1):
        resources = {RESOURCE: declared_gb} if declared_gb else {}
        self.workers = {"a": {"name": "a", "memory_limit": limit_gb * 1e9, "nthreads": threads, "resources": resources}}

    def scheduler_info(self, n_workers):
        return {"workers": self.workers}

    def get_metadata(self, _keys, default):
        return default


def test_memory_that_holds_no_task():
    with pytest.raises(WorkersError, match=r"largest worker has memory_gb = 0\.5, .* needs 1\.2"):
        refuse_small(Told(4, 0.5), [1.2, 2.0], 2.0)
    refuse_small(Told(4, 1.5), [1.2, 2.0], 2.0)  # what single tasks lack is said of each
    with pytest.raises(WorkersError, match=r"worker a has a memory limit of 0\.5 GB per thread.* 1\.2 GB"):
        refuse_small(Told(2, threads=4), [0.4], 1.2)
    refuse_small(Told(2, threads=4), [0.4], 0.45)
    refuse_small(Told(0), [1.2], 50.0)  # no limit


def test_a_worker_that_comes_later_gets_no_task(place, client, folders, old_jwst):
    """Beside a good one the run goes on; a worker that is not ours gets back to work when it is over."""
    with place.worker("good"), check(client, folders) as guard, place.worker("late", shim=old_jwst):
        wait_for(lambda: guard.refused)
        places = [client.submit(os.getpid, key=f"where-{number}", pure=False) for number in range(20)]
        assert len(set(client.gather(places))) == 1
        time.sleep(2.5)  # longer than it takes to look again
        assert guard.trouble() is None
        assert "jwst is 0.0.1" in str(guard.refused)
        late = next(worker for worker in place.cluster.scheduler.workers.values() if worker.name == "late")
        assert late.status.name == "paused"
        guard.client.unregister_worker_plugin("survey-check")
        wait_for(lambda: late.status.name == "running", 15)


def test_nothing_but_refused_workers_ends_the_wait(place, client, folders, old_jwst):
    with check(client, folders, closes=True) as guard:
        future = client.submit(sum, [1, 2], pure=False)
        with place.worker("ours", shim=old_jwst, wait=False) as process:
            wait_for(lambda: guard.trouble() is not None)
            assert "worker ours at" in str(guard.trouble()) and "jwst is 0.0.1" in str(guard.trouble())
            assert process.wait(30) is not None  # a worker of our own is ended, and so is its job
        assert not future.done()


@pytest.mark.whole
@pytest.mark.xdist_group("whole")
def test_the_command_refuses_and_ends(place, small, finished, tmp_path, old_jwst):
    config, _ = finished
    workspace = small.copy(tmp_path / "ws")
    next((workspace / "records").glob("image2.*.json")).unlink()
    with place.worker("small", "--resources", f"{RESOURCE}=0.1"):
        done = survey("run", config, "--workspace", workspace, "--cluster", place.address, code=2)
    assert "the largest worker has memory_gb = 0.1" in done.stderr
    with place.worker("behind", "--resources", f"{RESOURCE}=6", shim=old_jwst):
        done = survey("run", config, "--workspace", workspace, "--cluster", place.address, code=2)
    assert "jwst is 0.0.1, the client has" in done.stderr
    with place.worker("good", "--resources", f"{RESOURCE}=6"):
        survey("run", config, "--workspace", workspace, "--cluster", place.address)
