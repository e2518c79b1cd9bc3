"""What is said of exposures that tweakreg did not align: in notices, messages, plans and reports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner
from stub_steps import exposure

import survey.cli.progress
from survey.cli.main import main
from survey.cli.plan_report import Planned, plan_blocks, plan_document
from survey.cli.run_report import notice_lines, run_document
from survey.cli.status_report import status_blocks, status_document
from survey.cli.tables import text_of
from survey.config.model import SurveyConfig
from survey.errors import TaskError
from survey.execution.task import blank_record
from survey.models import COMPLETE, Notice
from survey.planning.planner import plan
from survey.planning.staleness import DONE, FAILED, states
from survey.reduction import job as reduction
from survey.reduction.inspection import plan_states
from survey.reduction.outcome import Run, notices_of
from survey.steps.alignment import Attempt, Watched, by_reason, check, refusal_of
from survey.workspace.records import parse_record, read_record, write_record

NAMES = ("a", "b", "c")
GOOD = Attempt(15, statuses=("REFERENCE", "SUCCESS", "SUCCESS"))
MOSAIC = "jw01345-a3001_t001_nircam_clear-f200w-sub320"


def test_a_fit_of_all_exposures_leaves_no_notice():
    assert Watched(True, GOOD).notices(NAMES) == ()
    moved = Attempt(15, statuses=("SUCCESS",) * 3)
    assert Watched(True, GOOD, moved, "GAIADR3").notices(NAMES) == ()
    assert Watched(True, None, moved, "GAIADR3").notices(NAMES) == ()


def test_a_group_without_matches_is_named():
    (found,) = Watched(True, Attempt(15, statuses=("REFERENCE", "FAILED: not enough matches", "SUCCESS"))).notices(
        NAMES
    )
    assert found == Notice("tweakreg", True, "too few sources match those of other exposures (minobj = 15)", ("b",))


def test_each_cause_has_its_notice():
    statuses = ("REFERENCE", "FAILED: not enough matches", "FAILED: empty source catalog")
    found = Watched(True, Attempt(15, statuses=statuses)).notices(NAMES)
    assert [(item.reason, item.members) for item in found] == [
        ("too few sources match those of other exposures (minobj = 15)", ("b",)), ("empty source catalog", ("c",))
    ]  # fmt: skip


def test_an_alignment_that_was_given_up_concerns_all():
    (found,) = Watched(True, Attempt(15, "WCS has been tweaked by more than 7.0 arcsec")).notices(NAMES)
    assert found.failed and found.members == NAMES and "tweaked by more than 7.0 arcsec" in found.reason


def test_a_catalogue_that_does_not_match_concerns_all_though_the_exposures_match():
    lost = Attempt(20, statuses=("FAILED: not enough matches",) * 3)
    (found,) = Watched(True, GOOD, lost, "/data/mine.ecsv").notices(NAMES)
    assert found.failed and found.members == NAMES
    assert found.reason == "too few sources match those of the catalogue mine.ecsv (abs_minobj = 20)"


def test_exposures_that_do_not_match_are_named_though_all_moved_to_the_catalogue():
    relative = Attempt(15, statuses=("REFERENCE", "SUCCESS", "FAILED: not enough matches"))
    (found,) = Watched(True, relative, Attempt(15, statuses=("SUCCESS",) * 3), "GAIADR3").notices(NAMES)
    assert found.members == ("c",)


@pytest.mark.parametrize(("watched", "words"), [(Watched(True), "same time"), (Watched(False), "not run")])
def test_nothing_to_align_is_no_failure(watched, words):
    (found,) = watched.notices(NAMES)
    assert not found.failed and words in found.reason
    check([found], 3)  # raises nothing


def test_the_message_names_exposures_reason_and_settings():
    notices = Watched(True, Attempt(15, statuses=("REFERENCE", "SUCCESS", "FAILED: not enough matches"))).notices(NAMES)
    with pytest.raises(TaskError) as error:
        check(notices, 3)
    for words in ("1 of 3 exposures: c: too few sources", "require_alignment: false", "tweakreg: {skip: true}"):
        assert words in str(error.value)
    assert (error.value.retry, error.value.notices) == ("never", notices)


def test_many_exposures_are_counted():
    text = by_reason({f"e{number:02d}": "too few" for number in range(20)})
    assert text == "e00, e01, e02, e03, e04, e05 and 14 more: too few"


# --- records and reports ----------------------------------------------------------------------------------------

LOST = Notice("tweakreg", True, "too few sources", (f"{exposure(2).name}",))


def config(root, **mosaic):
    return SurveyConfig(
        survey="t", program=1345, workspace=root, steps=["detector1", "image2"], mosaic=mosaic,
        references={"context": "jwst_0001.pmap", "cache": "/nowhere"},
    )  # fmt: skip


@pytest.fixture
def aligned(tmp_path):
    """An align task, and its complete record of a run that did not require the alignment."""
    task = plan(config(tmp_path), [exposure(1), exposure(2)])[f"align/{MOSAIC}"]
    task = replace(task, digest="d" * 64, unknown="")
    return task, replace(blank_record(task), status=COMPLETE, notices=(LOST,), measurements={"members": 2})


def test_the_switch_changes_no_digest(tmp_path):
    found = [plan(config(tmp_path, require_alignment=value), [exposure(1), exposure(2)]) for value in (True, False)]
    assert [task.digest for task in found[0]] == [task.digest for task in found[1]]
    assert [task.step for task in found[0] if task.must_align] == ["align"]
    assert not any(task.must_align for task in found[1])
    stock = plan(config(tmp_path, engine="stock"), [exposure(1), exposure(2)])
    assert [task.step for task in stock if task.must_align] == ["image3"]


def test_a_record_keeps_its_notices(aligned, tmp_path):
    _, record = aligned
    path = write_record(tmp_path, record)
    assert read_record(path) == record and record.not_aligned == {exposure(2).name: "too few sources"}
    with pytest.raises(ValueError, match="notices"):
        parse_record(path.read_text().replace('"failed": true', '"failed": "yes"'))


def test_a_record_of_a_run_without_the_switch_is_judged_with_it(aligned, tmp_path):
    task, record = aligned
    made = replace(plan(config(tmp_path), [exposure(1), exposure(2)]))
    tile = replace(task, key="drizzle/x", step="drizzle", subject="x", unknown="", digest="e" * 64)
    made = replace(made, tasks=(task, tile))
    found = states(made, {task.key: record}, tmp_path)
    assert [item.state for item in found] == [DONE, FAILED]
    assert found[1].reasons == (refusal_of(task, record),) and "1 of 2 exposures" in found[1].reasons[0]
    free = replace(task, must_align=False)
    assert refusal_of(free, record) == ""
    assert [item.state for item in states(replace(made, tasks=(free, tile)), {task.key: record}, tmp_path)][1] != FAILED


def test_the_plan_says_it_also_if_the_mosaic_was_aligned_with_other_settings(aligned, tmp_path):
    task, record = aligned
    write_record(tmp_path / "records", replace(record, digest="f" * 64, notices=()))
    write_record(tmp_path / "records", replace(record, status="failed", error="tweakreg did not align a"))
    made = replace(plan(config(tmp_path), [exposure(1), exposure(2)]), tasks=(task,))
    (found,) = plan_states(config(tmp_path), made)
    assert (found.state, found.reasons) == (FAILED, ("tweakreg did not align a",))


def test_run_status_and_plan_say_it(aligned, tmp_path):
    _, record = aligned
    chosen = config(tmp_path)
    line = f"{MOSAIC}: not aligned by tweakreg: {exposure(2).name}: too few sources"
    document = run_document(chosen, Run((record,)))
    assert document["not_aligned"] == {MOSAIC: {exposure(2).name: "too few sources"}}
    assert notice_lines(document["notices"]) == [line]
    told = status_document(chosen, [record])
    assert told["not_aligned"] == document["not_aligned"] and told["notices"] == document["notices"]
    assert line in text_of(status_blocks(told, tmp_path))
    planned = Planned(chosen, plan(chosen, [exposure(1), exposure(2)]), (), notices=notices_of([record]))
    assert plan_document(planned)["notices"] == document["notices"]
    assert line in text_of(plan_blocks(planned))


@pytest.mark.parametrize(("required", "code"), [("true", 1), ("false", 0)])
def test_the_exit_code_is_as_the_config_says(aligned, tmp_path, monkeypatch, required, code):
    _, record = aligned
    path = tmp_path / "t.yaml"
    path.write_text(
        "survey: t\nprogram: 1345\nreferences: {context: jwst_0001.pmap, cache: /tmp, server: null}\n"
        f"mosaic: {{require_alignment: {required}}}\nworkspace: {tmp_path / 'ws'}\n"
    )
    monkeypatch.setattr(reduction, "run", lambda *_: Run((record,)))
    monkeypatch.setattr(survey.cli.progress.TaskProgress, "__enter__", lambda self: self)
    done = CliRunner().invoke(main, ["run", str(path)])
    assert done.exit_code == code, done.output
    assert f"{MOSAIC}: not aligned by tweakreg: {exposure(2).name}: too few sources" in done.stderr
