"""Run a command and tell what it cost: wall time, CPU time of all its processes, peak memory of the largest.

    python benchmarks/measure.py [COMMAND ...]      default: survey --help

The other scripts stand on this one, and find the demo through it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "runs" / "egs-demo"
OBSERVATORY = ROOT / "runs" / "observatory"
SURVEY = (sys.executable, "-m", "survey.cli")
_PR_SET_CHILD_SUBREAPER = 36
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss


@dataclass(frozen=True)
class Cost:
    """What a command took, by the operating system's accounting."""

    status: int  # exit code, or minus a signal
    wall_s: float
    cpu_s: float  # user and system, of every process that descends from the command
    peak_gb: float  # resident memory of the largest single process

    def __str__(self) -> str:
        return f"{self.wall_s:8.2f} s wall  {self.cpu_s:8.2f} s CPU  {self.peak_gb:6.2f} GB peak"


class CommandFailedError(RuntimeError):
    """A command that a benchmark stands on ended with an error."""


def measure(
    command: Sequence[str | Path],
    *,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    check: bool = True,
) -> Cost:
    """Run a command to its end and return its cost.

    A process of its own runs the command and adopts whatever outlives its parent (Linux), so that no CPU time is lost.

    Parameters
    ----------
    cwd : folder to run in
    environment : variables on top of this process's own
    log : where its output goes; default: nowhere

    Raises
    ------
    CommandFailedError
        It failed, and ``check`` is set.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "cost.json"
        output = Path(log) if log else Path(folder) / "output.txt"
        with open(output, "ab") as stream:
            subprocess.run(
                [sys.executable, __file__, "--report", str(report), *map(str, command)],
                cwd=cwd,
                env=survey_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                check=False,
            )
        cost = Cost(**json.loads(report.read_text()))
        if check and cost.status:
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-15:])
            raise CommandFailedError(f"{' '.join(map(str, command))}: ended with {cost.status}:\n{tail}")
    return cost


def survey_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, with this checkout's package in front, and `strun` and `survey` on the path."""
    environment = {**os.environ, **(extra or {})}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return environment


@contextlib.contextmanager
def served(observatory: Path):
    """An observatory's servers in a process of their own; yields the environment that leads configs to them."""
    server = subprocess.Popen(
        [*SURVEY, "serve", str(observatory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it says that it was interrupted, at the end
        text=True,
        env=survey_environment(),
    )
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            raise CommandFailedError(f"survey serve {observatory}: ended with {server.wait()}.")
        urls = json.loads(line)
        yield {"SURVEY_ARCHIVE_URL": urls["archive"], "SURVEY_CRDS_URL": urls["crds"]}
    finally:
        server.terminate()
        server.wait()


def make_demo(workspace: Path = DEMO, observatory: Path = OBSERVATORY) -> None:
    """Make the simulated observatory and the finished demo run, whichever is missing."""
    simulate(observatory, ROOT / "configs" / "scenes" / "demo.yaml")
    if not list(workspace.glob("mosaics/*_i2d.fits")):
        say(f"making the demo run {workspace}")
        with served(observatory) as environment:
            measure(demo_command(workspace), environment=environment)


def demo_command(workspace: Path) -> list[str]:
    return [*SURVEY, "run", str(ROOT / "configs" / "demo.yaml"), "--workspace", str(workspace)]


def simulate(directory: Path, scene: Path) -> None:
    """Simulate a scene, unless it is there: exposures.json is the last file that simulate writes."""
    if not (directory / "exposures.json").is_file():
        say(f"simulating {scene.name} in {directory}")
        measure([*SURVEY, "simulate", directory, "--scene", scene])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run_and_report(report: Path, command: Sequence[str]) -> None:
    """In the process of its own: run, adopt, wait for all, and write what was accounted."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    first = subprocess.Popen(command)
    status, wall, cpu, peak = 0, 0.0, 0.0, 0
    while True:
        try:
            pid, code, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss * _RSS_UNIT)
        if pid == first.pid:
            status, wall = os.waitstatus_to_exitcode(code), time.monotonic() - started
            first.returncode = status  # it was waited for here, not by subprocess
    report.write_text(json.dumps({"status": status, "wall_s": wall, "cpu_s": cpu, "peak_gb": peak / 1e9}))


def main() -> None:
    if sys.argv[1:2] == ["--report"]:
        _run_and_report(Path(sys.argv[2]), sys.argv[3:])
        return
    command = sys.argv[1:] or [*SURVEY, "--help"]
    print(f"{measure(command, cwd=Path.cwd())}  {' '.join(command)}")


if __name__ == "__main__":
    main()
