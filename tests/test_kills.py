"""Whole runs with stub steps on a local cluster, killed at random moments; ``benchmarks/kills.py`` does it often."""

from __future__ import annotations

import pytest
from killing import harm


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(tmp_path, seed):
    tally = harm(tmp_path, kills=4, seed=seed, a_chain=4)
    assert tally.count == tally.equal == 4, tally.to_json()
    assert tally.unequal == tally.run_twice == tally.faults == []
