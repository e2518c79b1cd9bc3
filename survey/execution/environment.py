"""Where the tasks of a run are executed: the workspace, the environment of child processes, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from survey.config.limits import Limits
from survey.workspace.folders import Workspace

# A worker counts as one core, so numerical libraries in its child processes must not start threads.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ONE_THREAD = dict.fromkeys(THREADS, "1")
# A child returns memory to the system when it ends, not before: returning and requesting it again took a sixth of the
# time of a tile. dask sets the opposite for its workers, and children would inherit that.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(64 * 2**20)}


@dataclass(frozen=True)
class Site:
    """Where the tasks of a run are executed, the same for all of them."""

    root: str  # of the workspace
    survey: str  # name in the config
    environment: Mapping[str, str] = field(default_factory=dict)  # variables of child processes: CRDS's, threads
    limits: Limits = field(default_factory=Limits)
    run: str = ""  # name of the run that holds the workspace; '' for none

    @property
    def folders(self) -> Workspace:
        """Folders of the workspace."""
        return Workspace(Path(self.root))
