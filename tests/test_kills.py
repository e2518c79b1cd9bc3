"""Whole runs with stub steps on a local cluster, killed at random moments; ``benchmarks/kills.py`` does it often."""

from __future__ import annotations

import pytest
from killing import harm


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1])
def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(tmp_path, seed):
    tally = harm(tmp_path, kills=3, seed=seed, a_chain=3)
    assert tally.count == tally.equal == 3, tally.to_json()
    assert tally.unequal == tally.run_twice == tally.faults == []
