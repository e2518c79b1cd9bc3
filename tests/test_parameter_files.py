"""Files that parameters name: their content is in the digest, and is checked before a task reads them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from stub_steps import FakeReferences, exposure

import survey.steps.parameter_files
from survey.config.model import SurveyConfig
from survey.errors import ConfigError, TaskError
from survey.execution.inputs import verified_sources
from survey.execution.task import blank_record
from survey.planning.planner import plan
from survey.planning.staleness import differences
from survey.reduction.inputs import override_digests
from survey.reduction.load import load_config
from survey.steps.parameter_files import content_digest, listed_files
from survey.workspace.folders import Workspace

# Place of a parameter in a config -> a step that reads it, for every kind of file that a config can name.
PLACES = {
    "detector1.clean_flicker_noise.user_mask": "detector1",
    "detector1.dq_init.user_supplied_dq": "detector1",
    "detector1.dark_current.override_dark": "detector1",
    "detector1.persistence.persistence_array_file": "detector1",
    "image2.flat_field.user_supplied_flat": "image2",
    "image2.flat_field.override_flat": "image2",
    "image2.bkg_subtract.bkg_list": "image2",
    "image2.bkg_subtract.wfss_mask": "image2",
    "image3.tweakreg.abs_refcat": "align",
    "image3.tweakreg.catfile": "align",
    "image3.skymatch.skylist": "image3",  # of the other engine: the tiled one plans skymatch after the alignment
    "image3.resample.output_wcs": "align",
}


def config_with(root: Path, place: str, value):
    part, step, name = place.split(".")
    settings = {step: {name: [str(value)] if name == "bkg_list" else str(value)}}
    engine = "stock" if step == "skymatch" else "tiled"
    steps = [{item: settings if item == part else {}} for item in ("detector1", "image2")]
    return SurveyConfig(
        survey="t", program=1345, workspace=root, steps=steps,
        mosaic={"engine": engine, "image3": settings if part == "image3" else {}},
        references={"context": "jwst_0001.pmap", "cache": "/nowhere"},
    )  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_other_bytes_make_other_digests_and_the_plan_names_the_file(tmp_path, place):
    file = tmp_path / "mine.dat"
    made = []
    for text in ("one", "another"):
        file.write_text(text)
        chosen = config_with(tmp_path, place, file)
        made.append(plan(chosen, [exposure(1), exposure(2)], FakeReferences(), override_digests(chosen)))
    changed = [task for one, task in zip(*made, strict=True) if one.digest != task.digest or not task.digest]
    readers = [task for task in changed if str(file) in task.digests]
    assert readers and all(task.digest for task in readers) and changed[0] in readers
    assert PLACES[place] in {task.step for task in readers}
    task = readers[0]
    assert f"{file} has changed" in differences(task, blank_record(made[0][task.key]))


def test_a_file_is_read_once_as_long_as_it_stays_the_same(tmp_path, monkeypatch):
    file = tmp_path / "flat.fits"
    file.write_text("one")
    read = []
    real = survey.steps.parameter_files.file_sha256
    monkeypatch.setattr(survey.steps.parameter_files, "file_sha256", lambda path: read.append(path) or real(path))
    first = content_digest(file)
    assert content_digest(file) == first and len(read) == 1
    file.write_text("two")
    os.utime(file, ns=(1, 1))  # also of the same size
    assert content_digest(file) != first


def test_a_catfile_counts_with_the_catalogues_that_it_names(tmp_path):
    catfile, catalogue = tmp_path / "cats.txt", tmp_path / "a.ecsv"
    catfile.write_text("# exposure catalogue\na_cal.fits a.ecsv\nb_cal.fits\n")
    catalogue.write_text("x y")
    before = content_digest(catfile)
    catalogue.write_text("y x")
    assert content_digest(catfile) != before
    assert listed_files(catfile) == [(2, catalogue)]


def test_a_missing_file_is_an_error_with_file_and_line(tmp_path):
    (tmp_path / "cats.txt").write_text("a_cal.fits a.ecsv\n")
    path = tmp_path / "t.yaml"
    path.write_text(
        "survey: t\nprogram: 1345\nreferences: {context: jwst_0001.pmap, cache: /tmp, server: null}\n"
        f"steps:\n  - detector1: {{}}\n  - image2: {{flat_field: {{user_supplied_flat: {tmp_path}/flat.fits}}}}\n"
        f"mosaic:\n  image3:\n    tweakreg:\n      catfile: {tmp_path}/cats.txt\n      abs_refcat: GAIADR9\n"
        f"workspace: {tmp_path / 'ws'}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_config(path)
    faults = error.value.faults
    assert len(faults) == 3, faults
    assert f"{path}:6: steps.image2.flat_field.user_supplied_flat: '{tmp_path}/flat.fits': not found." in faults
    assert f"{path}:10: mosaic.image3.tweakreg.catfile: cats.txt:1: '{tmp_path}/a.ecsv': not found." in faults
    assert any("abs_refcat" in fault and "GAIADR9" in fault for fault in faults)


def test_a_task_does_not_start_with_another_file_than_planned(tmp_path):
    file = tmp_path / "flat.fits"
    file.write_text("one")
    chosen = config_with(tmp_path / "ws", "image2.flat_field.user_supplied_flat", file)
    task = plan(chosen, [exposure(1)], FakeReferences(), override_digests(chosen))["image2/" + exposure(1).name]
    workspace = Workspace(tmp_path / "ws")
    bare = replace(task, inputs=(), reads=())
    assert verified_sources(bare, workspace, []) == []
    file.write_text("other")
    with pytest.raises(TaskError, match=r"flat.fits, which a parameter names, has changed since the plan"):
        verified_sources(bare, workspace, [])
    file.unlink()
    with pytest.raises(TaskError, match=r"flat.fits, which a parameter names, cannot be read on "):
        verified_sources(bare, workspace, [])
