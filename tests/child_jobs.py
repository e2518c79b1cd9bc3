"""Jobs for the children's tests: each a function of the job's folder, run in a forked child."""

from __future__ import annotations

import ctypes
import os
import resource
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


def take_more_and_more(folder):
    held = []
    for _ in range(100):
        held.append(b"x" * 50_000_000)
        time.sleep(0.1)


def let_a_child_take_more(folder):
    code = "import time\nheld = []\nfor _ in range(100):\n held.append(b'x' * 50_000_000)\n time.sleep(0.1)\n"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    (Path(folder) / "grandchild").write_text(str(process.pid))
    process.wait()


def share_memory_with_forks(folder):
    """250 MB in four processes that share them: 250 MB, though each of the four says so."""
    held = b"x" * 250_000_000
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            time.sleep(1.0)
            os._exit(len(held) % 7)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)


def map_a_file(folder):
    """Read 400 MB of a file through a mapping: pages that the kernel can drop."""
    import mmap

    path = Path(folder) / "large"
    with open(path, "wb") as stream:
        stream.truncate(400_000_000)
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        total = sum(mapped[at] for at in range(0, len(mapped), 4096))
        (Path(folder) / "total").write_text(str(total))
        time.sleep(0.6)


def leave_a_child_behind(folder):
    process = subprocess.Popen(["sleep", "60"])
    (Path(folder) / "grandchild").write_text(str(process.pid))


def tell_core_limit(folder):
    (Path(folder) / "core").write_text(str(resource.getrlimit(resource.RLIMIT_CORE)[0]))


def hold_the_interpreter_lock(folder):
    ctypes.PyDLL(None).sleep(60)


def write_home(folder):
    home = os.environ["HOME"]
    (Path(folder) / "home").write_text(f"{home}\n{Path.cwd()}\n{os.listdir(home)}\n")
