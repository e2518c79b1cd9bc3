"""A scheduler at an address that dies in mid-run: the run ends, says so, and the next one goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stub_tiled import ENVIRONMENT

from survey.models import COMPLETE
from survey.workspace.records import read_records

STUB_SURVEY = Path(__file__).with_name("stub_survey.py")


def started(*arguments: str) -> subprocess.Popen:
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def wait_for(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_whose_scheduler_is_killed_ends_and_says_so(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, root = f"tcp://127.0.0.1:{port}", tmp_path / "ws"
    scheduler = started("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port),
                        "--no-dashboard")  # fmt: skip
    worker = started("-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--host", "127.0.0.1",
                     "--resources", "memory_gb=8", "--no-dashboard", "--death-timeout", "60")  # fmt: skip
    run = started(str(STUB_SURVEY), str(root), "--cluster", address, "--report")
    try:
        wait_for(lambda: len(read_records(root / "records").by_key) >= 3)
        scheduler.kill()
        _, said = run.communicate(timeout=120)
        assert "dashboard.html is not written" in said and said.splitlines()[-1].startswith("the scheduler "), said
        assert run.returncode in (1, 3), said
        assert "Traceback" not in said and "scheduler" in said, said
    finally:
        for process in (run, worker, scheduler):
            process.kill()
            process.wait()
    assert read_records(root / "records").faults == {}
    before = {key for key, record in read_records(root / "records").by_key.items() if record.status == COMPLETE}
    again = started(str(STUB_SURVEY), str(root))
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert before < {key for key, record in read_records(root / "records").by_key.items() if record.status == COMPLETE}
