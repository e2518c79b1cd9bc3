"""What would run and why: every kind of difference between a record and a task is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from survey.digest import file_sha256
from survey.execute import blank_record
from survey.models import COMPLETE, FAILED, SKIPPED, Product, Task
from survey.staleness import DONE, NEW, STALE, UNKNOWN, causes, differences, state_of, summary
from survey.staleness import FAILED as FAILED_STATE

TASK = Task(
    key="image2/x", step="image2", subject="x", filter="F200W", settings={"photom": {"skip": False}, "a": 1},
    inputs=("detector1/x",), files=("raw/x_uncal.fits",), references={"flat": "flat_1.fits", "area": "area_1.fits"},
    sha1={"flat_1.fits": "1" * 40, "area_1.fits": "2" * 40}, digests={"detector1/x": "d", "raw/x_uncal.fits": "r"},
    versions={"jwst": "3.0.0"}, digest="e" * 64,
)  # fmt: skip


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "stage2" / "x_cal.fits"
    path.parent.mkdir()
    path.write_text("cal")
    product = Product("stage2/x_cal.fits", file_sha256(path), 3)
    return replace(blank_record(TASK), status=COMPLETE, products=(product,))


def test_states(record, tmp_path):
    assert state_of(TASK, record, tmp_path).state == DONE
    assert state_of(TASK, None, tmp_path).state == NEW
    unknown = replace(TASK, digest="", unknown="raw/x is not there yet")
    assert state_of(unknown, record, tmp_path).state == UNKNOWN
    assert state_of(unknown, None, tmp_path).reasons == ("raw/x is not there yet",)
    assert state_of(replace(TASK, digest="f" * 64), record, tmp_path).state == STALE
    (tmp_path / "stage2" / "x_cal.fits").unlink()
    assert state_of(TASK, record, tmp_path).reasons == ("stage2/x_cal.fits is missing or has another size",)


@pytest.mark.parametrize("status", [FAILED, SKIPPED])
@pytest.mark.parametrize("digest", [TASK.digest, "f" * 64])
def test_what_never_came_to_an_end_failed_whatever_it_stood_on(record, tmp_path, status, digest):
    found = state_of(TASK, replace(record, status=status, digest=digest, error="broken"), tmp_path)
    assert (found.state, found.reasons) == (FAILED_STATE, ("broken",))


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"settings": {"photom": {"skip": True}, "a": 1}}, ["photom.skip: False -> True"]),
        ({"settings": {"photom": {"skip": False}}}, ["a: 1 -> default"]),
        ({"settings": {"photom": {"skip": False}, "a": 1, "b": [1, 2]}}, ["b: default -> [1, 2]"]),
        ({"versions": {"jwst": "3.1.0"}}, ["jwst 3.0.0 -> 3.1.0"]),
        ({"digests": {"detector1/x": "new", "raw/x_uncal.fits": "r"}}, ["detector1/x has changed"]),
        ({"digests": {"detector1/x": "d", "raw/x_uncal.fits": "s"}}, ["raw/x_uncal.fits holds other bytes"]),
        ({"digests": {"detector1/x": "d"}}, ["raw/x_uncal.fits is no longer an input"]),
        ({"missing": ("y",)}, ["missing members: 0 -> 1"]),
        ({}, ["the step's version has changed"]),
    ],
)  # fmt: skip
def test_differences(record, change, reasons):
    assert differences(replace(TASK, **change), record) == reasons


def test_references_count_by_their_bytes(record):
    renamed = {"references": {"flat": "flat_2.fits", "area": "area_1.fits"}}
    same = replace(TASK, **renamed, sha1={"flat_2.fits": "1" * 40, "area_1.fits": "2" * 40})
    assert differences(same, record) == ["the step's version has changed"]  # nothing to be named
    other = replace(TASK, **renamed, sha1={"flat_2.fits": "9" * 40, "area_1.fits": "2" * 40})
    assert differences(other, record) == ["flat flat_2.fits replaced flat_1.fits"]
    without = replace(TASK, references={"flat": "flat_1.fits"}, sha1={"flat_1.fits": "1" * 40})
    assert differences(without, record) == ["area none replaced area_1.fits"]


def test_counts_and_first_causes(record, tmp_path):
    changed = replace(TASK, digest="f" * 64, settings={"photom": {"skip": True}, "a": 1})
    behind = replace(TASK, key="mosaic/m", step="mosaic", digest="f" * 64, digests={**TASK.digests, "detector1/x": "n"})
    found = [state_of(TASK, record, tmp_path), state_of(changed, record, tmp_path), state_of(behind, record, tmp_path)]
    assert summary(found) == {"image2 F200W": {"done": 1, "stale": 1}, "mosaic F200W": {"stale": 1}}
    assert causes(found) == {"photom.skip: False -> True": {"image2": 1}}
