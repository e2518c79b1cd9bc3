"""The registry's rows: what they say of each other, and what the rest of the package asks of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stub_steps import exposure

from survey.config.model import StepConfig, SurveyConfig
from survey.execution.task import blank_record
from survey.models import Task
from survey.planning.planner import plan
from survey.steps.base import Unit
from survey.steps.registry import REGISTRY, check_chain, mosaic_of, mosaic_steps, row_of


@pytest.mark.parametrize("engine", ["stock", "tiled"])
def test_an_engine_adds_its_own_steps_in_the_order_of_a_plan(engine, tmp_path):
    config = SurveyConfig(
        survey="t", program=1345, workspace=tmp_path, references={"context": "jwst_0001.pmap", "cache": tmp_path},
        mosaic={"engine": engine},
    )  # fmt: skip
    footprint = ((214.9, 52.8), (214.91, 52.8), (214.91, 52.81), (214.9, 52.81))
    made = plan(config, [replace(exposure(number), footprint=footprint) for number in (1, 2)])
    planned = dict.fromkeys(task.step for task in made)
    assert set(planned) == {"detector1", "image2", *mosaic_steps(engine)}
    assert [name for name in planned if REGISTRY[name].per_mosaic] == [
        name for name in mosaic_steps(engine) if REGISTRY[name].per_mosaic
    ]
    for task in made:
        row = REGISTRY[task.step]
        assert bool(task.mosaic) == row.per_mosaic
        assert (task.tile is not None) == (row.unit is Unit.TILE)
        if row.unit is Unit.MOSAIC:
            assert task.subject == task.mosaic


def test_what_a_step_replaces_is_of_the_other_engine_and_replaces_it():
    engines = {"stock": "tiled", "tiled": "stock"}
    for step in REGISTRY.values():
        for name in step.replaces:
            assert REGISTRY[name].engine == engines[step.engine]
            assert step.name in REGISTRY[name].replaces
    assert [step.name for step in REGISTRY.values() if step.commits] == ["assemble", "mosaic"]
    assert {step.name: step.assembled_by for step in REGISTRY.values() if step.assembled_by} == {"drizzle": "assemble"}
    assert [step.name for step in REGISTRY.values() if step.lays_out] == ["align"]


def test_a_corrected_rate_is_a_rate_wherever_the_correction_comes_from(monkeypatch):
    mine = replace(REGISTRY["subtract_striping"], name="mine", produces="mine", step_class="")
    monkeypatch.setitem(REGISTRY, "mine", mine)
    chain = [StepConfig(name=name) for name in ("detector1", "mine", "subtract_striping", "image2")]
    assert check_chain(chain)[1] == []
    monkeypatch.setitem(REGISTRY, "mine", replace(mine, corrects=False))
    (fault, *_) = check_chain(chain)[1]
    assert "'subtract_striping' accepts rate, got mine" in fault


def test_a_record_of_another_version_has_a_row_without_properties():
    task = Task("resampled/x", "resampled", "x", "F200W", {})
    row = row_of(blank_record(task))
    assert not (row.commits or row.intermediate or row.external or row.per_mosaic or row.replaces)
    assert row_of(blank_record(replace(task, step="median"))).intermediate


@pytest.mark.parametrize(
    ("step", "subject", "mosaic"),
    [
        ("assemble", "p", "p"), ("drizzle", "p_x003y012", "p"), ("median", "p_x003y012", "p"),
        ("outlier_i2d", "p_g00012", "p"), ("outliers", "jw01_a3001", ""), ("image2", "jw01", ""),
    ],
)  # fmt: skip
def test_a_record_names_its_mosaic_and_an_old_one_does_by_its_subject(step, subject, mosaic):
    record = blank_record(Task(f"{step}/{subject}", step, subject, "F200W", {}))
    assert record.mosaic == "" and mosaic_of(record) == mosaic
    assert mosaic_of(replace(record, mosaic="q")) == "q"
