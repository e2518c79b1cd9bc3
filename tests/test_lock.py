"""One run at a time: real processes, SIGKILL, and notes of other hosts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_workspace import HOLD

from survey.errors import WorkspaceBusyError
from survey.workspace import lock
from survey.workspace.folders import Workspace
from survey.workspace.lock import NOTE, Holder, current_holder, read_holder

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
RACE = """
import sys, time
from pathlib import Path
from survey.errors import WorkspaceBusyError
from survey.workspace.folders import Workspace
while not (Path(sys.argv[1]) / "go").exists():
    time.sleep(0.001)
try:
    with Workspace(Path(sys.argv[1])).lock():
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except WorkspaceBusyError as error:
    print(error.exit_code, error, flush=True)
"""
CONFIG = """
survey: t
program: 1345
archive: {{local: {folder}}}
references: {{server: null, context: jwst_0001.pmap, cache: {folder}}}
workspace: {folder}/ws
"""


def write_note(root: Path, **facts) -> Path:
    root.mkdir(exist_ok=True)
    (root / ".lock").touch()
    note = {"host": socket.gethostname(), "pid": os.getpid(), "start": "2026-01-01T00:00:00Z", **facts}
    (root / NOTE).write_text(json.dumps(note))
    return root / NOTE


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_run_says_who_it_is_and_leaves_nothing(tmp_path):
    workspace = Workspace(tmp_path)
    with workspace.lock() as run:
        holder = read_holder(tmp_path)
        assert (holder.host, holder.pid, holder.run) == (socket.gethostname(), os.getpid(), run)
        assert workspace.is_held_by(run) and workspace.is_held_by("") and not workspace.is_held_by("another")
        assert current_holder(tmp_path)
    assert not (tmp_path / NOTE).exists() and not current_holder(tmp_path)
    assert not workspace.is_held_by(run)


def test_the_lock_of_a_killed_process_is_taken_over_with_a_line_in_the_log(tmp_path, caplog):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert read_holder(tmp_path).pid == holder.pid  # it could not clean up
    with Workspace(tmp_path).lock():
        assert read_holder(tmp_path).pid == os.getpid()
    (line,) = caplog.messages
    assert f"took over the lock of process {holder.pid} on {socket.gethostname()}" in line and "has ended" in line


def test_a_killed_process_that_nobody_has_waited_for_holds_nothing(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert current_holder(tmp_path)
        holder.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it ended, and stays a zombie
        assert not current_holder(tmp_path)
        with Workspace(tmp_path).lock():
            assert read_holder(tmp_path).pid == os.getpid()
    finally:
        holder.wait()
        holder.stdout.close()


@pytest.mark.parametrize("pid", [-1, 0, 10**30])
def test_a_note_with_the_number_of_no_process_holds_nothing(tmp_path, pid):
    write_note(tmp_path, pid=pid)
    with Workspace(tmp_path).lock():
        assert read_holder(tmp_path).pid == os.getpid()


def test_a_pipe_in_the_notes_place_stops_nobody(tmp_path):
    write_note(tmp_path).unlink()
    os.mkfifo(tmp_path / NOTE)
    assert current_holder(tmp_path) is None
    with Workspace(tmp_path).lock():
        assert read_holder(tmp_path).pid == os.getpid()


def test_the_command_says_it_too(tmp_path):
    """On standard error, whatever it ends with."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    pid = dead_process()
    write_note(tmp_path / "ws", pid=pid)
    done = subprocess.run(
        [sys.executable, "-m", "survey.cli", "fetch", str(config)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert f"took over the lock of process {pid}" in done.stderr
    write_note(tmp_path / "ws", host="node7", pid=12)
    done = subprocess.run(
        [sys.executable, "-m", "survey.cli", "fetch", str(config)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 4
    assert "process 12 on node7" in done.stderr and f"remove {tmp_path / 'ws' / NOTE}" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_hosts_note_counts_until_it_is_removed(tmp_path, caplog):
    note = write_note(tmp_path, host="node7", pid=12)
    os.utime(note, (time.time() - 500, time.time() - 500))
    assert current_holder(tmp_path)
    with pytest.raises(WorkspaceBusyError, match=r"process 12 on node7.*last active (499|50\d) s ago") as raised:
        Workspace(tmp_path).lock().__enter__()
    assert raised.value.exit_code == 4
    assert f"remove {note}" in str(raised.value)
    note.unlink()
    with Workspace(tmp_path).lock():
        assert caplog.messages == []


def test_a_live_process_of_this_host_counts_where_the_file_system_has_no_locks(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        write_note(tmp_path, pid=other.pid)
        with pytest.raises(WorkspaceBusyError, match=f"process {other.pid}"):
            Workspace(tmp_path).lock().__enter__()
        write_note(tmp_path, pid=other.pid, born=1.0)  # the number came again: another process had it
        with Workspace(tmp_path).lock():
            pass
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", '{"host": 1}', '{"host": "a", "pid": "x", "start": ""}', "[" * 100_000,
        '{"host": "a", "pid": 1e999, "start": ""}',
    ],
)  # fmt: skip
def test_a_note_that_cannot_be_read_is_nobodys(tmp_path, content, caplog):
    write_note(tmp_path).write_text(content)
    with Workspace(tmp_path).lock():
        assert read_holder(tmp_path).pid == os.getpid()
    assert "no readable file" in caplog.text


def test_a_run_leaves_anothers_note_alone(tmp_path):
    """It was taken over by hand, meanwhile."""
    with Workspace(tmp_path).lock() as run:
        write_note(tmp_path, host="node7", run="another")
        assert not Workspace(tmp_path).is_held_by(run)
    assert read_holder(tmp_path) == Holder("node7", os.getpid(), "2026-01-01T00:00:00Z", "another")


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    with Workspace(tmp_path).lock():
        os.utime(tmp_path / NOTE, (1.0, 1.0))
        end = time.monotonic() + 10
        while (tmp_path / NOTE).stat().st_mtime < 2.0 and time.monotonic() < end:
            time.sleep(0.02)
        assert (tmp_path / NOTE).stat().st_mtime > 2.0


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_several_processes_one_gets_it(tmp_path, left_behind):
    if left_behind:
        write_note(tmp_path, pid=dead_process())
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), "8"], stdout=subprocess.PIPE, text=True,
                         env=ENVIRONMENT)
        for _ in range(4)
    ]  # fmt: skip
    (tmp_path / "go").touch()
    lines = [racer.stdout.readline() for racer in racers]
    for racer in racers:
        racer.kill()
        racer.wait()
        racer.stdout.close()
    assert lines.count("held\n") == 1
    assert sum(line.startswith("4 ") for line in lines) == 3
