"""What the tasks of a tiled mosaic read is made by the tasks that they stand on, for every way to configure it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from stub_steps import FakeReferences, exposure

from survey.config.model import SurveyConfig
from survey.mosaics.predictions import predict
from survey.nircam import native_scale_arcsec
from survey.planning.planner import plan
from survey.planning.tiled import REFUSED, faults, group_numbers

SIDE = 320 * 0.031 / 3600
PRODUCT = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
# Ends of file names below their folder -> the step that makes them.
MAKERS = {
    "stage2": {"_cal.fits": "image2"},
    "asn": {"_asn.json": "association"},
    "mosaics": {"_i2d.fits": "assemble"},
    "stage3": {
        "_member.asdf": "sources", "_cat.ecsv": "sources", "_wcs.asdf": "align", "_layout.json": "align",
        "_grid.asdf": "align", "_sources.ecsv": "align", "_skystat.json": "sky", "_sky.json": "skymatch",
        "_pixmap.npy": "pixmap", "_leftout.npy": "pixmap", "_outliermap.npy": "pixmap",
        "_outlier_i2d.npy": "outlier_i2d", "_median.npy": "median", "_crf.fits": "outliers",
    },
}  # fmt: skip


def placed(number, detector="NRCB1", filter_name="F200W"):
    ra = 214.8 + 0.7 * SIDE * number + (0.5 * SIDE if detector == "NRCB2" else 0)
    corners = ((ra, 52.8), (ra + SIDE, 52.8), (ra + SIDE, 52.8 + SIDE), (ra, 52.8 + SIDE))
    return replace(exposure(number, detector, filter_name), footprint=corners)


EXPOSURES = tuple(placed(number, detector) for number in (1, 2, 3) for detector in ("NRCB1", "NRCB2"))


def laid_out(exposures=EXPOSURES, **mosaic):
    chosen = SurveyConfig(
        survey="t", program=1345, workspace="/nowhere", steps=["detector1", "image2"], mosaic={"tile": 256, **mosaic},
        references={"context": "jwst_0001.pmap", "cache": "/nowhere/crds"},
    )  # fmt: skip
    first = plan(chosen, exposures, FakeReferences())
    layouts = {}
    for association in first.associations:
        own = [item for item in exposures if item.name in association.members]
        scale = native_scale_arcsec(own[0].detector)
        layout = predict(own, group_numbers([item.name for item in own]), chosen.mosaic.grid, scale)
        layouts[association.product] = replace(layout, digest=first[f"align/{association.product}"].digest)
    return plan(chosen, exposures, FakeReferences(), layouts=layouts)


def maker(path):
    file = PurePosixPath(path)
    return next(step for suffix, step in MAKERS[file.parent.name].items() if file.name.endswith(suffix))


OWN_GRID = {"pixel_scale_arcsec": 0.03, "crval_deg": [214.8, 52.8], "crpix": [900, 300], "shape": [2000, 1000]}


@pytest.mark.parametrize(
    "mosaic",
    [
        {},
        OWN_GRID,
        {"image3": {"tweakreg": {"skip": True}}},
        {"image3": {"skymatch": {"skip": True}}},
        {"image3": {"outlier_detection": {"skip": True}}},
        {"image3": {"source_catalog": {"skip": True}}},
        {"image3": {"outlier_detection": {"pixmap_stepsize": 10}}},
        {"image3": {"resample": {"pixmap_stepsize": 10}, "outlier_detection": {"pixmap_stepsize": 10}}},
        {"image3": {"resample": {"enable_ctx": False, "enable_err": False}}},
    ],
    ids=str,
)
@pytest.mark.parametrize("exposures", [EXPOSURES, EXPOSURES[:1], EXPOSURES[:2]], ids=len)
def test_each_file_is_of_an_input(mosaic, exposures):
    made = laid_out(exposures, **mosaic)
    by_key = {task.key: task for task in made}
    for task in made:
        for path in task.reads:
            inputs = [by_key[key] for key in task.inputs if by_key[key].step == maker(path)]
            assert inputs, f"{task.key} reads {path}, and stands on no {maker(path)} task"
            if maker(path) != "align":  # align alone makes files of other names than its subject's
                name = PurePosixPath(path).name
                assert any(name.startswith(f"{item.subject}_") for item in inputs), f"{task.key}: {path}"
        assert len(set(task.reads)) == len(task.reads), task.key
        assert len(set(task.inputs)) == len(task.inputs), task.key


@pytest.mark.parametrize(
    ("mosaic", "suffix"),
    [
        ({}, "pixmap"),
        (OWN_GRID, "outliermap"),
        ({"image3": {"outlier_detection": {"pixmap_stepsize": 10}}}, "outliermap"),
        ({"image3": {"outlier_detection": {"pixmap_stepsize": 1}}}, "pixmap"),
        ({"image3": {"resample": {"pixmap_stepsize": 4}, "outlier_detection": {"pixmap_stepsize": 4}}}, "pixmap"),
    ],
    ids=str,
)
def test_outlier_detection_reads_the_map_onto_its_own_grid(mosaic, suffix):
    made = laid_out(**mosaic)
    for step in ("outlier_i2d", "outliers"):
        maps = [path for task in made if task.step == step for path in task.reads if path.endswith("map.npy")]
        assert maps and all(path.endswith(f"_{suffix}.npy") for path in maps)
    assert {task.settings["outliermap"] for task in made if task.step == "pixmap"} == {suffix == "outliermap"}
    drizzled = [path for task in made if task.step == "drizzle" for path in task.reads if path.endswith("map.npy")]
    assert drizzled and all(path.endswith("_pixmap.npy") for path in drizzled)


def test_exposures_read_the_medians_of_all_tiles_that_blot_reaches():
    """Blot interpolates: a tile one pixel beside an exposure's box counts."""
    made = laid_out()
    medians = {tuple(task.settings["box"]): task.key for task in made if task.step == "median"}
    layout = predict(EXPOSURES, group_numbers([item.name for item in EXPOSURES]), {}, 0.031)
    for task in (task for task in made if task.step == "outliers"):
        box = layout.members[task.settings["index"]].outlier.grown(1)
        near = {key for (x0, y0, x1, y1), key in medians.items()
                if x0 < box.x1 and x1 > box.x0 and y0 < box.y1 and y1 > box.y0}  # fmt: skip
        assert {key for key in task.inputs if key.startswith("median/")} == near


