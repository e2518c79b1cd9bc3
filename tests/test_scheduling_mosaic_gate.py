"""When mosaics go on: no dask and no child process; a fake queue decides every task at once, in order."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from stub_steps import FakeReferences, exposure

from survey.config.model import SurveyConfig
from survey.execution.task import blank_record, skipped_record
from survey.models import COMPLETE, FAILED, SKIPPED, Plan, Task, TaskRecord
from survey.mosaics.grid import Box
from survey.mosaics.layouts import Layout, Member
from survey.planning.planner import Planner, plan
from survey.planning.selection import steps_until
from survey.scheduling.mosaic_gate import MosaicGate, Ready
from survey.scheduling.run_plan import exposure_chains

MOSAIC = "jw01345-a3001_t001_nircam_clear-{}-sub320"
SHORT, LONG = MOSAIC.format("f200w"), MOSAIC.format("f444w")
BOX = Box(0, 0, 300, 300)


class Queue:
    """In place of `TaskQueue`: every task ends at once, as planned in ``failing``, after its inputs."""

    def __init__(self, root: Path, failing: tuple[str, ...] = ()):
        self.root = root
        self.failing = failing
        self.records: dict[str, TaskRecord] = {}

    def take(self, ready: Ready) -> list[TaskRecord]:
        for task in ready.tasks:
            assert task.key not in self.records  # each task once
            self.records[task.key] = self._record_of(task, ready.error)
        return [self.records[task.key] for task in ready.tasks]

    def _record_of(self, task: Task, error: str) -> TaskRecord:
        if error:
            return replace(blank_record(task), status=SKIPPED, error=error)
        inputs = [self.records[key] for key in task.inputs]  # a task never comes before its inputs
        lost = next((record for record in inputs if record.status != COMPLETE), None)
        if lost is not None:
            return skipped_record(task, lost)
        if task.key in self.failing:
            return replace(blank_record(task), error="ValueError: bad pixels", error_class="never")
        if task.step == "align":
            write_layout(self.root, task)
        return replace(blank_record(task), status=COMPLETE)


def write_layout(root: Path, align: Task) -> None:
    """What an alignment leaves: every member on one square of 300 pixels."""
    names = [path[len("stage3/") : -len("_member.asdf")] for path in align.reads if path.endswith("_member.asdf")]
    members = tuple(Member(name, number, BOX, BOX) for number, name in enumerate(names))
    layout = Layout((300, 300), (300, 300), True, members, align.digest)
    (root / "stage3").mkdir(exist_ok=True)
    (root / "stage3" / f"{align.subject}_layout.json").write_text(json.dumps(layout.to_json()))


class Survey:
    """Three exposures of F200W and one of F444W, and the gate of their mosaics."""

    def __init__(self, root: Path, until: str | None = None, exposures=None, **mosaic):
        root.mkdir(exist_ok=True)
        config = SurveyConfig(
            survey="t", program=1345, workspace=root, references={"context": "jwst_0001.pmap", "cache": root},
            steps=["detector1", "image2"], mosaic={"tile": 256, **mosaic},
        )  # fmt: skip
        found = exposures or [exposure(number) for number in (1, 2, 3)] + [exposure(1, "NRCBLONG", "F444W")]
        references = FakeReferences()
        self.root = root
        self.plan: Plan = plan(config, found, references)
        steps = steps_until(self.plan, until)
        self.chains = exposure_chains(self.plan, steps)
        self.names = list(self.chains)
        self.gate = MosaicGate(self.plan, Planner(config, references), self.chains, steps, root)
        self.released: list[Ready] = []

    def run(self, *failing: str, watch: Callable[[TaskRecord, list[Ready]], None] = lambda *_: None):
        """Run everything on the fake queue, and hand back the records by key."""
        queue = Queue(self.root, failing)
        ready = deque(self.gate.ready_at_start())
        while ready:
            for record in queue.take(ready.popleft()):
                released = self.gate.ready_after(record)
                watch(record, released)
                self.released += released
                ready.extend(released)
        return queue.records

    def last(self, number: int) -> str:
        """Key of the last task of an exposure, the first being 0."""
        return self.chains[self.names[number]][-1].key


def steps(ready: Ready) -> list[str]:
    return list(dict.fromkeys(task.step for task in ready.tasks))


def status(records, key: str) -> str:
    return records[key].status


def test_a_mosaic_starts_with_its_last_member_and_no_sooner(tmp_path):
    survey = Survey(tmp_path / "ws")
    starts = {}

    def watch(record, released):
        starts.update({item.product: record.key for item in released if steps(item)[0] == "association"})

    records = survey.run(watch=watch)
    assert starts == {SHORT: survey.last(2), LONG: survey.last(3)}
    assert {record.status for record in records.values()} == {COMPLETE}


def test_the_second_half_follows_the_alignment_from_its_layout(tmp_path):
    """Without footprints nothing of it was planned before."""
    survey = Survey(tmp_path / "ws")
    planned = {task.step for task in survey.plan}
    assert "align" in planned and "drizzle" not in planned
    records = survey.run()
    first, second = [item for item in survey.released if item.product == SHORT]
    assert (steps(first), first.layout_known) == (["association", "align"], False)
    assert second.layout_known and steps(second) == [
        "sky", "skymatch", "pixmap", "outlier_i2d", "median", "outliers", "drizzle", "assemble", "source_catalog",
    ]  # fmt: skip
    assert len([key for key in records if key.startswith(f"drizzle/{SHORT}")]) == 4  # 300 pixels in tiles of 256
    assert [task.key for task in survey.gate.submitted[SHORT]] == [task.key for task in (*first.tasks, *second.tasks)]


def test_the_stock_engine_has_one_half(tmp_path):
    survey = Survey(tmp_path / "ws", engine="stock")
    survey.run()
    assert [(item.product, steps(item), item.layout_known) for item in survey.released] == [
        (SHORT, ["association", "image3", "mosaic"], False),
        (LONG, ["association", "image3", "mosaic"], False),
    ]


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_max_missing_decides_whether_a_mosaic_is_made(tmp_path, allowed):
    survey = Survey(tmp_path / "ws", max_missing=allowed)
    lost = survey.names[:2]
    records = survey.run(f"detector1/{lost[0]}", f"image2/{lost[1]}")
    assert status(records, f"assemble/{LONG}") == COMPLETE
    association = records[f"association/{SHORT}"]
    if allowed == 2:
        assert (association.status, association.missing) == (COMPLETE, tuple(lost))
        assert association.settings["members"] == survey.names[2:3]
        assert status(records, f"assemble/{SHORT}") == COMPLETE
        return
    assert (association.status, records[f"align/{SHORT}"].status) == (SKIPPED, SKIPPED)
    assert association.error == f"2 of 3 members missing ({', '.join(lost)}); mosaic.max_missing allows {allowed}."
    assert SHORT not in survey.gate.submitted
    (skipped,) = [item for item in survey.released if item.product == SHORT]
    assert skipped.layout_known  # no more tasks will come


def test_a_mosaic_without_any_member_is_not_made(tmp_path):
    survey = Survey(tmp_path / "ws", max_missing=9)
    records = survey.run(*(f"detector1/{name}" for name in survey.names[:3]))
    assert "3 of 3 members missing" in records[f"association/{SHORT}"].error


def test_exposures_that_cannot_be_read_count_as_missing(tmp_path):
    """They are not in the plan, and would be members by their names."""
    found = [exposure(1), exposure(2), replace(exposure(3), fault="is truncated")]
    survey = Survey(tmp_path / "ws", exposures=found)
    records = survey.run()
    error = records[f"association/{SHORT}"].error
    assert error == f"1 of 3 members missing ({found[2].name}); mosaic.max_missing allows 0."
    allowed = Survey(tmp_path / "allowed", exposures=found, max_missing=1).run()
    assert allowed[f"assemble/{SHORT}"].missing == (found[2].name,)


def test_a_failed_alignment_skips_the_tasks_that_were_predicted(tmp_path):
    side = 320 * 0.031 / 3600
    corners = ((10.0, 0.0), (10.0 + side, 0.0), (10.0 + side, side), (10.0, side))
    found = [replace(exposure(number), footprint=corners) for number in (1, 2)]
    survey = Survey(tmp_path / "ws", exposures=found)
    records = survey.run(f"align/{SHORT}")
    (second,) = [item for item in survey.released if item.layout_known]
    assert second.error == f"not run, because align/{SHORT} failed: ValueError: bad pixels"
    assert {"drizzle", "assemble", "source_catalog"} <= set(steps(second))
    assert {records[task.key].status for task in second.tasks} == {SKIPPED}
    assert [task.step for task in survey.gate.submitted[SHORT]] == ["association", "align"]


def test_the_first_cause_is_named_after_an_alignment_that_was_skipped(tmp_path):
    survey = Survey(tmp_path / "ws")
    survey.run(f"association/{SHORT}")
    (second,) = [item for item in survey.released if item.product == SHORT and item.layout_known]
    assert second.error == f"not run, because association/{SHORT} failed: ValueError: bad pixels"


def test_a_mosaic_waits_for_the_alignment_that_it_is_aligned_to(tmp_path):
    """F200W is complete first, and F444W has one member that comes last."""
    survey = Survey(tmp_path / "ws", align_to="F444W")
    starts = {}

    def watch(record, released):
        starts.update({item.product: record.key for item in released if steps(item)[0] == "association"})

    records = survey.run(watch=watch)
    assert starts == {LONG: survey.last(3), SHORT: f"align/{LONG}"}
    align = next(task for task in survey.gate.submitted[SHORT] if task.step == "align")
    assert f"align/{LONG}" in align.inputs and align.settings["reference"] == f"{LONG}_sources.ecsv"
    assert {record.status for record in records.values()} == {COMPLETE}


@pytest.mark.parametrize("failing", ["align", "member"])
def test_a_mosaic_whose_reference_fails_names_it(tmp_path, failing):
    """Whether the alignment of the reference failed, or its mosaic was never begun."""
    survey = Survey(tmp_path / "ws", align_to="F444W")
    records = survey.run(f"align/{LONG}" if failing == "align" else f"detector1/{survey.names[3]}")
    assert status(records, f"align/{LONG}") == (FAILED if failing == "align" else SKIPPED)
    assert status(records, f"association/{SHORT}") == COMPLETE
    assert status(records, f"align/{SHORT}") == SKIPPED
    assert records[f"align/{SHORT}"].error.startswith(f"not run, because align/{LONG} ")
    assert not [key for key, record in records.items() if key.startswith("drizzle") and record.status == COMPLETE]


def test_a_reference_that_comes_first_makes_no_one_wait(tmp_path):
    survey = Survey(tmp_path / "ws", align_to="F200W")
    records = survey.run()
    assert f"align/{SHORT}" in next(task for task in survey.gate.submitted[LONG] if task.step == "align").inputs
    assert {record.status for record in records.values()} == {COMPLETE}


@pytest.mark.parametrize(
    ("until", "made"),
    [("image2", []), ("sources", []), ("association", ["association"]), ("align", ["association", "align"])],
)
def test_steps_that_are_not_run_are_left_out(tmp_path, until, made):
    """With an alignment to wait for that is never run, mosaics do not wait."""
    survey = Survey(tmp_path / "ws", until=until, align_to="F444W")
    records = survey.run()
    assert {record.status for record in records.values()} == {COMPLETE}
    assert [task.step for task in survey.gate.submitted.get(SHORT, [])] == made
