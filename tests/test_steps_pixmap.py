"""Which pixel maps an exposure gets, by what is planned and what parameter files ask for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from survey.errors import TaskError
from survey.mosaics.grid import Box
from survey.mosaics.layouts import Aligned, Layout, Member, Scale
from survey.steps.base import Job
from survey.steps.registry import REGISTRY
from tests.small_wcs import SIDE, tangent_wcs

pytestmark = pytest.mark.pipeline

NAME = "jw01345001001_02101_00001_nrcb1"


@pytest.fixture
def inputs(tmp_path):
    """An exposure on a mosaic's grid that is its own, moved by (12, 12) pixels."""
    from survey.steps.image3.members import Description, write_description
    from survey.steps.image3.wcs_files import write_trees

    wcs, grid = tangent_wcs(16.0, 16.0), tangent_wcs(28.0, 28.0)
    write_description(tmp_path / f"{NAME}_wcs.asdf", Description({}, wcs, (SIDE, SIDE)))
    write_trees(tmp_path / "p_grid.asdf", {"final": {"wcs": grid}})
    found = Aligned("g", (SIDE, SIDE), Box(0, 0, SIDE, SIDE), [], None, *[None] * 6)
    box = Box(12, 12, 12 + SIDE, 12 + SIDE)
    scales = {"final": Scale([0.03, "float"], [1.0, "float"])}
    layout = Layout((56, 56), (56, 56), True, (Member(NAME, 0, box, box, found),), "d", scales)
    (tmp_path / "p_layout.json").write_text(json.dumps(layout.to_json()))
    return tuple(str(tmp_path / name) for name in (f"{NAME}_wcs.asdf", "p_grid.asdf", "p_layout.json"))


def made(tmp_path, inputs, **settings):
    from survey.steps.image3.outliers import map_pixels

    folder = tmp_path / "job"
    folder.mkdir()
    job = Job(f"pixmap/{NAME}", "pixmap", NAME, "d", "t", inputs, str(folder), settings)
    return {path.partition("_nrcb1_")[2]: folder / path for path, _ in map_pixels(job, REGISTRY["pixmap"]).products}


def test_one_map_serves_both_when_the_steps_agree(tmp_path, inputs):
    files = made(tmp_path, inputs, outliers=True, outliermap=False)
    assert set(files) == {"pixmap.npy", "leftout.npy"}
    y, x = np.indices((SIDE, SIDE))
    np.testing.assert_allclose(np.load(files["pixmap.npy"]), np.stack([x + 12, y + 12], axis=-1), atol=1e-6)
    assert np.load(files["leftout.npy"]).size == 0


def test_a_planned_map_of_its_own_is_made_even_when_the_steps_agree(tmp_path, inputs):
    files = made(tmp_path, inputs, outliers=True, outliermap=True)
    np.testing.assert_array_equal(np.load(files["outliermap.npy"]), np.load(files["pixmap.npy"]))


def test_maps_that_differ_and_were_not_planned_so_are_refused_by_name(tmp_path, inputs):
    coarse = {"pixmap_stepsize": 8.0}
    with pytest.raises(TaskError, match=r"pixmap_stepsize.*\(8\.0, 1\).*mosaic\.image3"):
        made(tmp_path, inputs, outliers=True, outliermap=False, outlier_detection=coarse)


def test_maps_may_differ_when_no_outlier_is_looked_for(tmp_path, inputs):
    files = made(tmp_path, inputs, outliers=False, outliermap=False, outlier_detection={"pixmap_stepsize": 8.0})
    assert "outliermap.npy" not in files
