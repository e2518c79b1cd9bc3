"""A tile that its members' boxes touch and their pixels do not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from survey.mosaics.grid import Box, Layout, Member
from survey.steps.base import Job
from survey.steps.registry import REGISTRY

pytestmark = pytest.mark.pipeline


def test_a_tile_in_the_corner_of_a_turned_exposures_box_is_empty(tmp_path):
    from survey.steps.image3.drizzle import run

    y, x = np.indices((64, 64), dtype=float)
    turned = np.stack([150 + (x - y) * 0.7, 50 + (x + y) * 0.7], axis=-1)  # by 45 degrees: its corners are the middles
    name = "jw01345001001_02101_00001_nrcb1"
    facts = {
        "members": [{"range": [0, 0, 64, 64], "shape": [64, 64]}],
        "pixel_scale": {"final": [0.03, "float"]}, "pixel_scale_ratio": {"final": [1.0, "float"]}, "group_ids": ["g"],
    }  # fmt: skip
    box = Box(100, 40, 210, 150)
    layout = Layout((256, 256), (256, 256), True, (Member(name, 0, box, box),), "d", facts)
    (tmp_path / "p_layout.json").write_text(json.dumps(layout.to_json()))
    (tmp_path / "p_sky.json").write_text(json.dumps({"members": {}, "subtracted": False}))
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
              str(tmp_path / "job"), settings)  # fmt: skip
    outcome = run(job, REGISTRY["drizzle"])
    assert outcome.products == ()
    assert outcome.measurements == {"members": 0, "covered": 0, "pixels": 64 * 64}
