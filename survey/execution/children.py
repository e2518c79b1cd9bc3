"""Child processes for pipeline tasks: one process a task, forked from a server that has the pipeline imported.

A worker starts the server as a plain subprocess (so it works below any dask worker, daemonic or threaded) and sends it
one JSON line a job; the server forks, the child runs the job and leaves ``result.json`` in the job's folder, and the
server answers with what the operating system accounted: exit status, CPU seconds, peak memory. The server ends, and
takes its child along, when its standard input closes: when the worker is gone, whatever killed it.
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
# Names others, with commas between them, for jobs that do without the pipeline's twelve seconds.
PRELOAD_VARIABLE = "SURVEY_PRELOAD"
START_SECONDS = 300.0  # importing the pipeline: 12 s on a small machine, minutes on a slow shared file system
RESULT = "result.json"
WATCH_SECONDS = 0.2  # between two looks at a child's memory; a look takes 0.1 ms
LAST_WORDS = 1500  # bytes of a server's errors, for a message
_PR_SET_PDEATHSIG = 1
_KB = 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What a child cost, by the operating system's accounting."""

    status: int  # as os.waitstatus_to_exitcode: 0, an exit code, or minus a signal
    seconds: float
    cpu_seconds: float
    peak_gb: float
    over_gb: float = 0.0  # what it held, with all that it had started, when it was ended for it; 0: it was not
    limit_gb: float = 0.0  # what it was allowed to hold; 0: no limit


class ChildServer:
    """A server of children, seen from the worker. One job at a time; not shared between threads."""

    def __init__(self, environment: Mapping[str, str]):
        self.environment = dict(environment)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "survey.execution.children"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=isolated(os.environ) | self.environment,
            start_new_session=True,  # Control-C belongs to the client, which stops its workers in order
        )
        self._pid = 0
        self._answers = b""  # read and not yet taken

    def run(self, function: str, folder: Path, log: Path, limit_seconds: float, limit_gb: float = 0.0) -> Usage:
        """Run 'module:function' in a child, with the job's folder as its only argument.

        Parameters
        ----------
        limit_seconds : wall-clock limit
        limit_gb : memory that the child and all that it starts may hold before they are ended; 0: any

        Raises
        ------
        TaskError
            Class 'again': the server is gone. Class 'never': the job ran longer than its limit and was killed.
        """
        started = time.monotonic()
        self._send({"function": function, "folder": str(folder), "log": str(log), "limit_gb": limit_gb})
        self._pid = int(self._receive(START_SECONDS + limit_seconds)["pid"])
        # The import counts towards the first job's seconds, not towards its limit.
        answer = self._receive(limit_seconds, on_timeout=self._kill_child)
        if answer.get("killed"):
            raise TaskError(
                f"ran longer than its limit of {limit_seconds:.0f} s and was stopped; {log.name} says how far it came. "
                "limits.task_hours in the config allows more."
            )
        seconds = time.monotonic() - started
        cpu, peak, over = (float(answer[name]) for name in ("cpu_seconds", "peak_gb", "over_gb"))
        return Usage(int(answer["status"]), seconds, cpu, peak, over, limit_gb)

    def close(self) -> None:
        """End the server and its child."""
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
        """The error for a server that can run nothing more, with the end of what it wrote."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._errors.tell() - LAST_WORDS, 0))
        words = self._errors.read().decode(errors="replace").strip()
        shown = f" Its last lines:\n{words}" if words else ""
        return TaskError(f"the process that starts child processes {what}.{shown}", retry="again")

    def _line(self, limit_seconds: float) -> bytes | None:
        """The server's next line; empty when the server is gone, None when none came within the limit.

        Both answers of a short job can come in one read, so what is left of it is kept here: a buffered stream would
        hide it from `select`.
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
    """A server with this environment, kept for the next job of this process when it is still well."""
    key = tuple(sorted(environment.items()))
    with _lock:
        waiting = _idle.setdefault(key, [])
        server = next((waiting.pop() for _ in range(len(waiting)) if waiting[-1].alive), None)
    server = server or ChildServer(environment)
    try:
        yield server
    except BaseException:
        server.close()
        raise
    with _lock:
        _idle[key].append(server)


def close_idle() -> None:
    """End every server that waits for work in this process."""
    with _lock:
        servers = [server for waiting in _idle.values() for server in waiting]
        _idle.clear()
    for server in servers:
        server.close()


