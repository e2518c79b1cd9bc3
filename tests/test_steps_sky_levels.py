"""Sky statistics and levels in the files that tasks hand on: number types, and the form of earlier runs."""

from __future__ import annotations

import json

import numpy as np

from survey.steps.image3.levels import SKIPPED_LEVEL, Level, SkyLevels, Statistics
from survey.steps.image3.numbers import typed

LEVELS = {
    "method": "match", "subtracted": True,
    "members": {
        "a": {"level": [0.25, "float32"], "status": "COMPLETE", "deltas": [[0.125, "float"], [0.125, "float64"]]},
        "b": {"level": None, "status": "SKIPPED", "deltas": []},
    },
}  # fmt: skip
STATISTICS = {"start": [0.0, "float"], "whole": None, "overlaps": {"1": [[0.5, "float64"], 12, 1e-12]}}


def test_levels_are_read_with_their_number_types_and_written_alike(tmp_path):
    path = tmp_path / "p_sky.json"
    path.write_text(json.dumps(LEVELS))
    sky = SkyLevels.read(str(path))
    assert sky.members["b"] == SKIPPED_LEVEL and not sky.members["b"].is_matched
    level = sky.members["a"]
    assert level.value == np.float32(0.25) and isinstance(level.value, np.float32)
    assert [type(value) for value in level.subtractions] == [float, np.float64]
    sky.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == path.read_text()


def test_a_level_that_is_not_subtracted_has_no_deltas():
    level = Level(typed(np.float64(1.5)))
    assert level.is_matched and level.value == 1.5 and level.subtractions == []


def test_statistics_are_read_and_written_alike(tmp_path):
    path = tmp_path / "e_skystat.json"
    path.write_text(json.dumps(STATISTICS))
    found = Statistics.read(str(path))
    assert found.whole is None and found.overlaps["1"][1] == 12
    found.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == path.read_text()
