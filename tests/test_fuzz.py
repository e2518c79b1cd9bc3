"""No input makes a reader crash: the quick form of `benchmarks/fuzz.py`."""

from __future__ import annotations

import pytest
from foreign_inputs import TARGETS
from hypothesis import HealthCheck, given, settings


@pytest.mark.parametrize("name", TARGETS)
def test_foreign_input_is_read_or_refused(name, tmp_path):
    target, tried = TARGETS[name], 0

    @settings(
        max_examples=target.quick, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.inputs)
    def read(value):
        nonlocal tried
        tried += 1
        target.read(value, tmp_path)

    read()
    assert tried >= target.quick // 2
