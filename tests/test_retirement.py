"""Workers that go when fewer are asked for, on real schedulers: ordinary ones alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request

import dask
import pytest
from distributed import Client, Scheduler, Worker

from survey.cluster.deploy import RESOURCE

PRELOAD = "survey.cluster.kubernetes_preload"
SIZES = {"survey-default-1": 4, "survey-default-2": 4, "survey-default-3": 4, "survey-large-1": 24}


@contextlib.asynccontextmanager
async def cluster(sizes, preload=(PRELOAD,)):
    """A scheduler with workers of these names, which declare that much memory [GB]; 0: none."""
    async with contextlib.AsyncExitStack() as stack:
        scheduler = Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0", preload=preload)
        await stack.enter_async_context(scheduler)
        for name, size in sizes.items():
            resources = {RESOURCE: size} if size else {}
            await stack.enter_async_context(Worker(scheduler.address, nthreads=1, name=name, resources=resources))
        yield scheduler


def chosen(sizes, n, preload=(PRELOAD,)):
    async def ask():
        async with cluster(sizes, preload) as scheduler:
            return set(scheduler.workers_to_close(n=n, attribute="name"))

    return asyncio.run(ask())


def test_dask_alone_would_let_the_large_worker_go():
    assert "survey-large-1" in chosen(SIZES, 4, preload=())


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_ordinary_workers_go_alone(n):
    left = chosen(SIZES, n)
    assert len(left) == min(n, 3) and "survey-large-1" not in left


@pytest.mark.parametrize(
    ("sizes", "may_go"),
    [
        ({"a": 4, "b": 4}, {"a", "b"}),
        ({"a": 4, "b": 8, "c": 24}, {"a"}),
        ({"a": 0, "b": 0}, {"a", "b"}),  # they declare nothing: all are alike
        ({"a": 0, "b": 4, "c": 24}, {"a", "b"}),
    ],
)
def test_who_is_ordinary(sizes, may_go):
    assert chosen(sizes, len(sizes)) == may_go


def test_busy_ordinary_workers_go_rather_than_an_idle_large_one():
    """Three tasks on three ordinary workers, and the large one has nothing to do: dask's first choice."""

    async def ask():
        async with cluster(SIZES) as scheduler, Client(scheduler.address, asynchronous=True) as client:
            ordinary = [worker.address for worker in scheduler.workers.values() if worker.resources[RESOURCE] == 4]
            tasks = [
                client.submit(asyncio.sleep, 30, workers=[address], resources={RESOURCE: 3}, pure=False)
                for address in ordinary
            ]
            while sum(bool(worker.processing) for worker in scheduler.workers.values()) < 3:
                await asyncio.sleep(0.05)
            first = scheduler.workers_to_close(n=1, attribute="name")
            await client.cancel(tasks, force=True)
            return first

    (name,) = asyncio.run(asyncio.wait_for(ask(), 60))
    assert name != "survey-large-1"


def test_a_large_worker_stays_when_ordinary_ones_are_away():
    async def ask():
        async with cluster({"large": 24}) as scheduler:
            async with Worker(scheduler.address, nthreads=1, name="small", resources={RESOURCE: 4}):
                assert len(scheduler.workers) == 2
            while len(scheduler.workers) > 1:
                await asyncio.sleep(0.05)
            return scheduler.workers_to_close(n=1, attribute="name")

    assert asyncio.run(asyncio.wait_for(ask(), 60)) == []


def test_what_the_operator_asks_for():
    """It posts a number to the dashboard's port, and deletes the pods that the answer names."""

    async def ask():
        async with cluster(SIZES) as scheduler:
            address = f"http://127.0.0.1:{scheduler.http_server.port}/api/v1/retire_workers"
            request = urllib.request.Request(address, json.dumps({"n": 4}).encode(), method="POST")
            answer = await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(request, timeout=30)))
            return {item["name"] for item in answer.values()}, {item.name for item in scheduler.workers.values()}

    with dask.config.set({"distributed.scheduler.http.routes": ["distributed.http.scheduler.api"]}):
        retired, left = asyncio.run(asyncio.wait_for(ask(), 60))
    assert retired == {"survey-default-1", "survey-default-2", "survey-default-3"}
    assert left == {"survey-large-1"}
