"""The survey page's state: counts, pace, causes, tiles; bounded, however long the run."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import pytest
from stub_steps import exposure

from survey.config.model import SurveyConfig
from survey.dashboard.document import run_document
from survey.dashboard.journal import Journal, journal_path, run_state
from survey.dashboard.state import (
    MAX_BINS,
    MAX_CAUSES,
    MAX_FAILURES,
    MAX_POINTS,
    Pace,
    RunState,
    first_line,
    update_of,
)
from survey.execution.task import blank_record
from survey.models import COMPLETE, FAILED, SKIPPED
from survey.planning.planner import plan

MOSAIC = "jw01345-a3001_t001_nircam_clear-f200w"


def begun(*totals, products=(), last_step="image2", exposures=4):
    facts = {"run": "r1", "survey": "egs", "program": 1345, "context": "jwst_0001.pmap", "began": 1000.0,
             "exposures": exposures, "last_step": last_step, "totals": totals, "products": products}  # fmt: skip
    return RunState.begin(facts)


def done(step, now, seconds=10.0, name="F200W", subject="x", word="done", error="", peak=1.0, tile=None):
    return [step, name, subject, word, seconds, peak, 2.0, error, "never" if error else "", now, tile]


def row(document, step, name="F200W"):
    return next(item for item in document["steps"] if (item["step"], item["filter"]) == (step, name))


@pytest.fixture
def record(tmp_path):
    config = SurveyConfig(
        survey="egs", program=1345, workspace=tmp_path, steps=["detector1", "image2"],
        references={"context": "jwst_0001.pmap", "cache": tmp_path},
    )  # fmt: skip
    task = plan(config, [exposure(1)]).tasks[0]
    return replace(blank_record(task), seconds=12.345, peak_memory_gb=1.5, started="2026-01-01T00:00:00Z")


def test_an_update_is_small_and_names_only_what_is_shown(record):
    complete = update_of(replace(record, status=COMPLETE), False, 5.0)
    assert complete[:6] == ("detector1", "F200W", "", "done", 12.35, 1.5)
    assert update_of(replace(record, status=COMPLETE), True, 5.0)[3] == "reused"
    failed = update_of(replace(record, status=FAILED, error="no\ntraceback", error_class="never"), False, 5.0)
    assert (failed[2], failed[3], failed[7], failed[8]) == (record.subject, "failed", "no", "never")
    assert len(json.dumps(complete)) < 100


def test_counts_running_and_what_is_left():
    state = begun(["detector1", "F200W", 4, 40.0], ["image2", "F200W", 4, 8.0])
    state.update([done("detector1", 1010.0), done("detector1", 1020.0), done("image2", 1022.0, 2.0)])
    state.update([done("detector1", 1021.0, subject="e3", word="failed", error="detector1/e3: ValueError: bad")])
    state.update([done("image2", 1021.0, subject="e3", word="skipped", error="not run, because detector1/e3 failed: ")])
    document = run_document(state, 1030.0, {("detector1", "F200W"): ["e4"], ("detector1", "F999W"): ["of another run"]})
    assert document["tasks"] == {"total": 8, "done": 3, "reused": 0, "failed": 1, "skipped": 1, "running": 1}
    assert row(document, "detector1")["running"] == 1 and row(document, "image2")["skipped"] == 1
    assert (document["exposures"]["done"], document["exposures"]["lost"]) == (1, 1)
    assert document["failures"] == [
        {"key": "detector1/e3", "step": "detector1", "filter": "F200W", "error": "ValueError: bad", "class": "never"}
    ]
    # One detector1 of 10 s and two image2 of 2 s are left; 22 s of work took the 30 s since the first began.
    assert document["seconds_left"] == pytest.approx(30.0 * (10 + 2 * 2) / 22)
    assert json.loads(json.dumps(document)) == document


def test_time_left_of_steps_that_never_ran_goes_by_the_plan():
    state = begun(["detector1", "F200W", 2, 20.0], ["image2", "F200W", 2, 8.0])
    assert state.seconds_left(1010.0) is None
    state.update([done("detector1", 1020.0, 20.0)])  # twice as long as planned
    # Left: one detector1 of 20 s; two image2, planned with 4 s each, at twice that.
    assert state.seconds_left(1020.0) == pytest.approx(20.0 * (20 + 2 * 8) / 20)
    state.update([done("detector1", 1040.0, 20.0), done("image2", 1050.0), done("image2", 1060.0)])
    assert state.seconds_left(1060.0) == 0.0


def test_reused_tasks_are_no_pace():
    state = begun(["image2", "F200W", 4, 8.0])
    state.update([done("image2", 1001.0, word="reused")] * 3)
    document = run_document(state, 1002.0, {})
    assert document["exposures"]["done"] == 3 and document["exposures"]["per_hour"] == 0.0
    assert document["seconds_left"] is None and document["memory"] == {}


def test_the_pace_stays_when_the_last_exposure_is_through():
    state = begun(["image2", "F200W", 2, 8.0], ["drizzle", "F200W", 4, 8.0])
    state.update([done("image2", 1010.0), done("image2", 1020.0)])
    assert state.exposures_per_hour(1020.0) == state.exposures_per_hour(9999.0) == pytest.approx(3600 * 2 / 20)
    document = run_document(state, 9999.0, {})
    assert max(document["exposures"]["ends_seconds"]) < 60


def test_tiles_fill():
    state = begun(["drizzle", "F200W", 9, 90.0], products=[MOSAIC])
    assert run_document(state, 1001.0, {})["not_laid_out"] == [MOSAIC]
    state.lay_out({"product": MOSAIC, "filter": "F200W", "totals": [["drizzle", "F200W", -6, -60.0]], "side": 100,
                   "shape": [300, 100], "step": "drizzle",
                   "tiles": [[0, 0, "a"], [1, 0, "b"], [2, 0, "c"]]})  # fmt: skip
    state.update([done("drizzle", 1010.0, subject="a", tile=[MOSAIC, 0, 0]),
                  done("median", 1010.0, subject="c"), done("drizzle", 1010.0, subject="z", tile=["another", 2, 0]),
                  done("drizzle", 1011.0, subject="b", word="failed", error="bad", tile=[MOSAIC, 1, 0])])  # fmt: skip
    document = run_document(
        state, 1012.0, {("drizzle", "F200W"): ["c", "of another mosaic"], ("median", "F200W"): ["a"]}
    )
    mosaic = document["mosaics"][0]
    assert mosaic["tiles"] == [[0, 0, "done"], [1, 0, "failed"], [2, 0, "running"]]
    assert (mosaic["done"], mosaic["total"], document["not_laid_out"]) == (1, 3, [])
    assert row(document, "drizzle")["total"] == 3


def test_errors_are_cut_to_one_line():
    assert first_line("\n") == "" and len(first_line("x" * 10_000)) == 300


def test_pace_widens_its_bins_and_loses_none():
    pace = Pace()
    for second in range(100_000):
        pace.add(float(second))
    assert sum(pace.bins) == 100_000 and len(pace.bins) <= MAX_BINS
    ends, rates = pace.rates(100_000.0)
    assert rates[:-1] == pytest.approx([3600.0] * (len(rates) - 1))
    widths = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    assert sum(rate * width / 3600 for rate, width in zip(rates, widths, strict=True)) == pytest.approx(100_000)
    assert ends[-1] == pytest.approx(100_000.0, abs=pace.width / 2)


def test_94000_tasks_take_little_room_and_time():
    steps = [f"step{number}" for number in range(14)]
    state = begun(*([step, name, 1000, 1000.0] for step in steps for name in ("A", "B", "C", "D", "E", "F", "G")))
    began = time.process_time()
    for number in range(94_000):
        word = ("done", "done", "done", "failed", "skipped")[number % 5]
        state.update([done(steps[number % 14], 1000.0 + number, name="ABCDEFG"[number % 7], subject=f"e{number}",
                           word=word, error=f"cause {number}" if word != "done" else "")])  # fmt: skip
    spent = time.process_time() - began
    document = run_document(state, 95_000.0, {})
    print(f"{1e6 * spent / 94_000:.1f} us an update, {len(json.dumps(document)) / 1e3:.0f} kB of JSON")
    assert spent / 94_000 < 100e-6
    assert len(state.failures) == MAX_FAILURES and state.unlisted == 94_000 // 5 - MAX_FAILURES
    assert len(state.causes) == MAX_CAUSES + 1 and sum(state.causes.values()) == 94_000 // 5
    assert all(len(sample.points) <= MAX_POINTS for sample in state.memory.values())
    assert sum(sample.seen for sample in state.memory.values()) == 94_000 * 3 // 5
    assert len(json.dumps(document)) < 300_000
    assert sys.getsizeof(state.pace.bins) < 10_000


def test_a_journal_tells_how_far_a_run_is(tmp_path, record):
    (tmp_path / "logs").mkdir()
    assert run_state(tmp_path, [record]) is None
    began = 1767225600.0  # 2026-01-01
    facts = {"run": "r1", "survey": "egs", "program": 1345, "context": "c", "began": began, "exposures": 4,
             "last_step": "image2", "totals": [["detector1", "F200W", 5, 50.0], ["drizzle", "F200W", 1, 1.0]],
             "products": [MOSAIC]}  # fmt: skip
    journal = Journal(tmp_path, facts)
    journal.reuse(record)
    journal.lay_out({"product": MOSAIC, "totals": [["drizzle", "F200W", 6, 6.0]]})
    made = replace(record, status=COMPLETE)
    older = replace(made, key="detector1/older", started="2025-12-31T23:00:00Z")
    state = run_state(tmp_path, [made, older, replace(record, key="detector1/f", status=SKIPPED, error="x")])
    cell = state.cells["detector1", "F200W"]
    assert cell.counts == {"done": 1, "reused": 1, "failed": 0, "skipped": 1} and cell.left == 2
    assert state.cells["drizzle", "F200W"].total == 7 and not state.guessed
    assert state.seconds_left(began + 20.0) > 0
    victim = tmp_path / "victim"
    victim.write_text("mine")
    journal_path(tmp_path).with_suffix(".part").symlink_to(victim)
    journal.lay_out({"product": MOSAIC, "totals": []})
    assert victim.read_text() == "mine"  # written aside, never through a link
    assert not journal_path(tmp_path).is_symlink()
    journal.close()
    assert not journal_path(tmp_path).exists()
    journal_path(tmp_path).write_text("{torn")
    assert run_state(tmp_path, []) is None
