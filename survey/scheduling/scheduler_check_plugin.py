"""Move tasks away from rejected workers. Runs on the scheduler.

The code of this module is sent to the scheduler (pickled by value), because the scheduler's own survey may be of
another version, or missing. It therefore imports the standard library and dask.distributed only.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from dask.distributed import SchedulerPlugin


class SchedulerCheckPlugin(SchedulerPlugin):
    """Releases the tasks of a worker that `WorkerCheckPlugin` rejected, so that others get them.

    When the run's client disconnects, it removes both plugins: the client may have been killed.

    Parameters
    ----------
    name : of the run's check; the topic of its reports
    client : id of the run's dask client
    """

    def __init__(self, name: str, client: str):
        self.name = name
        self.client = client
        self.scheduler: Any = None
        self.removal: Any = None  # kept, or the event loop may drop it before it is done

    async def start(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def log_event(self, topic: str, msg: Any) -> None:
        worker = self.scheduler.workers.get(msg["worker"]) if topic == self.name and msg["faults"] else None
        if worker is not None:
            released = {task.key: "released" for task in worker.processing if task not in worker.executing}
            self.scheduler.transitions(released, f"{self.name}-{time.time()}")

    def remove_client(self, scheduler: Any, client: str) -> None:
        if client == self.client:
            scheduler.remove_plugin(self.name)
            if self.name in scheduler.worker_plugins:
                self.removal = asyncio.ensure_future(scheduler.unregister_worker_plugin(None, self.name))
