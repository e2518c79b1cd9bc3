"""Frozen records and their JSON."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import FrozenInstanceError

import pytest

from survey.models import Exposure, Plan, Product, Task, TaskRecord, to_json
from survey.workspace.records import parse_record

RECORD = TaskRecord(
    "image2/x", "image2", "x", "F200W", "ab", "complete", products=(Product("stage2/x_cal.fits", "cd", 5),),
    inputs={"detector1/x": "ef"}, measurements={"depth": 27.5},
)  # fmt: skip


def test_a_record_goes_through_json():
    assert parse_record(json.dumps(to_json(RECORD))) == RECORD


def test_newer_records_can_be_read():
    assert parse_record(json.dumps(to_json(RECORD) | {"colour": "blue"})) == RECORD


@pytest.mark.parametrize(
    "bad", [{}, {"key": "x"}, to_json(RECORD) | {"products": [3]}, to_json(RECORD) | {"products": [{}]}, [], None]
)
def test_what_is_no_record_is_refused(bad):
    with pytest.raises(ValueError, match="not a task record"):
        parse_record(json.dumps(bad))


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"seconds": "1"}, "seconds: Input should be a valid number"),
        ({"seconds": True}, "seconds: Input should be a valid number"),
        ({"seconds": float("nan")}, "seconds: Input should be a finite number"),
        ({"attempts": 1.5}, "attempts: Input should be a valid integer"),
        ({"inputs": {"a": 1}}, "inputs.a: Input should be a valid string"),
        ({"environment": []}, "environment: Input should be an object"),
        ({"measurements": {"a\n": "x"}}, r"measurements.'a\n': Input should be a valid number"),
        ({"missing": "abc"}, "missing: Input should be a valid array"),
        ({"products": [{"path": "../x", "sha256": "", "bytes": 1}]}, "'../x' is not the path of a product"),
    ],
)
def test_a_field_of_another_type_is_named(changed, cause):
    with pytest.raises(ValueError, match=f"^{re.escape(f'not a task record: {cause}')}"):
        parse_record(json.dumps(to_json(RECORD) | changed))


def test_a_measurement_can_be_missing_and_a_whole_number():
    record = parse_record(json.dumps(to_json(RECORD) | {"measurements": {"depth": None, "members": 3}}))
    assert record.measurements == {"depth": None, "members": 3.0}


def test_records_are_frozen_and_travel():
    exposure = Exposure("jw01345001001_02201_00001_nrcb1", 1345, 1, 1, "NRCB1", "F200W")
    assert exposure.file == "jw01345001001_02201_00001_nrcb1_uncal.fits"
    assert pickle.loads(pickle.dumps(exposure)) == exposure
    with pytest.raises(FrozenInstanceError):
        exposure.program = 2
    with pytest.raises(FrozenInstanceError):
        RECORD.status = "failed"


def test_a_plan_is_asked_by_key():
    tasks = tuple(Task(f"detector1/{n}", "detector1", str(n), "F200W", {}) for n in range(3))
    plan = Plan(tasks, (), ())
    assert plan["detector1/1"] is tasks[1]
    assert (len(plan), list(plan)) == (3, list(tasks))
    with pytest.raises(KeyError):
        plan["image2/1"]


def test_tasks_and_records_are_pickled_whole():
    task = Task("image2/x", "image2", "x", "F200W", {"resample": {"skip": True}}, digest="ab", memory_gb=2.5)
    for item in (task, RECORD, RECORD.products[0]):
        assert pickle.loads(pickle.dumps(item)) == item
