"""Workers that lack what the client has are refused by name, before their first task and without an endless wait."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from dask.distributed import Client, LocalCluster
from whole_run import survey

import survey as package
from survey.cluster.deploy import RESOURCE
from survey.errors import ClusterError, WorkersError
from survey.scheduling.waiting import refuse_small_workers
from survey.scheduling.worker_checks import CHECK, check_workers, probe_files, requirements
from survey.versions import installed_versions

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
ROOTLESS = os.geteuid() != 0 or shutil.which("unshare") is None


KILLED = """
import sys, time
from dask.distributed import Client
from survey.scheduling.worker_checks import check_workers, requirements

with Client(sys.argv[1], set_as_default=False) as client:
    with check_workers(client, requirements(client, {}, {"workspace": (sys.argv[2], "")}, [])):
        print("checked", flush=True)
        time.sleep(600)
"""


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

    def status(self, name: str) -> str:
        return next(worker.status.name for worker in self.cluster.scheduler.workers.values() if worker.name == name)

    def fraction(self, client: Client, name: str) -> float | bool:
        """The share of its memory above which a worker pauses by itself."""
        said = client.run(lambda dask_worker: (dask_worker.name, dask_worker.memory_manager.memory_pause_fraction))
        return dict(said.values())[name]

    def checks(self) -> set[str]:
        scheduler = self.cluster.scheduler
        return {name for name in (*scheduler.plugins, *scheduler.worker_plugins) if name.startswith(CHECK)}

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
def check(client: Client, folders: Path, closes: bool = False, memory_gb: Sequence[float] = ()):
    versions = {**installed_versions(), "survey": package.__version__}
    with probe_files(folders / "ws", folders / "crds", "jwst_0001.pmap") as files:
        needs = requirements(client, versions, files, [str(folders / "ws" / "records")], memory_gb)
        with check_workers(client, needs, closes) as reports:
            yield reports


def refused(client: Client, folders: Path, memory_gb: Sequence[float] = ()) -> str:
    with pytest.raises(WorkersError) as raised, check(client, folders, memory_gb=memory_gb):
        pass
    assert raised.value.exit_code == 2
    return str(raised.value)


def test_a_worker_that_has_everything_works(place, client, folders):
    with place.worker("good", "--resources", f"{RESOURCE}=3"), check(client, folders) as reports:
        assert client.submit(sum, [1, 2], pure=False).result(30) == 3
        assert reports.trouble() is None
    assert not place.checks()
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
    monkeypatch.setattr("survey.scheduling.worker_checks.APPEAR_SECONDS", 0.5)
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
    with probe_files(folders / "ws", cache, "jwst_0001.pmap") as files:
        assert set(files) == {"workspace"}
    cache.symlink_to("/proc/self")
    (folders / "link").symlink_to(folders / "crds")
    with probe_files(folders / "ws", folders / "crds", "jwst_0001.pmap") as files:
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
        refuse_small_workers(Told(4, 0.5), [1.2, 2.0])
    refuse_small_workers(Told(4, 1.5), [1.2, 2.0])  # what single tasks lack is said of each
    refuse_small_workers(Told(0), [1.2])


BOAST = ("--memory-limit", "1GB", "--resources", f"{RESOURCE}=6")
MODEST = ("--memory-limit", "1GB", "--resources", f"{RESOURCE}=0.5")
UNLIMITED = ("--memory-limit", "0")


def test_a_memory_limit_below_what_a_worker_declares_is_named(place, client, folders):
    """Of a worker that is there; beside a large one, an ordinary one is as it should be."""
    large = place.worker("large", *UNLIMITED, "--resources", f"{RESOURCE}=6")
    with large, place.worker("modest", *MODEST), place.worker("boast", *BOAST):
        first, *rest = refused(client, folders, memory_gb=[0.5, 5]).splitlines()
    assert len(rest) == 1 and first.startswith("worker boast at tcp://127.0.0.1:")
    assert first.endswith(
        f": its memory limit is 1.0 GB, and its tasks may take 5.0 GB at once ({RESOURCE} = 6.0, 1 thread). "
        "Raise --memory-limit, or have it declare less."
    )


def test_a_memory_limit_is_looked_at_when_a_worker_comes_later(place, client, folders):
    tasks = [0.5, 5]
    large = place.worker("large", *UNLIMITED, "--resources", f"{RESOURCE}=6")
    with large, check(client, folders, memory_gb=tasks) as reports, place.worker("boast", *BOAST):
        wait_for(lambda: reports.rejected)
        with place.worker("modest", *MODEST):
            futures = [client.submit(int, number, resources={RESOURCE: 0.5}, pure=False) for number in range(9)]
            assert client.gather(futures) == list(range(9))
            assert (place.status("boast"), place.status("modest")) == ("paused", "running")
    assert "may take 5.0 GB at once" in str(reports.rejected)
    silent = place.worker("silent", *UNLIMITED)
    with silent, check(client, folders, memory_gb=tasks) as reports, place.worker("modest", *MODEST):
        wait_for(lambda: "it may get any task" in str(reports.rejected))


def test_a_worker_that_comes_later_gets_no_task(place, client, folders, old_jwst):
    """Beside a good one the run goes on; a worker that is not ours gets back to work when it is over."""
    with place.worker("good"), contextlib.ExitStack() as workers:
        with check(client, folders) as reports:
            workers.enter_context(place.worker("late", shim=old_jwst))
            wait_for(lambda: reports.rejected)
            places = [client.submit(os.getpid, key=f"where-{number}", pure=False) for number in range(20)]
            assert len(set(client.gather(places))) == 1
            time.sleep(2.5)  # longer than it takes to look again
            assert reports.trouble() is None
            assert "jwst is 0.0.1" in str(reports.rejected)
            assert place.status("late") == "paused"
        wait_for(lambda: place.status("late") == "running", 15)


@pytest.mark.parametrize("resources", [None, {RESOURCE: 6}], ids=["by threads", "by memory"])
def test_tasks_that_a_worker_got_before_it_was_refused_go_back(place, client, folders, resources):
    """It is given tasks, or steals them, while it is still looking at itself."""
    slow = folders / "slow" / "survey"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text("import time\ntime.sleep(1.5)\n__version__ = '0.0.2'\n")
    declared = ("--resources", f"{RESOURCE}=8", "--memory-limit", "0")
    given: list[str] = []

    def look() -> bool:
        late = next(worker for worker in place.cluster.scheduler.workers.values() if worker.name == "late")
        given.extend(task.key for task in list(late.processing))
        return bool(reports.rejected)

    def nap(number: int):
        key = f"nap-{number}-{bool(resources)}"
        return client.submit(time.sleep, 0.3, key=key, resources=resources, pure=False)

    with place.worker("good", *declared), check(client, folders) as reports:
        futures = [nap(number) for number in range(6)]
        with place.worker("late", *declared, shim=slow.parent):
            futures += [nap(number) for number in range(6, 12)]
            wait_for(look)
            assert given  # else nothing was tried
            wait_for(lambda: all(future.done() for future in futures), 15)
            assert place.status("late") == "paused"


def test_a_task_that_a_refused_worker_steals_goes_back(place, client, folders, old_jwst):
    """A theft that was agreed on before, and is carried out afterwards."""

    def steal(key: str, dask_scheduler) -> None:
        thief = next(worker for worker in dask_scheduler.workers.values() if worker.name == "late")
        task = dask_scheduler.tasks[key]
        dask_scheduler.extensions["stealing"].move_task_request(task, task.processing_on, thief)

    def executing(dask_worker) -> int:
        return dask_worker.state.executing_count

    def stolen(key: str, dask_scheduler) -> bool:
        return any(entry[:2] == ("confirm", key) for _, entry in dask_scheduler.get_events("stealing"))

    with place.worker("good"), check(client, folders) as reports, place.worker("late", shim=old_jwst):
        wait_for(lambda: reports.rejected)
        good = next(worker for worker in place.cluster.scheduler.workers.values() if worker.name == "good")
        running = client.submit(time.sleep, 3, key="running", pure=False)
        wait_for(lambda: any(client.run(executing, workers=[good.address]).values()))
        waiting = client.submit(int, key="waiting", pure=False)
        wait_for(lambda: len(good.processing) == 2)
        client.run_on_scheduler(steal, "waiting")
        wait_for(lambda: client.run_on_scheduler(stolen, "waiting"), 15)
        wait_for(lambda: running.done() and waiting.done(), 15)


def test_a_run_that_is_killed_leaves_no_check_behind(place, client, folders):
    """Its probes are gone: it would refuse every worker that comes."""
    script = folders / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), place.address, str(folders / "gone")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "checked\n"
        assert len(place.checks()) == 1
        process.kill()
    wait_for(lambda: not place.checks())
    with place.worker("good"), check(client, folders):
        assert client.submit(sum, [1, 2], pure=False).result(30) == 3


def test_a_scheduler_that_is_gone_hides_no_error(place, folders, monkeypatch):
    """dask's client has no scheduler to ask between the loss of its connection and a new one."""
    with (
        Client(place.address, set_as_default=False) as client,
        pytest.raises(ClusterError, match="is gone"),
        monkeypatch.context() as lost,
        check(client, folders),
    ):
        lost.setattr(client, "scheduler", None)
        raise ClusterError("the scheduler is gone.")


