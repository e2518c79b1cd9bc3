"""The lock of a workspace: one run at a time, and none left behind by a dead one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from survey.errors import ConfigError, WorkspaceBusyError
from survey.workspace.folders import FOLDERS, Workspace

HOLD = """
import sys, time
from pathlib import Path
from survey.workspace.folders import Workspace
with Workspace(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "ws")], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_told_who_holds_the_workspace(holder, tmp_path):
    with pytest.raises(WorkspaceBusyError, match=rf"process {holder.pid} on .*, since 20") as raised:
        Workspace(tmp_path / "ws").lock().__enter__()
    assert raised.value.exit_code == 4
    assert str(tmp_path / "ws") in str(raised.value)


def test_the_lock_of_a_killed_run_is_taken_over(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Workspace(tmp_path / "ws").lock():
        assert str(os.getpid()) in (tmp_path / "ws" / ".lock.json").read_text()


def test_the_lock_is_dropped_after_a_failure_too(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    with pytest.raises(RuntimeError), workspace.lock():
        raise RuntimeError
    with workspace.lock():
        pass
    assert not (tmp_path / "ws" / ".lock.json").exists()


def test_a_holder_that_left_no_readable_note_is_another_run(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    with workspace.lock():
        (tmp_path / "ws" / ".lock.json").write_text("{")
        with pytest.raises(WorkspaceBusyError, match="another run"), Workspace(tmp_path / "ws").lock():
            pass


def test_folders_are_made_on_demand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(Path("ws/../here"))
    assert workspace.root == tmp_path / "here"
    assert not workspace.root.exists()
    workspace.create()
    assert sorted(path.name for path in workspace.root.iterdir()) == sorted(FOLDERS)
    workspace.create()


def test_sweep_removes_what_killed_tasks_left_and_nothing_else(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    workspace.create()
    left = workspace.folder("stage1") / ".detector1.jw01345001001_02201_00001_nrcb1.0123abcd"
    (left / "products").mkdir(parents=True)
    product = workspace.folder("stage1") / "jw01345001001_02201_00001_nrcb1_rate.fits"
    product.write_text("x")
    assert workspace.leftovers() == [left]
    assert workspace.sweep(older_than_seconds=3600.0) == 0 and left.exists()
    assert workspace.sweep(older_than_seconds=0.0) == 1 and not left.exists()
    assert product.exists()


def test_sweep_behind_a_run_removes_what_its_own_tasks_left(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    workspace.create()
    runs = {"ours": '{"run": "ours"}', "other": '{"run": "other"}', "torn": '{"run": "ou', "none": None}
    left = {}
    for number, (name, job) in enumerate(runs.items()):
        left[name] = workspace.folder("stage2") / f".image2.jw01345001001_02201_0000{number}_nrcb1.0123abcd"
        left[name].mkdir()
        if job is not None:
            (left[name] / "job.json").write_text(job)
    assert workspace.sweep(older_than_seconds=3600.0, run="ours") == 1
    assert [name for name, folder in left.items() if folder.exists()] == ["other", "torn", "none"]


def test_the_holder_is_known_without_taking_the_lock(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    assert workspace.holder == ""
    with workspace.lock():
        assert f"process {os.getpid()} on {socket.gethostname()}" in workspace.holder
    assert workspace.holder == ""


def test_a_killed_run_holds_nothing(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    workspace.root.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    facts = {"host": socket.gethostname(), "pid": dead.pid, "start": "2026-01-01T00:00:00Z"}
    (workspace.root / ".lock.json").write_text(json.dumps(facts))
    assert workspace.holder == ""
    (workspace.root / ".lock.json").write_text(json.dumps({**facts, "host": "elsewhere"}))
    assert "on elsewhere, since 2026-01-01" in workspace.holder
    (workspace.root / ".lock.json").write_text("{")
    assert workspace.holder == ""


def test_a_workspace_that_cannot_be_made_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        Workspace(tmp_path / "file" / "ws").create()
