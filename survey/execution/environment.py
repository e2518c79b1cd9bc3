"""What every task of a run needs to know about where it runs: the workspace, its children's environment, its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from survey.config.limits import Limits

# Numerical libraries must not start threads below a worker that counts as one core.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ONE_THREAD = dict.fromkeys(THREADS, "1")
# A child's memory goes back as it ends, and not before: giving it back and asking anew cost a sixth of a tile's time.
# dask gives its workers the opposite, which they would hand on.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(64 * 2**20)}


@dataclass(frozen=True)
class Site:
    """What every task of a run needs to know about where it runs."""

    root: str  # of the workspace
    survey: str
    environment: Mapping[str, str] = field(default_factory=dict)  # for children: CRDS, threads
    limits: Limits = field(default_factory=Limits)
    run: str = ""  # name of the run that holds the workspace; '' for none