def test_runs_that_share_workers_each_have_a_check_of_their_own(place, client, folders, old_jwst):
    """One that starts or ends neither takes the other's away nor lets go of what the other refuses."""
    with place.worker("good"), Client(place.address, set_as_default=False) as other, contextlib.ExitStack() as workers:
        with check(client, folders) as first:
            with check(other, folders) as second:
                workers.enter_context(place.worker("late", shim=old_jwst))
                wait_for(lambda: first.rejected and second.rejected)
            assert place.fraction(client, "late") is False
            assert place.status("late") == "paused"
            workers.enter_context(place.worker("later", shim=old_jwst))
            wait_for(lambda: len(first.rejected) == 2)
        wait_for(lambda: place.status("late") == place.status("later") == "running", 15)
        assert place.fraction(client, "late") == place.fraction(client, "good")


def test_nothing_but_refused_workers_ends_the_wait(place, client, folders, old_jwst):
    with check(client, folders, closes=True) as reports:
        future = client.submit(sum, [1, 2], pure=False)
        with place.worker("ours", shim=old_jwst, wait=False) as process:
            wait_for(lambda: reports.trouble() is not None)
            assert "worker ours at" in str(reports.trouble()) and "jwst is 0.0.1" in str(reports.trouble())
            assert process.wait(30) is not None  # a worker of our own is ended, and so is its job
        assert not future.done()


def test_a_run_at_an_address_ends_no_worker_of_others(place, tmp_path, old_jwst):
    """It pauses one that lacks something, and gives it back."""
    root = tmp_path / "ws"
    command = [sys.executable, str(ROOT / "tests" / "stub_survey.py"), str(root), "--cluster", place.address]
    command += ["--until", "image2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STUB_SECONDS": "0.8"}
    with (
        place.worker("good", "--resources", f"{RESOURCE}=8", "--memory-limit", "0"),
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run,
    ):
        wait_for(lambda: list(root.glob("records/*.json")))
        with place.worker("late", shim=old_jwst) as late:
            wait_for(lambda: place.status("late") == "paused")
            assert json.loads(run.communicate(timeout=90)[0])["failed"] == {}
            wait_for(lambda: place.status("late") == "running", 15)
            assert late.poll() is None
    assert run.returncode == 0


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
