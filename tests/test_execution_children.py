"""Children of the worker: every way in which a job can end, with a server that imports nothing heavy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from survey.errors import TaskError
from survey.execution.children import ChildServer, child_server, close_idle

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc")

TESTS = Path(__file__).parent
ENVIRONMENT = {"SURVEY_PRELOAD": "", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}


@pytest.fixture(scope="module")
def shared():
    server = ChildServer(ENVIRONMENT)
    yield server
    server.close()


@pytest.fixture
def own():
    server = ChildServer(ENVIRONMENT)
    yield server
    server.close()


def run(server: ChildServer, name: str, folder: Path, limit_seconds: float = 20.0, limit_gb: float = 0.0):
    return server.run(f"child_jobs:{name}", folder, folder / "log", limit_seconds, limit_gb)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def read_when_there(path: Path) -> int:
    assert wait_until(lambda: path.is_file() and path.read_text())
    return int(path.read_text())


def test_a_job_runs_and_its_output_goes_to_the_log(shared, tmp_path):
    usage = run(shared, "write_result", tmp_path)
    assert usage.status == 0
    assert (tmp_path / "result.json").read_text() == "{}"
    log = (tmp_path / "log").read_text()
    assert {"to standard output", "to standard error", "past python"} <= set(log.splitlines())


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("call_sys_exit", 70, "the task called sys.exit(0)"),
        ("call_os_exit", 7, ""),
        ("raise_error", 70, "ValueError: the job's own error"),
        ("no_such_function", 70, "AttributeError"),
        ("be_killed", -signal.SIGKILL, ""),
        ("abort", -signal.SIGABRT, ""),
        ("segfault", -signal.SIGSEGV, ""),
    ],
)
def test_however_a_job_ends_the_server_goes_on(shared, tmp_path, name, status, words):
    assert run(shared, name, tmp_path).status == status
    assert words in (tmp_path / "log").read_text()
    assert not (tmp_path / "result.json").exists()
    assert run(shared, "write_result", tmp_path).status == 0


def test_a_job_beyond_its_limit_is_killed_with_all_that_it_started(shared, tmp_path):
    began = time.monotonic()
    with pytest.raises(TaskError, match=r"limit of 1 s") as raised:
        run(shared, "sleep_with_a_child", tmp_path, limit_seconds=1.0)
    assert raised.value.retry == "never"
    assert time.monotonic() - began < 10
    grandchild = read_when_there(tmp_path / "grandchild")
    assert wait_until(lambda: not is_alive(grandchild))
    assert run(shared, "write_result", tmp_path).status == 0


def test_a_job_that_holds_the_interpreter_lock_is_killed_at_its_limit(shared, tmp_path):
    began = time.monotonic()
    with pytest.raises(TaskError, match=r"limit of 1 s"):
        run(shared, "hold_the_interpreter_lock", tmp_path, limit_seconds=1.0)
    assert time.monotonic() - began < 10
    assert run(shared, "write_result", tmp_path).status == 0


@linux
def test_a_job_beyond_its_memory_is_ended(shared, tmp_path):
    usage = run(shared, "take_more_and_more", tmp_path, limit_gb=0.3)
    assert usage.status == -signal.SIGKILL
    # It takes 0.1 GB between two looks; a busy machine may look later.
    assert 0.3 < usage.over_gb < 3.0
    assert usage.limit_gb == 0.3
    assert run(shared, "write_result", tmp_path, limit_gb=0.3).over_gb == 0


@linux
def test_memory_of_what_a_job_starts_counts_and_goes_with_it(shared, tmp_path):
    usage = run(shared, "let_a_child_take_more", tmp_path, limit_gb=0.3)
    assert usage.over_gb > 0.3
    grandchild = read_when_there(tmp_path / "grandchild")  # in a session of its own, where no group's signal reaches
    assert wait_until(lambda: not is_alive(grandchild))


@linux
@pytest.mark.parametrize("name", ["share_memory_with_forks", "map_a_file"])
def test_memory_that_is_shared_or_can_be_dropped_is_not_counted_again(shared, tmp_path, name):
    usage = run(shared, name, tmp_path, limit_gb=0.35)
    assert (usage.status, usage.over_gb) == (0, 0.0)


def test_what_a_job_leaves_behind_ends_with_it(shared, tmp_path):
    assert run(shared, "leave_a_child_behind", tmp_path).status == 0
    grandchild = read_when_there(tmp_path / "grandchild")
    assert wait_until(lambda: not is_alive(grandchild))


def test_a_crash_leaves_no_core_file(shared, tmp_path):
    assert run(shared, "tell_core_limit", tmp_path).status == 0
    assert (tmp_path / "core").read_text() == "0"


def test_paths_with_spaces_and_letters_of_any_language(shared, tmp_path):
    folder = tmp_path / "möbel und 星 'x'"
    folder.mkdir()
    assert run(shared, "write_result", folder).status == 0
    assert "past python" in (folder / "log").read_text()


def test_a_server_killed_in_a_job_is_worth_another_try(own, tmp_path):
    with pytest.raises(TaskError) as raised:
        run(own, "kill_server", tmp_path)
    assert raised.value.retry == "again"
    with pytest.raises(TaskError) as raised:
        run(own, "write_result", tmp_path)
    assert raised.value.retry == "again"
    assert not own.alive


def test_cpu_seconds_and_peak_memory_are_the_jobs_own(shared, tmp_path):
    spun = run(shared, "spin", tmp_path)
    assert 0.4 <= spun.cpu_seconds < 0.9  # 0.4 s are spun; forking and importing cost little beside it
    assert spun.seconds >= 0.4
    taken = run(shared, "take_memory", tmp_path)
    assert (tmp_path / "size").read_text() == "300000000"
    assert taken.peak_gb - spun.peak_gb == pytest.approx(0.3, abs=0.03)  # pages shared with the server come and go
    assert spun.peak_gb < 0.2


def test_closing_the_server_ends_its_child(own, tmp_path):
    own._send({"function": "child_jobs:sleep", "folder": str(tmp_path), "log": str(tmp_path / "log")})
    pid = read_when_there(tmp_path / "pid")
    own.close()
    assert wait_until(lambda: not is_alive(pid))
    assert not own.alive


def test_a_killed_worker_takes_its_child_along(tmp_path):
    code = (
        "import pathlib, sys; from survey.execution.children import ChildServer; folder = pathlib.Path(sys.argv[1])\n"
        "server = ChildServer({}); (folder / 'server').write_text(str(server._process.pid))\n"
        "server.run('child_jobs:sleep', folder, folder / 'log', 60.0)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, **ENVIRONMENT})
    child = read_when_there(tmp_path / "pid")
    server = read_when_there(tmp_path / "server")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert wait_until(lambda: not is_alive(child) and not is_alive(server))


def test_a_server_starts_no_job_of_a_worker_that_is_gone(tmp_path):
    (tmp_path / "slow_import.py").write_text("import time\ntime.sleep(0.5)\n")
    environment = {**os.environ, **ENVIRONMENT, "SURVEY_PRELOAD": "slow_import"}
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    server = subprocess.Popen([sys.executable, "-m", "survey.execution.children"], env=environment,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    job = {"function": "child_jobs:write_result", "folder": str(tmp_path), "log": str(tmp_path / "log"), "limit_gb": 0}
    answers, _ = server.communicate(json.dumps(job).encode() + b"\n", timeout=60)  # and the pipe closes
    assert server.returncode == 0
    assert answers == b""
    assert not (tmp_path / "result.json").exists()


def test_a_server_is_kept_for_the_next_job_and_dropped_after_a_failure(tmp_path):
    close_idle()
    try:
        with child_server(ENVIRONMENT) as first:
            run(first, "write_result", tmp_path)
        with child_server(ENVIRONMENT) as second:
            assert second is first
        with pytest.raises(TaskError), child_server(ENVIRONMENT) as third:
            run(third, "sleep", tmp_path, limit_seconds=0.2)
        assert not third.alive
        with child_server({**ENVIRONMENT, "OTHER": "1"}) as other:
            assert other is not first
    finally:
        close_idle()
    assert not other.alive


def test_an_idle_server_that_died_is_not_used_again(tmp_path):
    close_idle()
    try:
        with child_server(ENVIRONMENT) as first:
            run(first, "write_result", tmp_path)
        first._process.kill()
        first._process.wait()
        with child_server(ENVIRONMENT) as second:
            assert second is not first
            assert run(second, "write_result", tmp_path).status == 0
    finally:
        close_idle()
