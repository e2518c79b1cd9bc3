"""A tile that its members' boxes touch and their pixels do not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from survey.mosaics.grid import Box, Tile
from survey.mosaics.layouts import Aligned, Layout, Member, Scale
from survey.steps.base import Job
from survey.steps.registry import REGISTRY

pytestmark = pytest.mark.pipeline


def test_a_tile_in_the_corner_of_a_turned_exposures_box_is_empty(tmp_path):
    from survey.steps.image3.drizzle import run

    y, x = np.indices((64, 64), dtype=float)
    turned = np.stack([150 + (x - y) * 0.7, 50 + (x + y) * 0.7], axis=-1)  # by 45 degrees: its corners are the middles
    name = "jw01345001001_02101_00001_nrcb1"
    found = Aligned("g", (64, 64), Box(0, 0, 64, 64), [], None, *[None] * 6)
    box = Box(100, 40, 210, 150)
    scales = {"final": Scale([0.03, "float"], [1.0, "float"])}
    layout = Layout((256, 256), (256, 256), True, (Member(name, 0, box, box, found),), "d", scales)
    (tmp_path / "p_layout.json").write_text(json.dumps(layout.to_json()))
    (tmp_path / "p_sky.json").write_text(json.dumps({"method": "match", "members": {}, "subtracted": False}))
    np.save(tmp_path / f"{name}_a3001_pixmap.npy", turned)
    np.save(tmp_path / f"{name}_a3001_leftout.npy", np.zeros((0, 0), bool))
    (tmp_path / "job").mkdir()
    settings = {
        "ix": 0,
        "iy": 0,
        "box": [0, 0, 64, 64],
        "side": 64,
        "margin": 8,
        "members": [0],
        "group": "F200W",
        "acid": "a3001",
    }
    inputs = [
        "p_layout.json",
        "p_sky.json",
        *(f"{name}_a3001_{end}" for end in ("crf.fits", "pixmap.npy", "leftout.npy")),
    ]
    job = Job("drizzle/p_x000y000", "drizzle", "p_x000y000", "d", "t", tuple(str(tmp_path / item) for item in inputs),
              str(tmp_path / "job"), settings, tile=Tile(0, 0, Box(0, 0, 64, 64)))  # fmt: skip
    outcome = run(job, REGISTRY["drizzle"])
    assert outcome.products == ()
    assert outcome.measurements == {"members": 0, "covered": 0, "pixels": 64 * 64}