def serve() -> None:
    """The server's life: import, then a child per line until standard input closes."""
    with tempfile.TemporaryDirectory(prefix="survey-home-") as home:
        own_home(home)
        _serve()


def _serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the imports print must not look like an answer
    chosen = os.environ.get(PRELOAD_VARIABLE)
    for name in PRELOAD if chosen is None else filter(None, chosen.split(",")):
        module_name, _, function_name = name.partition(":")
        module = importlib.import_module(module_name)
        if function_name:
            getattr(module, function_name)()
    gc.collect()
    gc.freeze()  # children share these objects; collections in them need not walk them
    own = os.getpid()
    for line in _lines():
        job = json.loads(line)
        if _is_deserted():
            return
        pid = os.fork()
        if pid == 0:
            _child(job, own)
        _reply(replies, {"pid": pid})
        _reply(replies, _wait(pid, float(job["limit_gb"])))


def _is_deserted() -> bool:
    """Whether the worker is gone that sent a job: while this process still imported, say. Another has the task now."""
    poll = select.poll()
    poll.register(0, 0)  # nothing but the other end's closing, which lines that were not read do not hide
    return bool(poll.poll(0))


def _lines() -> Any:
    """Lines of standard input, unbuffered, so that `_wait` can see it close."""
    pending = b""
    while block := os.read(0, 65536):
        pending += block
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            yield line


def _wait(pid: int, limit_gb: float) -> dict[str, Any]:
    """Wait for a child, and end it when it holds more than its limit; when standard input closes meanwhile, end it and
    this process.
    """
    process = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    pause = WATCH_SECONDS if process is None or limit_gb else None
    over_gb = most_gb = 0.0
    while True:
        watched = [0] if process is None else [0, process]
        ready, _, _ = select.select(watched, [], [], pause)
        if 0 in ready:
            _kill(pid)
            raise SystemExit(0)  # not os._exit: the home folder goes as well
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if limit_gb and not over_gb:
            held, over = _look(pid, limit_gb)
            most_gb = max(most_gb, held)
            over_gb = held if over else 0.0
    _kill(pid, whole=False)  # what it started and left behind
    if process is not None:
        os.close(process)
    # Linux counts ru_maxrss in kB. A fork starts with its parent's pages, which are the pipeline's import.
    peak = usage.ru_maxrss * (_KB if sys.platform != "darwin" else 1) / 1e9
    code = os.waitstatus_to_exitcode(status)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return {"status": code, "cpu_seconds": cpu_seconds, "peak_gb": max(peak, most_gb), "over_gb": over_gb}


def _look(pid: int, limit_gb: float) -> tuple[float, bool]:
    """What a child and its descendants hold [GB], and whether that was too much: then they are ended."""
    processes = family(pid)
    held = held_gb(processes)
    if held > limit_gb and len(processes) > 1:  # forks count shared pages twice
        held = held_gb(processes, exact=True)
    if held <= limit_gb:
        return held, False
    _kill(pid)
    for process in processes[1:]:  # those that left the child's group
        _kill(process)
    return held, True


def _kill(pid: int, whole: bool = True) -> None:
    """End a child and whatever it started, or (not ``whole``) what is left of its group; that may not exist yet."""
    for end in (os.killpg, os.kill) if whole else (os.killpg,):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(pid, signal.SIGKILL)


def _reply(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _child(job: dict[str, Any], server: int) -> None:
    """Run a job in the child that a server forked, and end it; nothing returns from here."""
    status = 70
    try:
        os.setpgid(0, 0)
        _die_with_parent(server)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not fill the disk with gigabytes of its memory
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        module_name, _, function_name = job["function"].partition(":")
        getattr(importlib.import_module(module_name), function_name)(job["folder"])
        status = 0
    except SystemExit as error:
        # sys.exit() inside a step must not look like success: no result file is there.
        print(f"the task called sys.exit({error.code!r})", file=sys.stderr)
    except BaseException:  # noqa: BLE001 - whatever it is, it ends in the log and in the exit code
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _die_with_parent(server: int) -> None:
    """Ask Linux to end this child when the server ends, or end it now when the server came first.

    Not for the server itself: Linux means the thread that started it, and a worker's threads come and go.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(70)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):  # the worker is gone: nobody is left to answer
        serve()
