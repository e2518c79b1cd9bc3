"""What commands show: counts, causes and lineage as JSON types and as text."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from stub_steps import FakeReferences, exposure

from survey.archive.ledger import LEDGER, Entry, Ledger, signature
from survey.cli.lineage_report import lineage_document, lineage_text
from survey.cli.plan_report import Planned, plan_blocks, plan_document
from survey.cli.run_report import run_document, run_text
from survey.cli.status_report import status_blocks, status_document
from survey.cli.tables import text_of
from survey.config.model import SurveyConfig
from survey.dashboard.journal import Journal
from survey.execution.task import blank_record
from survey.models import COMPLETE, FAILED, SKIPPED, Product
from survey.mosaics.coverage import Coverage
from survey.mosaics.sky_plane import LinearWcs
from survey.planning.grids import Grid
from survey.planning.planner import plan
from survey.planning.staleness import State, states
from survey.reduction.job import Run
from survey.workspace.folders import Workspace
from survey.workspace.provenance import lineage

PRODUCT = "jw01345-a3001_t001_nircam_clear-f200w-sub320"


@pytest.fixture
def config(tmp_path):
    references = {"context": "jwst_0001.pmap", "cache": tmp_path}
    return SurveyConfig(
        survey="t", program=1345, workspace=tmp_path / "ws", references=references, mosaic={"engine": "stock"}
    )


@pytest.fixture
def made(config):
    return plan(config, [exposure(1), exposure(2)], FakeReferences())


def complete(task, *paths: str):
    products = tuple(Product(path, "0" * 64, 1) for path in paths)
    return replace(blank_record(task), status=COMPLETE, products=products, seconds=10.0)


def test_a_plan_counts_what_waits(config, made, tmp_path):
    records = {made.tasks[0].key: complete(made.tasks[0])}
    found = states(made, records, tmp_path)
    planned = Planned(config, made, found)
    document = json.loads(json.dumps(plan_document(planned)))
    assert document["summary"]["detector1 F200W"] == {"done": 1, "new": 1}
    assert document["to_run"] == 2 * 2 + 3 - 1
    assert document["causes"] == {
        "never run": {"detector1": 1, "image2": 2, "association": 1, "image3": 1, "mosaic": 1}
    }
    waiting = [task for task in made.tasks if task.key != made.tasks[0].key]
    assert document["cpu_hours"] == pytest.approx(sum(task.cpu_seconds for task in waiting) / 3600, abs=5e-4)
    assert document["peak_gb"] == max(task.memory_gb for task in waiting)
    assert [item["fetched"] for item in document["exposures"]] == [True, True]
    text = text_of(plan_blocks(planned))
    assert "2 exposures (2 fetched" in text
    assert f"mosaic {PRODUCT}: 2 exposures" in text
    assert "6 of 7 tasks to run" in text


def test_a_plan_shows_one_table_and_failures_with_their_cause(config, made):
    failed, behind = made.tasks[0], made.tasks[1]
    states = [State(task, "done") for task in made.tasks[2:4]]
    states += [State(failed, "failed", ("ValueError: broken\nmore",)), State(behind, "failed", ("not run, because",))]
    states += [State(task, "new", ("never run",)) for task in made.tasks[4:]]
    planned = Planned(config, made, states)
    reached = plan_document(planned)["reach"]["ValueError: broken\nmore"]["tasks"]
    assert plan_document(planned)["table"]["image2"] == {"F200W": {"done": 1, "skipped": 1}}
    text = text_of(plan_blocks(planned)).splitlines()
    assert [line.split() for line in text[2:5]] == [
        ["step", "F200W"],
        ["detector1", "1", "done,", "1", "failed"],
        ["image2", "1", "done,", "1", "skipped"],
    ]
    assert f"failed {failed.key}: ValueError: broken: 1 exposure, 1 mosaic ({reached} tasks)" in text
    assert not any(line.startswith(f"failed {behind.key}") for line in text)


def test_a_plan_counts_files_that_are_not_fetched_in_one_line(config):
    absent = [replace(exposure(number), sha256=None) for number in (1, 2)]
    made = plan(config, absent)
    text = text_of(plan_blocks(Planned(config, made, states(made, {}, config.workspace))))
    assert "  raw files are not fetched yet: 2 exposures, 1 mosaic (7 tasks)" in text.splitlines()
    assert "is not there yet" not in text


def test_a_single_exposure_is_written_in_the_singular(config):
    text = text_of(plan_blocks(Planned(config, plan(config, [exposure(1)], FakeReferences()), ())))
    assert "program 1345, 1 exposure (1 fetched" in text and ": 1 exposure\n" in text


def test_tasks_that_cannot_be_planned_yet_are_named(tmp_path):
    """The tiles of a mosaic are not known without footprints: the totals are a lower bound."""
    references = {"context": "jwst_0001.pmap", "cache": tmp_path}
    config = SurveyConfig(survey="t", program=1345, workspace=tmp_path / "ws", references=references)
    made = plan(config, [replace(exposure(number), sha256=None) for number in (1, 2)])
    lines = text_of(plan_blocks(Planned(config, made, states(made, {}, config.workspace)))).splitlines()
    (product,) = (item.product for item in made.associations)
    assert (
        f"tasks after 'align' of {product}: planned after 'survey fetch', since the archive gives no footprints"
    ) in lines
    number = len(made.tasks)
    assert any(line.startswith(f"at least {number} of at least {number} tasks to run") for line in lines)


def test_a_failure_that_waits_for_another_task_is_named_all_the_same(config, made):
    states = [State(made.tasks[0], "stale", ("a setting",)), State(made.tasks[1], "failed", ("broken.",))]
    text = text_of(plan_blocks(Planned(config, made, states))).splitlines()
    assert f"failed {made.tasks[1].key}: broken" in text
    assert "  a setting: 1 exposure (2 tasks)" in text


def test_causes_that_reach_most_come_first(config, made):
    states = [State(made.tasks[0], "stale", ("a small cause",))]
    states += [State(task, "stale", ("a large cause",)) for task in made.tasks[2:]]
    lines = text_of(plan_blocks(Planned(config, made, states))).splitlines()
    start = lines.index("to run because:")
    assert [line.split(":")[0].strip() for line in lines[start + 1 : start + 3]] == ["a large cause", "a small cause"]


def test_a_plan_says_where_grids_are_known_from(config, made):
    wcs = LinearWcs((214.8, 52.8), (9.5, 8.0), 0.03, -49.7, (20, 10))
    grid = Grid("config", wcs, Coverage(cut=("jw1",), missed=("jw2", "jw3"), outside=0.25))
    planned = Planned(config, made, (), grids={PRODUCT: grid}, warnings=("the grid loses exposures",))
    assert plan_document(planned)["associations"][0]["grid"] == {
        "source": "config", "crval_deg": [214.8, 52.8], "crpix": [9.5, 8.0], "pixel_scale_arcsec": 0.03,
        "rotation_deg": -49.7, "shape": [20, 10], "cut": ["jw1"], "missed": ["jw2", "jw3"],
        "area_outside": 0.25,
    }  # fmt: skip
    lines = text_of(plan_blocks(planned)).splitlines()
    assert (
        f"grid of {PRODUCT}: 20 x 10 pixels of 0.03 arcsec, crval 214.800000 52.800000 deg, crpix 9.5 8 (0-based), "
        "rotation -49.7 deg (given by the config)"
    ) in lines
    assert "warning: the grid loses exposures" in lines
    both = text_of(plan_blocks(Planned(config, made, (), grids={PRODUCT: Grid("footprints", wcs), "other": None})))
    assert "(predicted from footprints;" in both
    assert "grid of other: not known before raw files are fetched" in both


def test_a_run_names_mosaics_failures_and_missing_members(config, made):
    tasks = {task.step: task for task in made}
    done = complete(tasks["image3"], f"mosaics/{PRODUCT}_i2d.fits", f"mosaics/{PRODUCT}_cat.ecsv")
    lost = replace(blank_record(tasks["image2"]), status=FAILED, error="broken")
    part = replace(complete(tasks["mosaic"]), missing=("jw1",))
    document = run_document(config, Run((done, lost, part), frozenset({done.key}), {"x_uncal.fits": "404"}))
    assert (document["tasks"], document["ran"], document["reused"]) == (3, 1, 1)
    assert document["mosaics"] == [str(config.workspace / "mosaics" / f"{PRODUCT}_i2d.fits")]
    assert document["failed"] == {lost.key: "broken"}
    assert document["incomplete"] == {PRODUCT: ["jw1"]}
    assert document["missing"] == {"x_uncal.fits": "404"}
    assert run_text(document).splitlines() == [
        "3 tasks: 1 run, 1 already done, 1 failed or skipped",
        *document["mosaics"],
    ]


def test_status_counts_by_step_and_filter(config, made):
    first, second = made.tasks[:2]
    records = [
        complete(first),
        replace(
            blank_record(second), status=SKIPPED, error="not run, because detector1/x failed: detector1/x: broken input"
        ),
        replace(blank_record(made.tasks[2]), status=FAILED, error="broken"),
    ]
    running = config.workspace / "stage2" / f".image2.{made.tasks[3].subject}.12ab34cd"
    running.mkdir(parents=True)
    with Workspace(config.workspace).lock():
        document = status_document(config, records)
    assert status_document(config, records)["running"] == []  # left by a task that was killed
    assert document["steps"] == {"detector1 F200W": {"done": 1, "failed": 1}, "image2 F200W": {"skipped": 1}}
    assert document["running"] == [made.tasks[3].key]
    assert document["failed"] == {made.tasks[2].key: "broken"}
    assert list(document["skipped"]) == [second.key]
    text = text_of(status_blocks(document, config.workspace)).splitlines()
    assert f"running {made.tasks[3].key}" in text
    assert f"failed {made.tasks[2].key}: broken" in text
    assert "skipped 1 task: detector1/x: broken input" in text


def test_status_counts_what_the_plan_adds_to_the_records(config, made, tmp_path):
    """Tasks without a record are to run, finished ones that the config would now make otherwise are to run again."""
    first, second = made.tasks[:2]
    records = [complete(first), complete(second), replace(blank_record(made.tasks[2]), status=FAILED, error="broken")]
    states = [State(first, "done"), State(second, "stale"), State(made.tasks[2], "failed", ("broken",))]
    states += [State(task, "unknown" if number else "new") for number, task in enumerate(made.tasks[3:])]
    table = status_document(config, records, states)["table"]
    assert list(table) == ["detector1", "image2", "association", "image3", "mosaic"]
    assert table["detector1"] == {"F200W": {"done": 1, "failed": 1}}
    assert table["image2"] == {"F200W": {"to run again": 1, "to run": 1}}
    assert table["mosaic"] == {"F200W": {"to run": 1}}


def test_a_task_whose_references_are_not_known_is_done_all_the_same(config, made):
    first = made.tasks[0]
    table = status_document(config, [complete(first)], [State(first, "unknown", ("references",))])["table"]
    assert table == {"detector1": {"F200W": {"done": 1}}}


def test_status_during_a_run_counts_by_the_runs_journal(config, made):
    """Totals and reused tasks are the run's own; running tasks are told apart by their filter."""
    root = config.workspace
    for name in ("logs", "raw"):
        (root / name).mkdir(parents=True)
    raw = root / "raw" / exposure(1).file
    raw.write_bytes(b"x")
    Ledger(root / "raw" / LEDGER).append(Entry(raw.name, 1, "a" * 64, "", signature(raw), {"filter": "F200W"}))
    facts = {"run": "r", "survey": "t", "program": 1345, "context": "jwst_0001.pmap", "began": time.time() - 60,
             "exposures": 2, "last_step": "image2", "products": [],
             "totals": [["detector1", "F200W", 2, 10.0], ["image3", "F200W", 1, 10.0]]}  # fmt: skip
    subjects = {"stage1": f"detector1.{made.tasks[0].subject}", "mosaics": f"drizzle.{PRODUCT}_x001y002",
                "stage3": f"sources.{exposure(9).name}"}  # fmt: skip
    for folder, subject in subjects.items():
        (root / folder / f".{subject}.12ab34cd").mkdir(parents=True)
    with Workspace(root).lock():
        Journal(root, facts)
        document = status_document(config, [])
    assert document["table"] == {
        "detector1": {"F200W": {"running": 1, "to run": 1}},
        "sources": {"": {"running": 1}},  # of an exposure that is not in the workspace any more
        "drizzle": {"F200W": {"running": 1}},
        "image3": {"F200W": {"to run": 1}},
    }
    assert (document["run"]["tasks"], document["run"]["left"]) == (3, 3)


