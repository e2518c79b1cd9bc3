"""dask's settings for the clusters that are started here: local workers and batch jobs."""

from __future__ import annotations

from typing import Any

CONNECT_SECONDS = 30
BUSY_SECONDS = 120  # a machine with far more work than cores may read a connection later than dask's default allows

STARTED_HERE: dict[str, Any] = {
    # Child processes do the work and the resource memory_gb accounts for their memory; a worker itself stays small.
    **{f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause", "terminate")},
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    "distributed.comm.timeouts.tcp": f"{BUSY_SECONDS}s",
}
