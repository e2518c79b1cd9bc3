"""The loop of `run_plan`, with fakes of the task queue and of the gate."""

from __future__ import annotations

import pytest

from survey.errors import ClusterError
from survey.execution.task import blank_record
from survey.models import Task
from survey.scheduling.mosaic_gate import Ready
from survey.scheduling.run_plan import RunSettings, _run
from survey.scheduling.task_queue import Decided


def task(key: str) -> Task:
    step, _, subject = key.partition("/")
    return Task(key=key, step=step, subject=subject, filter="F200W", settings={})


class Queue:
    """Decides at once what is reused; the rest never ends."""

    def __init__(self, reused: tuple[str, ...] = ()):
        self.reused = reused
        self.calls: list[str] = []
        self.unfinished = False
        self._decided: list[Decided] = []

    def add(self, tasks):
        for item in tasks:
            self.calls.append(f"add {item.key}")
            if item.key in self.reused:
                self._decided.append(Decided(blank_record(item), True))
            else:
                self.unfinished = True

    def skip(self, tasks, error, keep_done=False):
        self.calls += [f"skip {item.key}: {error}" for item in tasks]
        self._decided += [Decided(blank_record(item), False) for item in tasks]

    def take_decided(self):
        taken, self._decided = self._decided, []
        return taken

    def collect(self):
        self.calls.append("collect")
        return False

    def give_up_unplaced(self):
        self.unfinished = False


class Gate:
    def __init__(self, ready: dict[str, Ready], *first: str):
        self.ready = ready
        self.first = first  # keys of the tasks that wait for nothing

    def ready_at_start(self):
        return [Ready((task(key),)) for key in self.first]

    def ready_after(self, record):
        return [self.ready[record.key]] if record.key in self.ready else []


def test_what_a_decided_task_makes_ready_comes_before_further_exposures():
    """Depth first: a skipped task may make more tasks ready, and so on, without recursion."""
    queue = Queue(reused=("image2/a", "image2/b", "image2/c"))
    chain = {f"image2/{name}": Ready((task(f"align/{name}"),), name, "no members", True) for name in "ab"}
    other = Ready((task("align/other"),), "other", "no reference")
    gate = Gate({**chain, "align/a": other}, "image2/a", "image2/b", "image2/c")
    seen: list[tuple[str, bool]] = []
    laid_out: list[str] = []
    settings = RunSettings(
        watch=lambda record, reused: seen.append((record.key, reused)),
        laid_out=lambda product, tasks: laid_out.append(f"{product} {len(tasks)}"),
    )
    _run(queue, gate, settings)
    assert queue.calls == [
        "add image2/a", "skip align/a: no members", "skip align/other: no reference",
        "add image2/b", "skip align/b: no members", "add image2/c",
    ]  # fmt: skip
    assert seen == [("image2/a", True), ("align/a", False), ("align/other", False), ("image2/b", True),
                    ("align/b", False), ("image2/c", True)]  # fmt: skip
    assert laid_out == ["a 1", "b 1"]


def test_a_run_without_hope_of_a_worker_ends():
    """Exposures are all submitted before the first is waited for."""
    queue = Queue()
    error = ClusterError("the batch system starts no job")
    with pytest.raises(ClusterError, match="starts no job"):
        _run(queue, Gate({}, "image2/a", "image2/b"), RunSettings(trouble=lambda: error))
    assert queue.calls == ["add image2/a", "add image2/b", "collect"]


def test_a_run_ends_when_its_queue_has_given_up_the_rest():
    queue = Queue()
    _run(queue, Gate({}, "image2/a"), RunSettings())
    assert queue.calls == ["add image2/a", "collect"] and not queue.unfinished
