"""Two passes on dask, with stub steps: what is planned and run, what stays, reruns, failures, --until; and faults."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from stub_steps import FakeReferences, exposure
from stub_tiled import ENVIRONMENT

from survey.config.model import SurveyConfig
from survey.digest import file_sha256
from survey.errors import ConfigError
from survey.execution.task import Site
from survey.models import COMPLETE, FAILED, SKIPPED
from survey.mosaics.layouts import read_layouts
from survey.names import first_pass_name, parse_mosaic
from survey.planning.planner import Planner, plan
from survey.planning.staleness import DONE, states
from survey.scheduling.run_plan import RunSettings, run_plan
from survey.workspace.folders import Workspace
from survey.workspace.records import read_records

MOSAIC = "jw01345-a3001_t001_nircam_clear-{}-sub320"
SHORT, LONG = MOSAIC.format("f200w"), MOSAIC.format("f444w")
PASS1 = "-pass1"


class Line:
    """A workspace with raw files of two filters, and runs of it."""

    def __init__(self, root, mask=None, steps=None, **mosaic):
        self.workspace = Workspace(root)
        self.workspace.create()
        self.steps = steps or ["detector1", {"source_mask": mask or {}}, "subtract_striping", "image2"]
        self.mosaic = {"tile": 256, **mosaic}
        made = [exposure(number) for number in (1, 2, 3)] + [exposure(n, "NRCBLONG", "F444W") for n in (1, 2)]
        for item in made:
            (self.workspace.raw / item.file).write_text(item.name)
        self.exposures = [replace(item, sha256=file_sha256(self.workspace.raw / item.file)) for item in made]

    @property
    def config(self):
        return SurveyConfig(
            survey="t", program=1345, workspace=self.workspace.root, steps=self.steps, mosaic=self.mosaic,
            references={"context": "jwst_0001.pmap", "cache": self.workspace.root},
        )  # fmt: skip

    @property
    def plan(self):
        products = [*(SHORT, LONG), *(name + PASS1 for name in (SHORT, LONG))]
        layouts = read_layouts(self.workspace.root, products)
        return plan(self.config, self.exposures, FakeReferences(), layouts=layouts)

    def to_run(self):
        found = states(self.plan, read_records(self.workspace.records).by_key, self.workspace.root)
        return [item.task.key for item in found if item.state != DONE]

    def run(self, client, until=None):
        self.ran = []
        site = Site(str(self.workspace.root), "t", ENVIRONMENT)
        settings = RunSettings(
            read_records(self.workspace.records).by_key,
            until,
            watch=lambda record, reused: None if reused else self.ran.append(record.key),
        )
        records = run_plan(self.plan, Planner(self.config, FakeReferences()), site, client, settings)
        return {record.key: record for record in records}

    def faults(self, **faults):
        path = self.workspace.root / "faults.json"
        path.write_text(json.dumps({key.replace("__", "/"): value for key, value in faults.items()}))

    def content(self, key):
        record = read_records(self.workspace.records).by_key[key]
        return (self.workspace.root / record.products[0].path).read_text()


@pytest.fixture
def line(tmp_path):
    return Line(tmp_path / "ws")


def steps_of(keys):
    return sorted({key.split("/")[0] for key in keys})


def test_names_of_a_first_pass():
    name = parse_mosaic(SHORT + PASS1)
    assert (name.subarray, name.first_pass, str(name)) == ("sub320", True, SHORT + PASS1)
    assert parse_mosaic("jw01345-a3001_t001_nircam_clear-f200w-pass1").subarray is None
    assert not parse_mosaic(SHORT).first_pass


def test_the_plan_holds_both_passes(line):
    made = line.plan
    name = line.exposures[0].name
    first = [task for task in made if task.first_pass]
    assert {task.key for task in first if task.subject.startswith(name)} == {
        f"{step}/{first_pass_name(name)}" for step in ("subtract_striping", "image2", "sources")
    }
    chain = [task.key for task in made if task.subject == name]
    assert chain == [
        f"{step}/{name}" for step in ("detector1", "source_mask", "subtract_striping", "image2", "sources")
    ]
    assert made[f"subtract_striping/{name}"].inputs == (f"detector1/{name}", f"source_mask/{name}")
    assert made[f"subtract_striping/{first_pass_name(name)}"].inputs == (f"detector1/{name}",)
    assert [item.product for item in made.first_pass] == [SHORT + PASS1, LONG + PASS1]
    assert [item.product for item in made.associations] == [SHORT, LONG]


def test_a_config_without_a_mask_has_one_pass(tmp_path):
    made = Line(tmp_path / "ws", steps=["detector1", "subtract_striping", "image2"]).plan
    assert made.first_pass == () and not any(task.first_pass for task in made)


def test_a_run_makes_both_passes_once(client, line):
    records = line.run(client)
    assert {record.status for record in records.values()} == {COMPLETE}
    assert f"assemble/{SHORT}" in records and f"assemble/{SHORT}{PASS1}" not in records
    assert f"detect/{SHORT}{PASS1}_x000y000" in records and f"detect/{SHORT}_x000y000" not in records
    kept = {path.name for path in (line.workspace.root / "stage2").iterdir()}
    assert len(kept) == 5 and not any(PASS1 in name for name in kept)
    kept = {path.name.rpartition("_")[2] for path in (line.workspace.root / "stage3").glob(f"*{PASS1}*")}
    assert kept == {"detected.npz", "grid.asdf", "layout.json", "sources.ecsv", "wcs.asdf"}
    store = line.workspace.root / "mosaics" / "mosaics.zarr"
    assert sorted(path.name for path in store.iterdir() if path.is_dir()) == ["F200W", "F444W"]
    assert line.to_run() == []
    again = line.run(client)
    assert line.ran == [] and again.keys() == records.keys()


def test_first_pass_products_stay_on_demand(client, tmp_path):
    line = Line(tmp_path / "ws", keep_intermediate=True)
    line.run(client)
    assert len(list((line.workspace.root / "stage2").glob(f"*{PASS1}_cal.fits"))) == 5


def test_masks_of_other_filters(client, tmp_path):
    """The mosaics of other filters are aligned in the first pass, and not drizzled."""
    line = Line(tmp_path / "ws", mask={"filters": ["F444W"]})
    records = line.run(client)
    assert {record.status for record in records.values()} == {COMPLETE}
    assert f"align/{SHORT}{PASS1}" in records and f"detect/{LONG}{PASS1}_x000y000" in records
    assert not any(key.startswith(f"drizzle/{SHORT}{PASS1}") for key in records)
    mask = records[f"source_mask/{line.exposures[0].name}"]
    assert mask.settings["mosaics"] == [LONG + PASS1]
    assert {f"align/{SHORT}{PASS1}", f"align/{LONG}{PASS1}", f"detect/{LONG}{PASS1}_x000y000"} <= mask.inputs.keys()
    assert line.to_run() == []


def test_a_mask_depends_on_the_tiles_that_it_read(client, line):
    line.run(client)
    before = {key: line.content(key) for key in (f"source_mask/{line.exposures[0].name}", f"assemble/{SHORT}")}
    changed = line.exposures[1]
    (line.workspace.raw / changed.file).write_text("other counts")
    line.exposures[1] = replace(changed, sha256=file_sha256(line.workspace.raw / changed.file))
    line.run(client)
    assert all(line.content(key) != text for key, text in before.items())
    assert not any("nrcblong" in key for key in line.ran)  # the other filter has masks of its own
    assert line.to_run() == []


def test_a_setting_of_the_second_pass_leaves_the_first_alone(client, line):
    line.run(client)
    line.mosaic = {**line.mosaic, "image3": {"source_catalog": {"npixels": 30}}}
    assert steps_of(line.to_run()) == ["source_catalog"]
    line.run(client)
    assert steps_of(line.ran) == ["source_catalog"]


def test_other_detection_makes_masks_again_from_the_same_tiles(client, tmp_path):
    """The tiles were deleted, so that what they were drizzled from is made again as well."""
    line = Line(tmp_path / "ws", keep_intermediate=True)
    line.run(client)
    line.steps[1] = {"source_mask": {"n_sigma": 3.0}}
    line.run(client)
    assert "detect" in steps_of(line.ran) and "drizzle" in steps_of(line.ran)
    assert not any(key.startswith("drizzle/") and PASS1 in key for key in line.ran)
    assert not any(key.startswith("detector1/") for key in line.ran)


def test_deleted_products_of_the_first_pass_are_made_again_when_they_are_read(client, line):
    line.run(client)
    line.steps[1] = {"source_mask": {"n_sigma": 3.0}}
    announced = line.to_run()
    records = line.run(client)
    assert {record.status for record in records.values()} == {COMPLETE}
    assert {"detect", "drizzle", "outliers", "image2"} <= set(steps_of(key for key in line.ran if PASS1 in key))
    assert not any(key.startswith("detector1/") for key in line.ran)
    assert announced and line.to_run() == []


def test_a_lost_mask_is_made_again_alone(client, line):
    line.run(client)
    path = next((line.workspace.root / "stage1").glob("*_mask.fits"))
    text = path.read_text()
    path.unlink()
    line.run(client)
    assert line.ran == [f"source_mask/{path.name.removesuffix('_mask.fits')}"]
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("until", "last", "never"),
    [
        ("detector1", "detector1", "subtract_striping"),
        ("detect", "detect", "source_mask"),
        ("source_mask", "source_mask", "assemble"),
        ("image2", "image2", "assemble"),
    ],
)
def test_until(client, line, until, last, never):
    records = line.run(client, until=until)
    assert {record.status for record in records.values()} == {COMPLETE}
    done = steps_of(records)
    assert last in done and never not in done
    second = [key for key in records if key.startswith("image2/") and PASS1 not in key]
    assert bool(second) == (until == "image2")
    line.run(client)
    assert line.to_run() == []


def test_a_failed_exposure_of_the_first_pass(client, line):
    lost = line.exposures[0].name
    line.faults(**{f"image2__{first_pass_name(lost)}": ["never"]})
    records = line.run(client)
    assert records[f"image2/{first_pass_name(lost)}"].status == FAILED
    skipped = records[f"source_mask/{line.exposures[1].name}"]
    assert skipped.status == SKIPPED
    assert f"{SHORT}{PASS1}: 1 of 3 members missing ({first_pass_name(lost)})" in skipped.error
    assert records[f"association/{SHORT}"].status == SKIPPED
    assert records[f"assemble/{LONG}"].status == COMPLETE


def test_a_failed_exposure_of_the_first_pass_that_may_be_missing(client, tmp_path):
    line = Line(tmp_path / "ws", max_missing=1)
    lost = line.exposures[0].name
    line.faults(**{f"image2__{first_pass_name(lost)}": ["never"]})
    records = line.run(client)
    assert records[f"source_mask/{lost}"].status == SKIPPED
    assert "failed in the first pass" in records[f"source_mask/{lost}"].error
    assert records[f"assemble/{SHORT}"].missing == (lost,)


def test_a_failed_search_skips_the_masks_that_need_it(client, line):
    line.faults(**{f"detect__{LONG}{PASS1}_x000y000": ["never"]})
    records = line.run(client)
    assert records[f"source_mask/{line.exposures[3].name}"].status == SKIPPED
    assert records[f"association/{LONG}"].status == SKIPPED
    assert records[f"assemble/{SHORT}"].status == COMPLETE


@pytest.mark.parametrize(
    ("steps", "mosaic", "expected"),
    [
        (["detector1", "source_mask", "image2"], {}, "no step after it reads the mask"),
        (["detector1", "subtract_striping", "source_mask", "image2"], {}, "no step after it reads the mask"),
        (["source_mask", "detector1", "image2"], {}, "accepts rate, got uncal"),
        (["detector1", "source_mask", "subtract_striping", "image2"], {"engine": "stock"}, "only 'engine: tiled'"),
        (["detector1", "source_mask", "subtract_striping"], {}, "must end with one that makes calibrated images"),
        (["detector1", {"source_mask": {"filters": ["F445W"]}}, "subtract_striping", "image2"], {}, "not a filter"),
        (["detector1", {"source_mask": {"n_sigma": -1}}, "subtract_striping", "image2"], {}, "n_sigma"),
        (["detector1", {"source_mask": {"sigma": 3}}, "subtract_striping", "image2"], {}, "has no parameter 'sigma'"),
        (
            ["detector1", "source_mask", {"subtract_striping": {"mask_file": "m.npz"}}, "image2"],
            {},
            "the step 'source_mask' makes this file",
        ),
    ],
)
def test_configs_that_cannot_have_two_passes(tmp_path, steps, mosaic, expected):
    with pytest.raises(ConfigError, match=expected):
        _ = Line(tmp_path / "ws", steps=steps, **mosaic).plan