def test_a_filter_stands_on_the_alignment_of_the_one_that_it_is_aligned_to():
    exposures = (*EXPOSURES, placed(1, "NRCBLONG", "F444W"), placed(2, "NRCBLONG", "F444W"))
    made = laid_out(exposures, align_to="F444W")
    reference = PRODUCT.replace("f200w", "f444w")
    keys = [task.key for task in made]
    assert keys.index(f"align/{reference}") < keys.index(f"align/{PRODUCT}")
    assert f"align/{reference}" in made[f"align/{PRODUCT}"].digests
    other = laid_out(exposures)
    assert other[f"align/{reference}"].digest == made[f"align/{reference}"].digest
    assert other[f"align/{PRODUCT}"].digest != made[f"align/{PRODUCT}"].digest


def test_faults_name_the_parameter_and_what_to_do():
    assert faults({}) == []
    for step, pars in REFUSED.items():
        for name, (allowed, _) in pars.items():
            assert faults({step: {name: allowed}}) == []
            (found,) = faults({step: {name: not allowed}})
            assert found.startswith(f"mosaic.image3.{step}.{name}: {name} = {not allowed}") and "engine: stock" in found
    several = {"outlier_detection": {"resample_data": False}, "resample": {"single": True, "skip": True}}
    assert len(faults(several)) == 3


@pytest.mark.parametrize(
    ("method", "subtract", "refused"),
    [("global+match", True, True), ("global+match", False, False), ("match", True, False), ("global", True, False)],
)
def test_only_a_sky_that_is_measured_twice_is_refused(method, subtract, refused):
    assert bool(faults({"skymatch": {"skymethod": method, "subtract": subtract}})) == refused
