"""Run each task in a child process, forked from a server process that has the pipeline imported.

A worker starts the server as a subprocess, which works in any dask worker (daemonic or threaded), and sends it one line
of JSON for each job. The server forks; the child runs the job and writes ``result.json`` into the job's folder; the
server answers with the operating system's accounting: exit status, CPU seconds, peak memory. The server exits when its
standard input closes, and kills its child: so both end with the worker, whatever ended that.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.execution.child_memory import family, held_gb
from survey.isolation import isolated, own_home

# Modules to import, and 'module:function' to call, before the first child.
PRELOAD = (
    "jwst.pipeline",
    "jwst.associations",
    "survey.planning.associations",
    "survey.mosaics.groups",
    "survey.steps.warm:warm_up",
)
# An environment variable that replaces the list (names separated by commas), for jobs that do not need the pipeline,
# whose import takes 12 s.
PRELOAD_VARIABLE = "SURVEY_PRELOAD"
START_SECONDS = 300.0  # to import the pipeline: 12 s on a small machine, minutes on a slow shared file system
RESULT = "result.json"
WATCH_SECONDS = 0.2  # between two looks at a child's memory; a look takes 0.1 ms
TAIL_BYTES = 1500  # of a server's standard error, for a message
_PR_SET_PDEATHSIG = 1
_KB = 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """Exit status, time and memory of a child, as the operating system accounts them."""

    status: int  # as os.waitstatus_to_exitcode: 0, an exit code, or minus a signal
    seconds: float
    cpu_seconds: float
    peak_gb: float
    over_gb: float = 0.0  # memory of it and its descendants when it was killed for exceeding the limit; 0: it was not
    limit_gb: float = 0.0  # that limit; 0: none


class ChildServer:
    """The worker's handle of a server process. It runs one job at a time, and is not shared between threads."""

    def __init__(self, environment: Mapping[str, str]):
        self.environment = dict(environment)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open as long as the server runs
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "survey.execution.children"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=isolated(os.environ) | self.environment,
            start_new_session=True,  # so that Control-C reaches the client only, which stops its workers
        )
        self._pid = 0
        self._answers = b""  # received, and not returned by `_line` yet

    def run(self, function: str, folder: Path, log: Path, limit_seconds: float, limit_gb: float = 0.0) -> Usage:
        """Run 'module:function' in a child, with the job's folder as its only argument.

        Parameters
        ----------
        function : 'module:function'
        folder : of the job; the child may write into it
        log : file to which the child's standard output and error are appended
        limit_seconds : wall-clock limit [s]
        limit_gb : memory that the child and its descendants may hold before they are killed [GB]; 0: no limit

        Returns
        -------
        usage : of a child that has ended, however it ended

        Raises
        ------
        TaskError
            Class 'again': the server has ended or does not answer. Class 'never': the job ran longer than its limit
            and was killed.
        """
        started = time.monotonic()
        self._send({"function": function, "folder": str(folder), "log": str(log), "limit_gb": limit_gb})
        self._pid = int(self._receive(START_SECONDS + limit_seconds)["pid"])
        # The server's import counts in the seconds of the first job, but not against its limit.
        answer = self._receive(limit_seconds, on_timeout=self._kill_child)
        if answer.get("killed"):
            raise TaskError(
                f"ran longer than its limit of {limit_seconds:.0f} s and was stopped; {log.name} shows how far it got. "
                "Raise limits.task_hours in the config to allow more."
            )
        seconds = time.monotonic() - started
        cpu, peak, over = (float(answer[name]) for name in ("cpu_seconds", "peak_gb", "over_gb"))
        return Usage(int(answer["status"]), seconds, cpu, peak, over, limit_gb)

    def close(self) -> None:
        """Stop the server and its child."""
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    @property
    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process.poll() is None

    def _send(self, message: dict[str, Any]) -> None:
        stdin = self._process.stdin
        try:
            if stdin is None:
                raise BrokenPipeError
            stdin.write(json.dumps(message).encode() + b"\n")
        except (OSError, ValueError) as error:
            raise self._gone("has ended") from error

    def _receive(self, limit_seconds: float, on_timeout: Callable[[], None] | None = None) -> dict[str, Any]:
        line, killed = self._line(limit_seconds), False
        if line is None and on_timeout is not None:
            on_timeout()
            line, killed = self._line(30.0), True
        if not line:
            ended = line == b""
            self._process.kill()
            raise self._gone("has ended" if ended else f"did not answer within {limit_seconds:.0f} s")
        return {**json.loads(line), "killed": killed}

    def _gone(self, what: str) -> TaskError:
        """The error for a server that can run no more jobs, with the end of its standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._errors.tell() - TAIL_BYTES, 0))
        tail = self._errors.read().decode(errors="replace").strip()
        shown = f" Its last lines:\n{tail}" if tail else ""
        return TaskError(f"the process that starts child processes {what}.{shown}", retry="again")

    def _line(self, limit_seconds: float) -> bytes | None:
        """The server's next line; empty when the server has ended, None when no line came within the limit.

        Both answers to a short job can arrive in one read. The rest is kept in ``_answers``, and not in a buffered
        stream, where `select` would not see it.
        """
        stdout = self._process.stdout
        end = time.monotonic() + limit_seconds
        while stdout is not None and b"\n" not in self._answers:
            if not select.select([stdout], [], [], max(end - time.monotonic(), 0.0))[0]:
                return None
            block = stdout.read(65536)
            if not block:
                return b""
            self._answers += block
        line, _, self._answers = self._answers.partition(b"\n")
        return line

    def _kill_child(self) -> None:
        _kill(self._pid)


_idle: dict[tuple[tuple[str, str], ...], list[ChildServer]] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def child_server(environment: Mapping[str, str]) -> Any:
    """Context manager: a server with this environment, new or idle. It is kept for later jobs unless a job raises.

    Parameters
    ----------
    environment : variables that the server and its children get beside those of `survey.isolation.isolated`

    Returns
    -------
    server : ChildServer
    """
    key = tuple(sorted(environment.items()))
    with _lock:
        idle = _idle.setdefault(key, [])
        server = next((idle.pop() for _ in range(len(idle)) if idle[-1].alive), None)
    server = server or ChildServer(environment)
    try:
        yield server
    except BaseException:
        server.close()
        raise
    with _lock:
        _idle[key].append(server)


def close_idle() -> None:
    """Stop every idle server of this process."""
    with _lock:
        servers = [server for idle in _idle.values() for server in idle]
        _idle.clear()
    for server in servers:
        server.close()


def serve() -> None:
    """Be the server: import the pipeline, then run a child for each line of standard input until that closes."""
    with tempfile.TemporaryDirectory(prefix="survey-home-") as home:
        own_home(home)
        _serve()


def _serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the imports print must not be taken for an answer
    chosen = os.environ.get(PRELOAD_VARIABLE)
    for name in PRELOAD if chosen is None else filter(None, chosen.split(",")):
        module_name, _, function_name = name.partition(":")
        module = importlib.import_module(module_name)
        if function_name:
            getattr(module, function_name)()
    gc.collect()
    gc.freeze()  # children share these objects, and their garbage collections skip them
    own = os.getpid()
    for line in _lines():
        job = json.loads(line)
        if _worker_is_gone():
            return
        pid = os.fork()
        if pid == 0:
            _child(job, own)
        _reply(replies, {"pid": pid})
        _reply(replies, _wait(pid, float(job["limit_gb"])))


def _worker_is_gone() -> bool:
    """Whether the worker ended after it sent a job, such as during the import. Another worker has the task then."""
    poll = select.poll()
    poll.register(0, 0)  # reports only that the other end has closed, even when there are unread lines
    return bool(poll.poll(0))


def _lines() -> Any:
    """Lines of standard input, unbuffered, so that `_wait` notices when it closes."""
    pending = b""
    while block := os.read(0, 65536):
        pending += block
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            yield line


def _wait(pid: int, limit_gb: float) -> dict[str, Any]:
    """Wait until a child ends, and kill it when it exceeds its memory limit [GB].

    When standard input closes meanwhile, kill the child and exit.
    """
    process = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    pause = WATCH_SECONDS if process is None or limit_gb else None
    over_gb = most_gb = 0.0
    while True:
        watched = [0] if process is None else [0, process]
        ready, _, _ = select.select(watched, [], [], pause)
        if 0 in ready:
            _kill(pid)
            raise SystemExit(0)  # not os._exit, so that the home folder is removed
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if limit_gb and not over_gb:
            held, over = _check_memory(pid, limit_gb)
            most_gb = max(most_gb, held)
            over_gb = held if over else 0.0
    _kill(pid, whole=False)  # processes that it started and that are still there
    if process is not None:
        os.close(process)
    # Linux counts ru_maxrss in kB, macOS in bytes. It includes the pages shared with the server: the imported pipeline.
    peak = usage.ru_maxrss * (_KB if sys.platform != "darwin" else 1) / 1e9
    code = os.waitstatus_to_exitcode(status)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return {"status": code, "cpu_seconds": cpu_seconds, "peak_gb": max(peak, most_gb), "over_gb": over_gb}


def _check_memory(pid: int, limit_gb: float) -> tuple[float, bool]:
    """Memory of a child and its descendants [GB], and whether it exceeds the limit: then they are killed."""
    processes = family(pid)
    held = held_gb(processes)
    if held > limit_gb and len(processes) > 1:  # pages that forks share were counted twice
        held = held_gb(processes, exact=True)
    if held <= limit_gb:
        return held, False
    _kill(pid)
    for process in processes[1:]:  # also those that left the child's process group
        _kill(process)
    return held, True


def _kill(pid: int, whole: bool = True) -> None:
    """Kill a child and its process group, which may not exist yet; not ``whole``: the group only."""
    for kill in (os.killpg, os.kill) if whole else (os.killpg,):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _reply(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _child(job: dict[str, Any], server: int) -> None:
    """Run a job in a child that the server has just forked, and exit. This does not return."""
    status = 70
    try:
        os.setpgid(0, 0)
        _die_with_parent(server)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file, which would be gigabytes
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        module_name, _, function_name = job["function"].partition(":")
        getattr(importlib.import_module(module_name), function_name)(job["folder"])
        status = 0
    except SystemExit as error:
        # A step that calls sys.exit() has not succeeded: there is no result file.
        print(f"the task called sys.exit({error.code!r})", file=sys.stderr)
    except BaseException:  # noqa: BLE001 - any error goes to the log and the exit code
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _die_with_parent(server: int) -> None:
    """Have Linux kill this child when the server ends; exit now when the server has ended already.

    The server itself cannot do so: Linux would kill it with the thread that started it, and a worker's threads are
    short-lived.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(70)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):  # the worker is gone, and waits for no answer
        serve()
