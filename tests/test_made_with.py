"""Products of one survey that were made with other versions or on other machines are reported, and stay done."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from stub_histories import Survey, replace_parts

from survey.cli import status_report
from survey.cli.plan_report import Planned, plan_blocks, plan_document
from survey.cli.tables import text_of
from survey.reduction import inspection
from survey.reduction import job as reduction
from survey.reduction.inputs import find_exposures
from survey.versions import RECORDED, recorded_versions
from survey.workspace.records import read_records, write_record

MOSAIC = "jw01345-a3001_t001_nircam_clear-f200w-sub320"


@pytest.fixture
def survey(tmp_path, monkeypatch):
    made = Survey(tmp_path)
    replace_parts(monkeypatch, lambda: made)
    made.run()
    return made


def change(survey, step: str, **facts) -> int:
    """Change the records of a step of F200W; returns their number."""
    folder = survey.root / "records"
    found = [row for row in read_records(folder).by_key.values() if row.step == step and row.filter == "F200W"]
    for record in found:
        write_record(folder, replace(record, **facts))
    return len(found)


def planned(survey) -> Planned:
    config = survey.config
    made = reduction.plan(config, find_exposures(config))
    found = inspection.plan_states(config, made)
    return Planned(config, made, found, differences=inspection.made_with(config, found))


def test_equally_made_products_are_not_mentioned(survey):
    document = plan_document(planned(survey))
    assert document["other_versions"] == [] and document["machines"] == {}
    assert set(RECORDED) <= set(read_records(survey.root / "records").by_key[f"align/{MOSAIC}"].versions)


def test_products_of_other_versions_are_reported_and_stay_done(survey):
    versions = {**recorded_versions(), "numpy": "1.0.0", "drizzle": "0.1"}
    number = change(survey, "drizzle", versions=versions)
    assert survey.announced() == set()
    document = json.loads(json.dumps(plan_document(planned(survey))))
    numpy = recorded_versions()["numpy"]
    assert document["other_versions"] == [
        {"package": "drizzle", "made_with": "0.1", "installed": recorded_versions()["drizzle"], "tasks": number},
        {"package": "numpy", "made_with": "1.0.0", "installed": numpy, "tasks": number},
    ]
    line = f"made with other versions: numpy 1.0.0 (now {numpy}): {number} tasks"
    assert line in text_of(plan_blocks(planned(survey))).splitlines()
    assert line in status_text(survey).splitlines()


def status_text(survey) -> str:
    config = survey.config
    found = inspection.forecast(config)
    document = status_report.status_document(config, inspection.status(config), found.states)
    return text_of(status_report.status_blocks(document, config.workspace, found.differences))


def test_machines_of_one_mosaic_that_differ_are_reported(survey):
    number = change(survey, "image2", machine={"processor": "another", "libraries": "openblas Zen"})
    document = plan_document(planned(survey))
    assert list(document["machines"]) == [MOSAIC]  # its members count, and the other mosaic is as it was
    kinds = document["machines"][MOSAIC]
    assert kinds[1] == {
        "machine": {"processor": "another", "libraries": "openblas Zen"}, "environment": {}, "tasks": number
    }  # fmt: skip
    lines = text_of(plan_blocks(planned(survey))).splitlines()
    assert f"mosaic {MOSAIC}: made on 2 kinds of machines; last bits of pixels may differ" in lines
    assert f"  {number} tasks: libraries: openblas Zen; processor: another" in lines
    assert survey.announced() == set()


def test_variables_that_differ_are_reported(survey):
    change(survey, "align", environment={"OPENBLAS_CORETYPE": "Haswell"})
    lines = text_of(plan_blocks(planned(survey))).splitlines()
    assert "  1 task: OPENBLAS_CORETYPE: Haswell" in lines
    assert any(line.endswith("tasks: OPENBLAS_CORETYPE: not set") for line in lines)


def test_records_of_earlier_versions_are_no_other_machines(survey):
    change(survey, "align", machine={})
    change(survey, "image2", machine={"processor": "stub", "system": "Python 3.11"})
    assert plan_document(planned(survey))["machines"] == {}


def test_products_are_made_again_on_purpose(survey):
    done = reduction.run(survey.config, remake="drizzle")
    steps = {record.step for record in done.ran}
    assert {"drizzle", "assemble"} <= steps and not {"detector1", "image2", "align", "outliers"} & steps
    assert survey.announced() == set()
    everything = reduction.run(survey.config, remake="detector1")
    assert len(everything.ran) == len(everything.records)
