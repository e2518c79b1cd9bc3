"""Tiled mosaics on dask, with stub steps: tasks behind the alignment, intermediate products, failures, reuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from stub_steps import FakeReferences, exposure
from stub_tiled import ENVIRONMENT

from survey.config.model import SurveyConfig
from survey.digest import file_sha256
from survey.execution.task import Site
from survey.models import COMPLETE, FAILED, SKIPPED
from survey.mosaics.layouts import read_layouts
from survey.planning.planner import Planner, plan
from survey.scheduling.run_plan import RunSettings, run_plan
from survey.workspace.folders import Workspace
from survey.workspace.records import read_records

MOSAIC = "jw01345-a3001_t001_nircam_clear-{}-sub320"
SHORT, LONG = MOSAIC.format("f200w"), MOSAIC.format("f444w")
# Of three members in three groups on four tiles, and of two members.
TASKS = {SHORT: 3 * 3 + 2 + 3 + 1 + 3 + 3 + 4 + 3 + 4 + 2, LONG: 2 * 3 + 2 + 2 + 1 + 2 + 2 + 4 + 2 + 4 + 2}


class Line:
    """A workspace with raw files, and runs of it."""

    def __init__(self, root, **mosaic):
        self.workspace = Workspace(root)
        self.workspace.create()
        self.config = SurveyConfig(
            survey="t", program=1345, workspace=root, references={"context": "jwst_0001.pmap", "cache": root},
            steps=["detector1", "image2"], mosaic={"tile": 256, **mosaic},
        )  # fmt: skip
        made = [exposure(number) for number in (1, 2, 3)] + [exposure(n, "NRCBLONG", "F444W") for n in (1, 2)]
        for item in made:
            (self.workspace.raw / item.file).write_text(item.name)
        self.exposures = [replace(item, sha256=file_sha256(self.workspace.raw / item.file)) for item in made]

    def run(self, client, until=None):
        references = FakeReferences()
        layouts = read_layouts(self.workspace.root, (SHORT, LONG))
        made = plan(self.config, self.exposures, references, layouts=layouts)
        self.ran = []
        site = Site(str(self.workspace.root), "t", ENVIRONMENT)
        settings = RunSettings(
            read_records(self.workspace.records).by_key,
            until,
            watch=lambda record, reused: None if reused else self.ran.append(record.key),
        )
        records = run_plan(made, Planner(self.config, references), site, client, settings)
        return {record.key: record for record in records}

    def faults(self, **faults):
        (self.workspace.root / "faults.json").write_text(
            json.dumps({key.replace("__", "/"): v for key, v in faults.items()})
        )

    def files(self, pattern):
        return sorted(self.workspace.folder("stage3").glob(pattern))


@pytest.fixture
def line(tmp_path):
    return Line(tmp_path / "ws")


def steps_of(keys):
    return sorted({key.split("/")[0] for key in keys})


def test_a_run_makes_everything_once(client, line):
    records = line.run(client)
    assert {record.status for record in records.values()} == {COMPLETE}
    assert len(records) == sum(TASKS.values())
    for group in ("F200W", "F444W"):
        assert (line.workspace.root / "mosaics" / "mosaics.zarr" / group / "zarr.json").is_file()
    assert [line.files(pattern) for pattern in ("*_pixmap.npy", "*_outlier_i2d.npy", "*_median.npy")] == [[], [], []]
    assert len(line.files("*_crf.fits")) == 5
    again = line.run(client)
    assert line.ran == [] and again.keys() == records.keys()


def test_intermediate_products_stay_on_demand(client, tmp_path):
    line = Line(tmp_path / "ws", keep_intermediate=True)
    line.run(client)
    assert len(line.files("*_pixmap.npy")) == 5 and len(line.files("*_median.npy")) == 8


def test_a_lost_product_is_made_again_with_what_it_reads(client, line):
    line.run(client)
    lost = line.files("*00001_nrcb1_a3001_crf.fits")[0]
    before = lost.read_text()
    lost.unlink()
    mark = line.workspace.root / "mosaics" / "mosaics.zarr" / "F200W" / "zarr.json"
    records = line.run(client)
    assert {record.status for record in records.values()} == {COMPLETE}
    # Its map, the medians that it is compared with, and what these were made of; nothing that stands on it.
    assert steps_of(line.ran) == ["median", "outlier_i2d", "outliers", "pixmap"]
    assert [key for key in line.ran if key.startswith("outliers/")] == [
        f"outliers/{lost.name.removesuffix('_crf.fits')}"
    ]
    assert lost.read_text() == before and mark.is_file()


def test_a_lost_tile_is_made_again_and_the_mosaic_stands(client, line):
    line.run(client)
    chunk = line.workspace.root / "mosaics" / "mosaics.zarr" / "F200W" / "sci" / "c" / "0" / "1"
    before = chunk.read_text()
    chunk.unlink()
    line.run(client)
    assert [key for key in line.ran if key.startswith("drizzle/")] == [f"drizzle/{SHORT}_x001y000"]
    assert not [key for key in line.ran if key.startswith("assemble/")]
    assert chunk.read_text() == before and (chunk.parents[3] / "zarr.json").is_file()


def test_other_pixels_take_the_mark_off_until_the_mosaic_is_whole(client, line):
    line.run(client)
    group = line.workspace.root / "mosaics" / "mosaics.zarr" / "F200W"
    changed = line.exposures[0]
    (line.workspace.raw / changed.file).write_text("other counts")
    line.exposures[0] = replace(changed, sha256=file_sha256(line.workspace.raw / changed.file))
    line.faults(**{f"outliers__{changed.name}_a3001": ["none", "never"]})
    assert line.run(client)[f"assemble/{SHORT}"].status == SKIPPED
    assert (group / "zarr.json").is_file()  # nothing of it was touched yet
    line.faults(**{f"assemble__{SHORT}": ["none", "never"]})  # its second attempt
    records = line.run(client)
    assert records[f"assemble/{SHORT}"].status == FAILED
    assert not (group / "zarr.json").exists()
    assert (group.parent / "F444W" / "zarr.json").is_file()
    (line.workspace.root / "faults.json").unlink()
    assert line.run(client)[f"assemble/{SHORT}"].status == COMPLETE
    assert (group / "zarr.json").is_file()


def test_a_failed_exposure_takes_its_tiles_and_the_mosaic_and_no_other(client, line):
    name = f"{line.exposures[1].name}_a3001"
    line.faults(**{f"outliers__{name}": ["never"]})
    records = line.run(client)
    assert records[f"outliers/{name}"].status == FAILED
    skipped = {key for key, record in records.items() if record.status == SKIPPED}
    assert skipped == {
        f"drizzle/{SHORT}_x000y000",
        f"drizzle/{SHORT}_x001y000",
        f"drizzle/{SHORT}_x000y001",
        f"drizzle/{SHORT}_x001y001",
        f"assemble/{SHORT}",
        f"source_catalog/{SHORT}",
    }
    assert f"outliers/{name}" in records[f"assemble/{SHORT}"].error
    assert records[f"assemble/{LONG}"].status == COMPLETE


def test_a_failed_alignment_skips_all_behind_it(client, line):
    line.faults(**{f"align__{SHORT}": ["never"]})
    records = line.run(client)
    assert records[f"align/{SHORT}"].status == FAILED
    assert records[f"assemble/{LONG}"].status == COMPLETE
    assert not any(
        record.status == COMPLETE for key, record in records.items() if SHORT in key and "association" not in key
    )


def test_exposures_without_sources_step_are_lost_members(client, tmp_path):
    line = Line(tmp_path / "ws", max_missing=1)
    line.faults(**{f"sources__{line.exposures[0].name}": ["never"]})
    records = line.run(client)
    assert records[f"assemble/{SHORT}"].status == COMPLETE
    assert records[f"assemble/{SHORT}"].missing == (line.exposures[0].name,)


@pytest.mark.parametrize(("until", "last"), [("sources", 0), ("align", 1), ("outliers", 2)])
def test_until_a_step_in_the_middle(client, line, until, last):
    records = line.run(client, until=until)
    assert {record.status for record in records.values()} == {COMPLETE}
    done = {key.split("/")[0] for key in records}
    assert (until in done) and ("drizzle" not in done) and (("align" in done) == (last >= 1))


def test_out_of_memory_in_the_middle_runs_again_with_what_stands_on_it(client, line):
    line.faults(**{f"skymatch__{SHORT}": ["memory"]})
    records = line.run(client)
    assert {record.status for record in records.values()} == {COMPLETE}


def test_one_filter_is_aligned_to_another(client, tmp_path):
    line = Line(tmp_path / "ws", align_to="F444W")
    records = line.run(client)
    assert {record.status for record in records.values()} == {COMPLETE}
    assert records[f"align/{SHORT}"].started >= records[f"align/{LONG}"].started


def test_exposures_that_are_not_aligned_end_their_mosaic_alone(client, line):
    lost = line.exposures[1].name
    (line.workspace.root / "not_aligned.json").write_text(json.dumps([lost]))
    records = line.run(client)
    failed = records[f"align/{SHORT}"]
    assert failed.status == FAILED and f"1 of 3 exposures: {lost}: too few sources" in failed.error
    assert failed.not_aligned == {lost: "too few sources"}
    made = {record.step for record in records.values() if record.mosaic == SHORT and record.status == COMPLETE}
    assert made == {"association"}
    assert records[f"assemble/{LONG}"].status == COMPLETE
    again = line.run(client)
    assert line.ran == [key for key in again if again[key].status != COMPLETE]


def test_the_mosaic_is_made_without_the_switch_and_kept_with_it(client, line):
    lost = line.exposures[1].name
    (line.workspace.root / "not_aligned.json").write_text(json.dumps([lost]))
    required = line.config
    line.config = required.model_copy(
        update={"mosaic": required.mosaic.model_copy(update={"require_alignment": False})}
    )
    records = line.run(client)
    assert {record.status for record in records.values()} == {COMPLETE}
    assert records[f"align/{SHORT}"].not_aligned == {lost: "too few sources"}
    line.config = required
    again = line.run(client)
    assert line.ran == [] and {record.status for record in again.values()} == {COMPLETE}
    line.files("*00001_nrcb1_a3001_crf.fits")[0].unlink()  # what is lost is not made again
    third = line.run(client)
    skipped = {key for key, record in third.items() if record.status == SKIPPED}
    assert skipped and all(lost in third[key].error for key in skipped)
    assert f"drizzle/{SHORT}_x000y000" not in skipped and steps_of(line.ran) == steps_of(skipped)
