"""Tasks on a real dask scheduler in this process, with a function in place of `run_task` and no mosaics."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from dask.distributed import Client, LocalCluster

from survey.cluster.deploy import RESOURCE
from survey.config.limits import Limits
from survey.errors import ClusterError, DiskFullError, TaskError
from survey.execution.environment import Site
from survey.execution.task import blank_record, skipped_record
from survey.models import COMPLETE, FAILED, SKIPPED, Product, Task, TaskRecord
from survey.scheduling import task_queue
from survey.scheduling.task_queue import TaskQueue
from survey.workspace.folders import Workspace

# What `scripted` does, by task key: the outcomes of its tries, 'complete' after the last; and each try, as it begins.
OUTCOMES: dict[str, list[str]] = defaultdict(list)
TRIES: list[tuple[str, float]] = []  # task key, memory limit [GB]
GO = threading.Event()


def scripted(task: Task, site: Site, inputs: Sequence[TaskRecord], limit_gb: float) -> TaskRecord:
    lost = next((record for record in inputs if record.status != COMPLETE), None)
    if lost is not None:
        return skipped_record(task, lost)
    TRIES.append((task.key, limit_gb))
    outcome = OUTCOMES[task.key].pop(0) if OUTCOMES[task.key] else "complete"
    if outcome == "wait":
        GO.wait(30)
    if outcome == "again":
        raise TaskError(f"{task.key}: the disk blinked", retry="again")
    if outcome in ("memory", "disk", "never"):
        return replace(blank_record(task), error=f"{task.key}: {outcome}", error_class=outcome, peak_memory_gb=1.5)
    return replace(blank_record(task), status=COMPLETE)


class Gate:
    """In place of `MosaicGate`: tasks that follow others, by the key of the one that must be decided first."""

    def __init__(self, queue: TaskQueue, following: Mapping[str, Sequence[Task]] | None = None):
        self.queue = queue
        self.following = dict(following or {})
        self.order: list[str] = []  # of task keys, as they were decided
        self.reused: set[str] = set()

    def run(self) -> dict[str, TaskRecord]:
        self._take()
        while self.queue.unfinished:
            if not self.queue.collect():
                self.queue.give_up_unplaced()
            self._take()
        assert len(self.order) == len(set(self.order)) == len(self.queue.records)  # each once
        return self.queue.records

    def _take(self) -> None:
        for record, reused in self.queue.take_decided():
            self.order.append(record.key)
            self.reused |= {record.key} if reused else set()
            self.queue.add(self.following.pop(record.key, ()))


@pytest.fixture(autouse=True)
def script(monkeypatch):
    monkeypatch.setattr(task_queue, "run_task", scripted)
    OUTCOMES.clear()
    TRIES.clear()
    GO.clear()
    return OUTCOMES


@pytest.fixture
def site(tmp_path):
    Workspace(tmp_path / "ws").create()
    return Site(str(tmp_path / "ws"), "t", {}, Limits(workers_minutes=1 / 60))


def queue_of(client, site, stored=None, limit_seconds=30.0) -> TaskQueue:
    return TaskQueue(client, site, stored or {}, limit_seconds)


def task(key: str, *inputs: str, memory_gb: float = 1.0, **facts) -> Task:
    step, _, subject = key.partition("/")
    return Task(key=key, step=step, subject=subject, filter="F200W", settings={}, inputs=inputs, digest=f"digest-{key}",
                memory_gb=memory_gb, **facts)  # fmt: skip


def chain(name: str, **facts) -> list[Task]:
    """The three tasks of an exposure."""
    keys = [f"{step}/{name}" for step in ("detector1", "image2", "sources")]
    return [task(key, *keys[:number][-1:], **facts) for number, key in enumerate(keys)]


def statuses(records: Mapping[str, TaskRecord]) -> list[str]:
    return [record.status for record in records.values()]


def tried(key: str) -> list[float]:
    """Memory limits [GB] of a task's tries."""
    return [limit for name, limit in TRIES if name == key]


def complete(item: Task, root, name: str | None = None) -> TaskRecord:
    """The record of an earlier run, with a product in the workspace."""
    path = name or f"stage2/{item.step}.{item.subject}.fits"
    (root / path).write_text("made")
    return replace(blank_record(item), status=COMPLETE, products=(Product(path, "0" * 64, 4),))


def test_tasks_run_after_their_inputs_and_each_once(client, site):
    queue = queue_of(client, site)
    queue.add(chain("a"))
    queue.add(chain("b"))
    gate = Gate(queue, {"sources/a": [task("align/m", "sources/a", "sources/b")]})
    records = gate.run()
    assert statuses(records) == [COMPLETE] * 7
    assert len(TRIES) == 7
    begun = [key for key, _ in TRIES]
    for item in [*chain("a"), *chain("b"), task("align/m", "sources/a", "sources/b")]:
        assert all(begun.index(name) < begun.index(item.key) for name in item.inputs)
    assert gate.order[-1] == "align/m"


