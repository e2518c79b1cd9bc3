"""Which grid a plan names for each mosaic: the config's, the alignment's, or one predicted from footprints."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stub_steps import FakeReferences, exposure

from survey.config.model import SurveyConfig
from survey.mosaics.layouts import Layout, Member
from survey.mosaics.predictions import predict
from survey.mosaics.sky_plane import LinearWcs
from survey.planning.grids import grids
from survey.planning.planner import plan
from survey.planning.recipe import recipe_of

GIVEN = {"pixel_scale_arcsec": 0.03, "crval_deg": (10.0, 0.0), "crpix": (600.0, 500.0), "rotation_deg": 20.0,
         "shape": (1200, 1000)}  # fmt: skip
ALIGNED = LinearWcs((10.001, 0.002), (300.0, 310.0), 0.031, 33.0, (640, 650))
SIDE = 0.0027  # of a footprint [deg]


def placed(number, x=0.0, y=0.0):
    ra, dec = 10.0 + x * SIDE, y * SIDE
    corners = ((ra, dec), (ra + SIDE, dec), (ra + SIDE, dec + SIDE), (ra, dec + SIDE))
    return replace(exposure(number), footprint=corners)


def planned(tmp_path, exposures, **mosaic):
    config = SurveyConfig(
        survey="t", program=1345, workspace=tmp_path, references={"context": "jwst_0001.pmap", "cache": tmp_path},
        steps=["detector1", "image2"], mosaic=mosaic,
    )  # fmt: skip
    return config, plan(config, exposures, FakeReferences())


def grid_of(tmp_path, exposures, layouts=None, **mosaic):
    config, made = planned(tmp_path, exposures, **mosaic)
    (found,) = grids(made, recipe_of(config).image3.get("resample", {}), layouts or {}).values()
    return found


def aligned(made, **changes):
    """A layout as the alignment of a plan writes it."""
    (task,) = [task for task in made if task.step == "align"]
    members = tuple(Member(item.name, 0, None, None) for item in made.exposures)
    layout = Layout((650, 640), (650, 640), True, members, task.digest, final_wcs=ALIGNED)
    return {made.associations[0].product: replace(layout, **changes)}


@pytest.mark.parametrize("engine", ["tiled", "stock"])
def test_a_complete_grid_is_the_configs(tmp_path, engine):
    found = grid_of(tmp_path, [placed(1), placed(2)], engine=engine, **GIVEN)
    assert found.source == "config"
    assert found.wcs == LinearWcs((10.0, 0.0), (600.0, 500.0), 0.03, 20.0, (1200, 1000))
    assert (found.held.cut, found.held.missed) == ((), ())


def test_the_grid_of_the_alignment_is_taken_while_it_holds(tmp_path):
    exposures = [placed(1), placed(2, 0.2)]
    _, made = planned(tmp_path, exposures)
    found = grid_of(tmp_path, exposures, aligned(made))
    assert (found.source, found.wcs) == ("alignment", ALIGNED)
    for other in (aligned(made, digest="0" * 64), aligned(made, final_wcs=None), {}):
        assert grid_of(tmp_path, exposures, other).source == "footprints"
    assert grid_of(tmp_path, exposures, aligned(made), **GIVEN).source == "config"


def test_a_predicted_grid_is_the_one_that_tiles_are_predicted_on(tmp_path):
    exposures = [placed(1), placed(2, 3, 2)]
    found = grid_of(tmp_path, exposures, rotation_deg=30.0)
    layout = predict(exposures, [0, 1], {"rotation": 30.0}, 0.031)
    assert found.source == "footprints"
    assert found.wcs.shape == layout.final_shape[::-1]
    assert (found.wcs.rotation_deg, found.wcs.pixel_scale_arcsec) == (30.0, 0.031)
    assert all(found.wcs.holds(item.footprint) for item in exposures)
    assert found.held.cut == ()


def test_without_footprints_a_grid_is_known_from_the_config_alone(tmp_path):
    bare = [placed(1), replace(placed(2), footprint=None)]
    assert grid_of(tmp_path, bare) is None
    assert grid_of(tmp_path, bare, **GIVEN).source == "config"
    wcs = tmp_path / "grid.asdf"
    wcs.write_text("")
    assert grid_of(tmp_path, [placed(1)], image3={"resample": {"output_wcs": str(wcs)}}) is None


def test_exposures_beyond_the_grid_are_named(tmp_path):
    """A side is 324 pixels of the grid, which holds the corner at its pixel (600, 500)."""
    inside, cut, missed = placed(1), placed(2, -2.5), placed(3, -9)
    found = grid_of(tmp_path, [inside, cut, missed], **{**GIVEN, "rotation_deg": 0.0})
    assert (found.held.cut, found.held.missed) == ((cut.name,), (missed.name,))
    assert found.to_json()["missed"] == [missed.name]
    within = placed(4, -600 / 324 - 0.05)  # 16 pixels beyond the border, as an alignment may move it
    assert grid_of(tmp_path, [inside, within], **{**GIVEN, "rotation_deg": 0.0}).held.cut == ()


def test_an_alignment_holds_its_exposures_whatever_their_footprints_are(tmp_path):
    exposures = [placed(1), placed(2, -9)]
    _, made = planned(tmp_path, exposures)
    found = grid_of(tmp_path, exposures, aligned(made))
    assert (found.source, found.held.cut, found.held.missed) == ("alignment", (), ())


def test_tiles_are_not_predicted_on_the_grid_of_an_alignment_that_the_config_has_left(tmp_path):
    """The layout of an earlier alignment is a good guess at the next one's only on the same grid."""
    exposures = [placed(1), placed(2, x=1.0)]
    config, made = planned(tmp_path, exposures, tile=512, **GIVEN)
    layouts = aligned(made, final_shape=(100, 100), final_wcs=ALIGNED, digest="an earlier one")
    tiles = {task.tile for task in plan(config, exposures, FakeReferences(), layouts=layouts) if task.step == "drizzle"}
    assert tiles == {task.tile for task in made if task.step == "drizzle"} and len(tiles) > 1


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"rotation_deg": 20.0 + 1e-12}, True),
        ({"shape": (1200, 1001)}, False),
        ({"crpix": (601.0, 500.0)}, False),
    ],
)
def test_two_grids_are_one(change, same):
    first = LinearWcs((10.0, 0.0), (600.0, 500.0), 0.03, 20.0, (1200, 1000))
    assert first.is_close(replace(first, **change)) is same
