"""A real Slurm: jobs come and go with the work, and whatever ends a job, its tasks are made good."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from slurm_service import command, wait_for
from stub_steps import ENVIRONMENT, TESTS, FakeReferences
from test_scheduling_run_plan import STEPS, Line
from test_whole import assert_same_pixels
from whole_run import survey

from survey.cluster import tls
from survey.cluster.capacity import capacity
from survey.cluster.connect import connect
from survey.errors import ClusterError
from survey.execution.task import Site
from survey.models import COMPLETE
from survey.planning.planner import Planner, plan
from survey.scheduling.run_plan import RunSettings, run_plan
from survey.workspace.records import read_records

QUICK = [pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(240)]
pytestmark = pytest.mark.slurm


def quick(test):
    """Of stub steps; a test that waits for processes, not for a processor."""
    for mark in QUICK:
        test = mark(test)
    return test


SMALL_GB, LARGE_GB = 1.0, 3.0


@pytest.fixture
def deploy(tmp_path, slurm):
    """Writes a deploy file; its workers find this checkout."""

    def write(**changed) -> Path:
        ordinary = {"memory_gb": SMALL_GB, "maximum": 2, "walltime": "01:00:00", **changed.pop("ordinary", {})}
        site = {
            "kind": "slurm", "interface": "lo", "scratch": str(tmp_path), "idle": "00:00:04",
            "start_timeout": "00:01:30",
            "groups": {"ordinary": ordinary}, "environment": {"PYTHONPATH": str(TESTS.parent)}, **changed,
        }  # fmt: skip
        path = tmp_path / "slurm.yaml"
        path.write_text(yaml.safe_dump(site))
        return path

    return write


def run(line: Line, client, memory_gb=lambda task: 0.5, until: str | None = STEPS[-1]):
    references = FakeReferences()
    made = plan(line.config, line.exposures, references)
    made = replace(made, tasks=tuple(replace(task, memory_gb=memory_gb(task)) for task in made.tasks))
    stored = read_records(line.workspace.records).by_key
    settings = RunSettings(stored, until, trouble=getattr(client.cluster, "trouble", lambda: None))
    site = Site(str(line.workspace.root), "t", ENVIRONMENT)
    records = run_plan(made, Planner(line.config, references), site, client, settings)
    return {record.key: record for record in records}


def faults(line: Line, **planted: list[str]) -> None:
    """Make the first step of an exposure fail: e1=['hang'] is of the first."""
    keys = {f"{STEPS[0]}/{line.exposures[int(name[1:]) - 1].name}": kinds for name, kinds in planted.items()}
    (line.workspace.root / "faults.json").write_text(json.dumps(keys))


def job_of(client, key: str) -> str:
    """Id of the job whose worker runs a task; '' while none does."""
    for worker in list(client.cluster.scheduler.workers.values()):
        if any(key in str(task.key) for task in list(worker.processing)):
            return str(client.cluster.workers[worker.name].job_id)
    return ""


@quick
def test_jobs_come_with_the_work_and_go_when_it_is_done(slurm, deploy, tmp_path):
    """Encrypted, from no job to two, and back to none; every record names the job that made it."""
    tls.make(tmp_path / "tls", hosts=["127.0.0.1"])
    line = Line(tmp_path / "ws")
    seen: set[str] = set()
    with connect(str(deploy(tls=str(tmp_path / "tls"))), log=tmp_path / "cluster.log") as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        assert slurm.jobs() == []
        assert capacity(client) == SMALL_GB  # what the file promises, before a worker is there
        records = run(line, client)
        jobs = slurm.jobs("RUNNING")
        seen |= {job["id"] for job in jobs}
        assert [(job["name"], job["limit"], job["memory"], job["cpus"]) for job in jobs] == [
            ("survey", "1:00:00", "2G", "1")
        ] * 2
        wait_for(lambda: not slurm.jobs(), 30, "the end of idle jobs")
    assert {record.status for record in records.values()} == {COMPLETE}
    assert {record.job for record in records.values()} <= seen
    stored = read_records(line.workspace.records).by_key
    assert all(record.job == records[key].job for key, record in stored.items())


@quick
def test_whatever_ends_a_job_is_made_good(slurm, deploy, tmp_path):
    """scancel, a worker's lifetime and Slurm's own time limit, each in the middle of a task."""
    site = deploy(
        groups={
            "ordinary": {"memory_gb": SMALL_GB, "maximum": 2, "lifetime": "00:00:30", "stagger": "00:00:01"},
            # Slurm counts in minutes: the file's walltime is longer than the limit that the job really gets.
            "large": {"memory_gb": LARGE_GB, "directives": ["--time=1"]},
        },
    )
    line = Line(tmp_path / "ws")
    # The large task comes first: a large worker that is early must not be given the small ones.
    cancelled, left, timed_out = (f"{STEPS[0]}/{line.exposures[number].name}" for number in (1, 2, 0))
    faults(line, e1=["hang"], e2=["hang"], e3=["hang"])
    first: dict[str, str] = {}
    with connect(str(site), log=tmp_path / "cluster.log") as client:

        def cancel() -> None:
            for key in (cancelled, left, timed_out):
                wait_for(lambda key=key: (line.workspace.root / "attempts" / key.replace("/", ".")).exists(), 120, key)
                first[key] = job_of(client, key.partition("/")[2])
            slurm.cancel(first[cancelled])

        thread = threading.Thread(target=cancel)
        thread.start()
        records = run(line, client, lambda task: LARGE_GB if task.key == timed_out else 0.5)
        thread.join()
        assert client.cluster.trouble() is None
    assert {record.status for record in records.values()} == {COMPLETE}
    assert {key: line.attempts()[key.replace("/", ".")] for key in first} == dict.fromkeys(first, 2)
    assert all(records[key].job not in ("", first[key]) for key in first)  # another job's worker made it
    assert slurm.ended(first[cancelled]) == "CANCELLED"
    assert slurm.ended(first[timed_out]) == "TIMEOUT"
    assert slurm.ended(first[left]) in ("COMPLETED", "CANCELLED")  # it left in order, or its job was ended behind it
    assert max(line.attempts().values()) == 2  # and nothing else ran twice


@quick
def test_a_queue_that_never_starts_ends_the_run(slurm, deploy, tmp_path):
    site = deploy(ordinary={"queue": "closed"}, start_timeout="00:00:06")
    line = Line(tmp_path / "ws")
    began = time.monotonic()
    with (
        pytest.raises(
            ClusterError, match=r"no worker was there for 00:00:06 while tasks waited \(job \d+: PENDING"
        ) as raised,
        connect(str(site), log=tmp_path / "cluster.log") as client,
    ):
        run(line, client)
    assert time.monotonic() - began < 40
    assert raised.value.exit_code == 3
    assert "start_timeout" in str(raised.value)
    assert slurm.jobs() == []


@quick
def test_jobs_that_end_at_once_end_the_run_with_their_last_words(slurm, deploy, tmp_path):
    site = deploy(prologue=["echo no such module >&2; exit 1"], ordinary={"maximum": 3})
    line = Line(tmp_path / "ws")
    with (
        pytest.raises(ClusterError, match=r"3 jobs in a row ended before a worker was there") as raised,
        connect(str(site), log=tmp_path / "cluster.log") as client,
    ):
        run(line, client)
    assert "no such module" in str(raised.value)


@quick
def test_a_job_that_slurm_refuses_ends_the_run_with_its_words(slurm, deploy, tmp_path):
    site = deploy(ordinary={"queue": "nosuch"})
    with (
        pytest.raises(ClusterError, match=r"could not be submitted.*invalid partition"),
        connect(str(site), log=tmp_path / "cluster.log") as client,
    ):
        run(Line(tmp_path / "ws"), client)


@contextlib.contextmanager
def held(site: Path, folder: Path):
    """`survey cluster`, which holds the cluster of a deploy file until it is told to end: process and address."""
    command = [sys.executable, "-m", "survey.cli", "cluster", str(site), "--workspace", str(folder)]
    process = subprocess.Popen(command, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process, json.loads(process.stdout.readline())["scheduler"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


@quick
def test_a_cluster_that_is_held_brings_jobs_to_runs_that_have_its_address_alone(slurm, deploy, tmp_path):
    """Of both sizes, from none: what it will bring is known before a worker is there."""
    site = deploy(groups={"ordinary": {"memory_gb": SMALL_GB}, "large": {"memory_gb": LARGE_GB}}, idle="00:05:00")
    line = Line(tmp_path / "ws")
    big = line.exposures[0].name
    with held(site, tmp_path) as (_, address):
        with connect(address) as client:
            assert slurm.jobs() == [] and client.cluster is None
            assert capacity(client) == LARGE_GB
            records = run(line, client, lambda task: 2.0 if big in task.key else 0.5)
        assert sorted(job["memory"] for job in slurm.jobs("RUNNING")) == ["2G", "4G"]
        jobs = {job["memory"]: job["id"] for job in slurm.jobs("RUNNING")}
        again = Line(tmp_path / "again")
        with connect(address) as client:  # which finds the workers of the first
            assert {record.job for record in run(again, client).values()} <= set(jobs.values())
    assert {record.status for record in records.values()} == {COMPLETE}
    assert {record.job for key, record in records.items() if big in key} == {jobs["4G"]}
    wait_for(lambda: not slurm.jobs(), 30, "the end of jobs that are held no more")


@quick
def test_a_held_cluster_that_brings_no_worker_ends_and_says_why(slurm, deploy, tmp_path):
    site = deploy(ordinary={"queue": "closed"}, start_timeout="00:00:03")
    with held(site, tmp_path) as (process, address), connect(address) as client:
        future = client.submit(int, resources={"memory_gb": 1}, pure=False)
        assert process.wait(60) == 3
        assert "no worker was there for 00:00:03 while tasks waited" in process.stderr.read()
        assert future.status != "finished"


@pytest.mark.whole
@pytest.mark.xdist_group("whole")
def test_a_whole_run_whose_client_is_a_job_itself(slurm, small, finished, deploy, tmp_path, monkeypatch):
    """deploy/client.sbatch as it stands, real exposures, two jobs of one core: the same pixels as on this machine."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    monkeypatch.setenv("MAST_API_TOKEN", "none-of-the-workers-business")
    workspace = tmp_path / "ws"
    config = small.config("slurm", workspace)
    site = deploy(ordinary={"memory_gb": 5.0, "maximum": 2}, idle="00:05:00")
    script = TESTS.parent / "deploy" / "client.sbatch"
    log = tmp_path / "client.log"
    began = time.monotonic()
    client_job = command("sbatch", "--parsable", f"--output={log}", "--mem=1G", script, config, site).strip()
    workers: set[str] = set()

    def over() -> bool:
        workers.update(job["id"] for job in slurm.jobs() if job["name"] == "survey")
        return slurm.ended(client_job) not in ("PENDING", "RUNNING", "COMPLETING")

    wait_for(over, 500, "the client's job")
    print(f"whole run on Slurm: {time.monotonic() - began:.0f} s")
    assert slurm.ended(client_job) == "COMPLETED", log.read_text()[-3000:]
    wait_for(lambda: not slurm.jobs(), 30, "the end of the workers' jobs")
    assert len(workers) == 2
    records = small.records(workspace)
    assert {record["status"] for record in records.values()} == {"complete"}
    assert records.keys() == small.records().keys()
    assert {record["job"] for record in records.values()} == workers
    for name in sorted(path.relative_to(small.workspace) for path in small.workspace.glob("*/*.fits")):
        if name.parts[0] in ("stage1", "stage2", "mosaics"):
            assert_same_pixels(small.workspace / name, workspace / name)
    said = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"none-of-the-workers-business" not in said


@pytest.mark.whole
@pytest.mark.xdist_group("whole")
def test_the_command_ends_with_its_exit_code_when_no_job_starts(slurm, small, finished, deploy, tmp_path):
    config, _ = finished
    workspace = small.copy(tmp_path / "ws")
    next((workspace / "records").glob("image2.*.json")).unlink()
    site = deploy(ordinary={"memory_gb": 5.0, "queue": "closed"}, start_timeout="00:00:05")
    done = survey("run", config, "--workspace", workspace, "--cluster", site, code=3)
    assert "no worker was there for 00:00:05 while tasks waited" in done.stderr
    assert slurm.jobs() == []
