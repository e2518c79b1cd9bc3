"""Numbers that pass through JSON come back as the type that they were."""

from __future__ import annotations

import json

import numpy as np
import pytest

from survey.steps.image3.numbers import typed, untyped


def through_json(value):
    return untyped(json.loads(json.dumps(typed(value))))


@pytest.mark.parametrize(
    "value",
    [1.1, -0.0, 5e-324, np.float64(1.1), np.float64(-1e300), np.float32(1.1), np.float32(3.4e38), np.float16(0.1)],
)
def test_value_and_type_come_back_to_the_bit(value):
    found = through_json(value)
    assert type(found) is type(value)
    assert np.asarray(found).tobytes() == np.asarray(value).tobytes()


@pytest.mark.parametrize("value", [float("nan"), np.float64("nan"), np.float32("nan")])
def test_not_a_number_keeps_its_type(value):
    found = through_json(value)
    assert type(found) is type(value) and np.isnan(found)


def test_none_stays_none():
    assert typed(None) is None and untyped(None) is None and through_json(None) is None


def test_the_type_decides_how_pixels_are_computed():
    """Why the type is kept: a sky level of numpy's float64 is taken off in double precision, a Python float is not."""
    pixels = np.array([0.1, 1000.1], np.float32)
    level = 0.1234567890123
    single, double = pixels - through_json(level), pixels - through_json(np.float64(level))
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    assert (single != double).all()
