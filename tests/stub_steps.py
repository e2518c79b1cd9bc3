"""Steps that make a few bytes in place of the pipeline's, for tests of what runs them.

`install` puts them into the registry. A child process does so as its server imports this module, named in
SURVEY_PRELOAD. The workspace's ``faults.json`` ({task key: [fault of the first attempt, of the second, ...]}) makes
attempts fail; ``attempts/`` holds a line for each attempt.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import survey.steps.registry
from survey.digest import digest
from survey.errors import TaskError
from survey.execution.task import blank_record
from survey.models import COMPLETE, Exposure
from survey.steps.base import Job, Outcome, Step

TESTS = Path(__file__).parent
ENVIRONMENT = {"SURVEY_PRELOAD": "stub_steps", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}


def install(registry=survey.steps.registry.REGISTRY) -> None:
    for name, step in registry.items():
        registry[name] = replace(step, run="stub_steps:run")


def run(job: Job, step: Step) -> Outcome:
    root = job.path.parents[1]
    os.chdir(root)  # where some faults work
    fail(root, job.key)
    if step.per_mosaic and step.produces == "zarr":
        group = job.settings["group"]
        (job.path / "store" / group).mkdir(parents=True)
        (job.path / "store" / group / "zarr.json").write_text(content(job))
        return Outcome(((f"store/{group}", f"mosaics/mosaics.zarr/{group}"),))
    extension = "json" if step.produces == "asn" else "fits"
    name = f"{job.subject}_{step.produces}.{extension}"
    (job.path / name).write_text(content(job))
    made = [(name, f"{step.folder}/{name}")]
    if step.produces == "asn":
        for source in map(Path, job.inputs):
            (job.path / source.name).symlink_to(Path("..") / source.parent.name / source.name)
            made.append((source.name, f"asn/{source.name}"))
    return Outcome(tuple(made), resolved=dict(job.settings), measurements={"inputs": len(job.inputs)})


def content(job: Job) -> str:
    """What a stub writes: it stands on all that a real step's pixels stand on."""
    read = {Path(path).name: Path(path).read_text(errors="replace") for path in job.inputs}
    facts = {
        "step": job.step,
        "settings": dict(job.settings),
        "references": dict(job.references),
        "missing": list(job.missing),
    }
    return digest({**facts, "read": read})


def fail(root: Path, key: str) -> None:
    log = root / "attempts" / key.replace("/", ".")
    log.parent.mkdir(exist_ok=True)
    with open(log, "a") as stream:
        stream.write(f"{time.time()}\n")
    number = len(log.read_text().splitlines()) - 1
    path = root / "faults.json"
    faults = json.loads(path.read_text()).get(key, []) if path.exists() else []
    fault = faults[number] if number < len(faults) else "none"
    print(f"{key}: attempt {number}, fault {fault}", flush=True)
    time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
    FAULTS[fault]()


def take_memory(step: int = 100_000_000) -> None:
    """Hold more and more memory, for half a minute at most."""
    held = []
    for _ in range(300):
        held.append(b"x" * step)
        time.sleep(0.1)


def fill_disk() -> None:
    """Write into the workspace until nothing fits any more."""
    with open("filler", "wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)


def _raise(error: BaseException) -> None:
    raise error


FAULTS = {
    "none": lambda: None,
    "never": lambda: _raise(ValueError("bad pixels")),
    "again": lambda: _raise(TaskError("the disk blinked", retry="again")),
    "io": lambda: _raise(OSError(errno.EIO, "Input/output error")),
    "memory": lambda: _raise(MemoryError("no 9 GB")),
    "disk": lambda: _raise(OSError(errno.ENOSPC, "No space left on device")),
    "fill_disk": fill_disk,
    "exit": lambda: sys.exit(0),
    "os_exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "memory_hog": take_memory,
    "hold_lock": lambda: ctypes.PyDLL(None).sleep(60),  # a call that keeps the interpreter's lock
    "sleep": lambda: time.sleep(60),
    "hang": lambda: time.sleep(600),
    "wait": lambda: time.sleep(1),
    "tell_temporary": lambda: _raise(ValueError(tempfile.gettempdir())),
}


def asleep(seconds: float, task, *rest):
    """In place of `survey.execution.task.run_task`: the worker itself sleeps, and nothing is written."""
    time.sleep(seconds)
    return replace(blank_record(task), status=COMPLETE, seconds=seconds)


# --- for the tests' own process ----------------------------------------------------------------------------------


class FakeReferences:
    """References as a plan asks for them: a file for each of a few types, one flat per detector."""

    context = "jwst_0001.pmap"
    types = ("dark", "flat", "gain", "ipc", "mask", "photom")
    exposures = ()  # for which files were looked for in vain
    cache = str(TESTS / "no_cache")

    def __init__(self, changed: tuple[str, ...] = (), unknown: tuple[str, ...] = (), replaced=None):
        self.changed = changed  # files that hold other bytes
        self.replaced = dict(replaced or {})  # file -> the one that another context has in its place
        self.unknown = unknown  # exposures that were not looked up
        self.asked: list[str] = []

    def for_step(self, exposure, types):
        from survey.errors import ReferencesError

        if exposure in self.unknown:
            raise ReferencesError(f"{exposure}: no references were looked up for it")
        self.asked += types
        detector = exposure.rpartition("_")[2]
        names = {kind: f"{detector}_{kind}.fits" for kind in types if kind in self.types}
        return {kind: self.replaced.get(name, name) for kind, name in names.items()}

    @property
    def files(self):
        return _Hashes(self.changed)


class _Hashes(dict):
    def __init__(self, changed):
        super().__init__()
        self._changed = changed

    def __missing__(self, name):
        return digest([name, name in self._changed])[:40]


def exposure(number: int, detector: str = "NRCB1", filter_name: str = "F200W", sha256: str | None = "") -> Exposure:
    """An exposure of observation 1, program 1345; the default sha256 is made up from its name."""
    name = f"jw01345001001_02101_{number:05d}_{detector.lower()}"
    return Exposure(
        name=name, program=1345, observation=1, visit=1, detector=detector, filter=filter_name, subarray="SUB320",
        groups=5, integrations=1, size=1000, sha256=digest(name) if sha256 == "" else sha256,
    )  # fmt: skip


if "stub_steps" in os.environ.get("SURVEY_PRELOAD", "").split(","):
    tempfile.gettempdir()  # as imports do: Python remembers the answer
    install()
