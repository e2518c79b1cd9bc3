"""Jobs for the children's tests: each a function of the job's folder, run in a forked child."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def write_result(folder):
    print("to standard output")
    print("to standard error", file=sys.stderr)
    os.write(1, b"past python\n")
    (Path(folder) / "result.json").write_text("{}")


def call_sys_exit(folder):
    sys.exit(0)


def call_os_exit(folder):
    os._exit(7)


def raise_error(folder):
    raise ValueError("the job's own error")


def be_killed(folder):
    os.kill(os.getpid(), signal.SIGKILL)


def abort(folder):
    os.abort()


def segfault(folder):
    ctypes.string_at(0)


def sleep(folder):
    (Path(folder) / "pid").write_text(str(os.getpid()))
    time.sleep(60)


def sleep_with_a_child(folder):
    process = subprocess.Popen(["sleep", "60"])
    (Path(folder) / "grandchild").write_text(str(process.pid))
    process.wait()


def kill_server(folder):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def spin(folder):
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass


def take_memory(folder):
    (Path(folder) / "size").write_text(str(len(b"x" * 300_000_000)))


def write_environment(folder):
    (Path(folder) / "environment").write_text("\n".join(f"{name}={value}" for name, value in os.environ.items()))