def test_an_error_that_may_pass_is_retried_by_dask(client, site, script):
    script["detector1/a"] = ["again", "again"]
    queue = queue_of(client, site)
    queue.add(chain("a"))
    assert statuses(Gate(queue).run()) == [COMPLETE] * 3
    assert len(tried("detector1/a")) == 3 and len(tried("image2/a")) == 1


def test_an_error_that_stays_fails_and_what_depends_on_it_names_it(client, site, script):
    script["image2/a"] = ["again"] * 9
    queue = queue_of(client, site)
    queue.add(chain("a"))
    queue.add(chain("b"))
    records = Gate(queue).run()
    failed = records["image2/a"]
    assert (failed.status, failed.error, failed.error_class) == (FAILED, "the disk blinked", "again")
    assert failed.attempts == 3 == len(tried("image2/a"))
    assert records["sources/a"].error == "not run, because image2/a failed: the disk blinked"
    assert [records[item.key].status for item in chain("b")] == [COMPLETE] * 3


def test_a_task_out_of_memory_is_tried_once_more_and_then_what_depends_on_it(client, site, script):
    """The second try requests twice the memory, at least 1.5 times what the first was seen to hold (1.5 GB)."""
    script["detector1/a"] = ["memory"]
    queue = queue_of(client, site)
    queue.add(chain("a", memory_gb=0.9))
    gate = Gate(queue)
    assert statuses(gate.run()) == [COMPLETE] * 3
    limits = site.limits
    assert tried("detector1/a") == [limits.memory_gb(0.9, 4.0), limits.memory_gb(2.25, 4.0)]
    assert [key for key, _ in TRIES] == ["detector1/a", "detector1/a", "image2/a", "sources/a"]
    assert gate.order == ["detector1/a", "image2/a", "sources/a"]


def test_a_task_out_of_memory_twice_fails(client, site, script):
    script["image2/a"] = ["memory"] * 9
    queue = queue_of(client, site)
    queue.add(chain("a", memory_gb=3.0))
    records = Gate(queue).run()
    assert statuses(records) == [COMPLETE, FAILED, SKIPPED]
    assert records["image2/a"].error_class == "memory" and "image2/a" in records["sources/a"].error
    # It requests no more than the largest worker has, 4 GB, and may then hold a quarter more.
    assert tried("image2/a") == [5.0, 5.0]


def test_a_retry_submits_tasks_again_in_their_order_and_leaves_others_alone(client, site, script):
    """Of a mosaic: those that depend on the task by any path, and not those beside it."""
    script["sky/a"], script["pixmap/a"], script["outliers/b"] = ["memory"], ["wait"], ["wait"]
    mosaic = [
        task("align/m"), task("sky/a", "align/m"), task("pixmap/a", "align/m"), task("outliers/b", "align/m"),
        task("skymatch/m", "sky/a"), task("outliers/a", "skymatch/m", "pixmap/a"),
        task("drizzle/m", "outliers/a", "outliers/b"),
    ]  # fmt: skip
    queue = queue_of(client, site)
    queue.add(mosaic)
    threading.Timer(1.0, GO.set).start()
    assert statuses(Gate(queue).run()) == [COMPLETE] * 7
    begun = [key for key, _ in TRIES]
    assert {key: begun.count(key) for key in begun} == {item.key: 1 + (item.key == "sky/a") for item in mosaic}


def test_a_full_disk_stops_the_run(client, site, script):
    script["detector1/a"] = ["disk"]
    queue = queue_of(client, site)
    queue.add(chain("a"))
    with pytest.raises(DiskFullError) as raised:
        Gate(queue).run()
    assert str(raised.value) == "detector1/a: disk. Make room and run again; what was complete stays."
    queue.cancel()
    assert tried("image2/a") == []


def test_a_task_that_no_worker_can_hold_is_not_submitted(client, site):
    queue = queue_of(client, site)
    queue.add([task("detector1/a", memory_gb=40.0), task("image2/a", "detector1/a")])
    assert not queue.unfinished  # decided at once
    records = Gate(queue).run()
    failed = records["detector1/a"]
    assert (failed.status, failed.error_class) == (FAILED, "never")
    assert failed.error.startswith(f"needs resource {RESOURCE} = 40.0, the largest worker has 4.0.")
    assert records["image2/a"].error == f"not run, because detector1/a failed: {failed.error}"
    assert TRIES == []