def test_status_of_nothing(config):
    document = status_document(config, [])
    assert status_blocks(document, config.workspace) == [f"{config.workspace}: the workspace does not exist"]
    config.workspace.mkdir(parents=True)
    assert status_blocks(document, config.workspace) == ["nothing was run yet"]


def test_lineage_shows_every_task_once_and_what_is_stale(made):
    records = {task.key: complete(task) for task in made}
    records[f"image3/{PRODUCT}"] = complete(made[f"image3/{PRODUCT}"], f"mosaics/{PRODUCT}_i2d.fits")
    tree = lineage(records, f"mosaics/{PRODUCT}_i2d.fits")
    stale = {made.tasks[0].key: ("flat b replaced a",)}
    document = json.loads(json.dumps(lineage_document(tree, stale)))
    assert len(document["nodes"]) == 2 * 2 + 2 + 2  # tasks but for the zarr store, and raw files
    assert document["raw"] == [f"raw/{exposure(number).file}" for number in (1, 2)]
    assert document["nodes"][made.tasks[0].key]["stale"] == ["flat b replaced a"]
    assert document["nodes"][made.tasks[0].key]["references"]["dark"]["file"] == "nrcb1_dark.fits"
    text = lineage_text(tree, stale)
    assert text.count(f"detector1/{exposure(1).name}  digest") == 1
    assert "STALE: flat b replaced a" in text
    assert text.endswith(f"stale: {made.tasks[0].key}")
    assert lineage_text(tree, {}).endswith("stale: nothing")
