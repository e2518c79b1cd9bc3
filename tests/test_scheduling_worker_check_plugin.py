"""What a worker is checked for; `test_scheduling_worker_checks.py` does so with real workers."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from survey.cluster.deploy import RESOURCE
from survey.scheduling import scheduler_check_plugin, worker_check_plugin
from survey.scheduling.worker_check_plugin import Requirements, memory_faults


@pytest.mark.parametrize("module", [worker_check_plugin, scheduler_check_plugin], ids=lambda module: module.__name__)
def test_what_is_sent_as_code_needs_no_survey_where_it_runs(module):
    """Nothing but the standard library and dask.distributed, wherever in the module it is imported."""
    tree = ast.parse(Path(module.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name.split(".")[0] not in sys.stdlib_module_names} == {"dask.distributed"}


@pytest.mark.parametrize(
    ("declared", "limit", "threads", "asked", "tasks", "fits"),
    [
        (60, 4, 1, True, [3, 50], False),  # what it declares is more than it has
        (60, 51, 1, True, [3, 50], True),
        (3, 4, 1, True, [3, 50], True),  # an ordinary worker, beside a large one
        (60, 4, 1, True, [3], True),  # no task takes what it declares
        (60, 64, 4, True, [20], True),  # three at once
        (60, 56, 4, True, [20], False),
        (0, 1, 1, True, [3], True),  # where tasks ask for memory, it gets none
        (3, 4, 1, False, [3, 50], False),  # where they do not, it may get any
        (0, 2, 4, False, [0.5], True),
        (0, 2, 4, False, [0.6], False),
        (0, 2, 4, None, [0.6], False),  # the first that comes: its own word counts
        (3, 4, 1, None, [3, 50], True),
        (0, 0, 4, False, [50], True),  # no limit
        (3, 4, 1, True, [], True),
    ],
)
def test_what_a_memory_limit_must_hold(declared, limit, threads, asked, tasks, fits):
    resources = {RESOURCE: float(declared)} if declared else {}
    worker = SimpleNamespace(
        memory_manager=SimpleNamespace(memory_limit=int(limit * 1e9) or None),
        state=SimpleNamespace(nthreads=threads, total_resources=resources),
    )
    needs = Requirements({}, {}, (), 0.0, RESOURCE, tuple(tasks), asked)
    assert (memory_faults(needs, worker) == []) is fits