def test_tasks_without_a_worker_are_given_up_with_what_depends_on_them(site):
    """The large worker leaves before its task. All tasks after that one name it; a mosaic may go on without it."""
    options = {"threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with (
        LocalCluster(n_workers=1, resources={RESOURCE: 2.0}, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        small = cluster.worker_spec[0]
        cluster.worker_spec["large"] = {**small, "options": {**small["options"], "resources": {RESOURCE: 9.0}}}
        cluster.sync(cluster._correct_state)
        client.wait_for_workers(2, timeout=20)
        queue = queue_of(client, site, limit_seconds=1.0)
        cluster.worker_spec.pop("large")
        cluster.sync(cluster._correct_state)
        first, second, third = chain("a")
        queue.add([first, replace(second, memory_gb=8.0), third])
        gate = Gate(queue, {"image2/a": [task("detector1/b")]})
        records = gate.run()
    failed = records["image2/a"]
    assert (failed.status, failed.error_class) == (FAILED, "again")
    assert f"no worker with resource {RESOURCE} = 8.0 came within" in failed.error
    assert records["sources/a"].error == f"not run, because image2/a failed: {failed.error}"
    assert records["detector1/a"].status == records["detector1/b"].status == COMPLETE
    assert gate.order == ["detector1/a", "image2/a", "sources/a", "detector1/b"]


def test_what_is_not_known_yet_fails(client, site):
    queue = queue_of(client, site)
    queue.add([replace(task("detector1/a"), digest="", unknown="raw/a.fits is not there yet")])
    (record,) = Gate(queue).run().values()
    assert (record.status, record.error, record.error_class) == (
        FAILED,
        "not run: raw/a.fits is not there yet",
        "never",
    )


def test_tasks_are_skipped_for_the_callers_reason(client, site):
    queue = queue_of(client, site)
    queue.skip(chain("a"), "2 of 3 members missing")
    records = Gate(queue).run()
    assert {(record.status, record.error) for record in records.values()} == {(SKIPPED, "2 of 3 members missing")}
    assert TRIES == []


def test_records_of_earlier_runs_are_reused_while_their_products_are_there(client, site, tmp_path):
    root, items = tmp_path / "ws", chain("a")
    stored = {item.key: complete(item, root) for item in items}
    queue = queue_of(client, site, stored)
    queue.add(items)
    gate = Gate(queue)
    assert gate.run() == stored and gate.reused == set(stored) and TRIES == []
    (root / "stage2" / "image2.a.fits").unlink()
    queue = queue_of(client, site, stored)
    queue.add(items)
    gate = Gate(queue)
    gate.run()
    assert [key for key, _ in TRIES] == ["image2/a"] and gate.reused == {"detector1/a", "sources/a"}
    queue = queue_of(client, site, stored)
    queue.add([replace(item, digest="another") for item in items])
    assert Gate(queue).run().keys() == stored.keys() and len(TRIES) == 4


def test_a_dropped_intermediate_runs_again_only_for_a_task_that_must_run(client, site, tmp_path):
    """Pixel maps and medians (intermediate steps) are deleted once a mosaic is complete."""
    root = tmp_path / "ws"
    items = [task("pixmap/a"), task("pixmap/b"), task("median/m", "pixmap/a"), task("outliers/a", "median/m"),
             task("drizzle/m", "outliers/a", "pixmap/b")]  # fmt: skip
    stored = {item.key: complete(item, root) for item in items}
    for path in root.glob("stage2/pixmap.*"):
        path.unlink()
    (root / "stage2" / "median.m.fits").unlink()
    queue = queue_of(client, site, stored)
    queue.add(items)
    gate = Gate(queue)
    assert gate.run().keys() == stored.keys() and TRIES == []  # nothing reads them
    (root / "stage2" / "outliers.a.fits").unlink()
    queue = queue_of(client, site, stored)
    queue.add(items)
    gate = Gate(queue)
    assert statuses(gate.run()) == [COMPLETE] * 5
    assert [key for key, _ in TRIES] == ["pixmap/a", "median/m", "outliers/a"]
    assert gate.reused == {"pixmap/b", "drizzle/m"}


def test_a_retry_leaves_a_reused_task_alone(client, site, script, tmp_path):
    """It depends on one that runs again, and its own product is still there."""
    root, items = tmp_path / "ws", chain("a")
    stored = {"sources/a": complete(items[2], root)}
    script["image2/a"] = ["memory"]
    queue = queue_of(client, site, stored)
    queue.add(items)
    gate = Gate(queue)
    assert gate.run()["sources/a"] is stored["sources/a"]
    assert tried("sources/a") == [] and len(tried("image2/a")) == 2


def test_a_scheduler_that_is_gone_is_an_error(site, script):
    script["detector1/a"] = ["wait"]
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        client = Client(cluster, set_as_default=False)
        queue = queue_of(client, site)
        queue.add(chain("a"))
        client.close()
        GO.set()
        with pytest.raises(ClusterError, match=r"the scheduler .* is gone; everything that was complete stays"):
            Gate(queue).run()
        queue.cancel()  # nothing to cancel any more, and no error
