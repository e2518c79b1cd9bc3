"""Do harm to runs and tell what becomes of it.

    python benchmarks/harm.py [--only PATTERN] [--observatory DIR] [--real] [--json]

Each fault is made to happen in a run of the command line on four simulated exposures, with steps that write a few
bytes in place of the pipeline's (``--real``: poison exposures, through the real pipeline, as well). Told are the line
that names the fault, the exit code, the seconds from the fault to that line, and what is complete when the command
has ended. Small disks need root; without it these rows are left out, and named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from measure import ROOT, SURVEY, say, simulate

sys.path.insert(0, str(ROOT / "tests"))
from poison import POISON, make_poison
from small_disk import mounted
from stub_steps import ENVIRONMENT

from survey.simulate.faults import Fault
from survey.simulate.server import serve

SCENE = ROOT / "tests" / "whole_scene.yaml"
VICTIM = "jw01345001001_02201_00001_nrcblong"
MAX_SHOWN = 200  # letters of a line in the table
CONFIG = """\
survey: harm
program: 1345
archive: {{{archive}, timeout_seconds: 10}}
references: {{server: "{crds}", context: jwst_0001.pmap, cache: "{cache}"}}
limits: {{task_hours: {hours}, memory_factor: 1.0, workers_minutes: 0.1}}
mosaic: {{engine: {engine}, tile: 256, max_missing: {max_missing}, image3: {{tweakreg: {{expand_refcat: true}}}}}}
workspace: "{workspace}"
"""


@dataclass(frozen=True)
class Harm:
    """One fault, and how it is made to happen."""

    name: str
    faults: tuple[str, ...] = ()  # of the victim's attempts, as tests/stub_steps.py knows them
    shown: str = f"FAILED detector1/{VICTIM}"  # regular expression: the line that tells of it
    command: tuple[str, ...] = ("run",)
    max_missing: int = 0
    disk: str = ""  # size of a tmpfs that holds the workspace; ends in 'ro': it is made read-only
    workers: tuple[float, ...] | None = None  # a scheduler of its own whose workers declare so many GB
    blocked: bool = False  # a file lies where the workspace should be
    sizeless: bool = False  # the archive's rows do not tell sizes
    rerun: bool = False  # with the fault gone
    task_seconds: float = 3600.0  # limit of a task


@dataclass
class Found:
    """What became of it."""

    fault: str
    seen: str = ""
    exit_code: int = -1
    seconds: float | None = None  # from the fault to the line; from the command's start where nothing marks the fault
    kept: str = ""
    rerun: str = ""
    left_out: str = ""
    said: list[str] = field(default_factory=list)


HARMS = (
    Harm("a step raises", ("never",)),
    Harm("a step raises; one member may be missing", ("never",), max_missing=1, shown="made without"),
    Harm("a step calls sys.exit(0)", ("exit",)),
    Harm("a step calls os._exit(3)", ("os_exit",)),
    Harm("a step crashes (SIGSEGV)", ("segfault",)),
    Harm("a step aborts (SIGABRT)", ("abort",)),
    Harm("a step hangs; limit 10 s", ("sleep",), task_seconds=10.0),
    Harm("a step holds the interpreter lock; limit 10 s", ("hold_lock",), task_seconds=10.0),
    Harm("a step takes ever more memory, twice", ("memory_hog", "memory_hog")),
    Harm("a step is killed (SIGKILL), once", ("kill",), shown="tasks:"),
    Harm("an I/O error that passes", ("io",), shown="tasks:"),
    Harm("an I/O error that stays", ("io",) * 9),
    Harm("no worker has the memory", shown="the largest worker has", workers=(0.1,)),
    Harm("no worker at all; limit 6 s", shown="no worker", workers=()),
    Harm("a step fills the disk", ("fill_disk",), shown="No space left", disk="60m", rerun=True),
    Harm("the disk is too small for the run", shown="to write", disk="6m"),
    Harm("a download fills the disk", shown="no space left", disk="3m", sizeless=True, command=("fetch",), rerun=True),
    Harm("the workspace is read-only", shown="Read-only", disk="60m,ro"),
    Harm("a file is in the workspace's place", shown="workspace", blocked=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose name fits this regular expression")
    parser.add_argument("--observatory", type=Path, help="of tests/whole_scene.yaml; default: it is simulated")
    parser.add_argument("--real", action="store_true", help="poison exposures, through the real pipeline")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    os.environ.update(ENVIRONMENT)  # for the workers of schedulers in this process
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        observatory = given.observatory or folder / "observatory"
        simulate(observatory, SCENE)
        with serve(observatory) as server:
            rows = []
            for number, harm in enumerate(HARMS):
                if re.search(given.only, harm.name):
                    rows.append(do_harm(harm, folder / f"{number}", server))
                    say(row_text(rows[-1]))
            if given.real:
                rows += poisoned(folder / "poison", observatory, server)
    print(json.dumps([asdict(row) for row in rows], indent=1) if given.json else table(rows))


def do_harm(harm: Harm, folder: Path, server) -> Found:
    folder.mkdir()
    found = Found(harm.name)
    server.faults.clear()
    if harm.sizeless:
        server.faults.add(Fault(kind="row", columns={"size": None}))
    with contextlib.ExitStack() as stack:
        workspace = folder / "ws"
        if harm.disk:
            try:
                disk = stack.enter_context(mounted(folder / "disk", harm.disk.partition(",")[0]))
            except OSError as error:
                found.left_out = f"no small disk can be mounted here: {error}"
                return found
            workspace = disk.path / "ws"
        if harm.blocked:
            workspace.write_text("a file")
        else:
            workspace.mkdir(parents=True)
            plant(workspace, harm.faults)
        if harm.disk.endswith("ro"):
            disk.remount("ro")
        hours = f"{harm.task_seconds / 3600}"
        config = write_config(folder, server, workspace, max_missing=harm.max_missing, hours=hours)
        options = []
        if harm.workers is not None:
            options = ["--cluster", stack.enter_context(cluster(harm.workers))]
        watch(found, harm, [*SURVEY, *harm.command, config, *options], workspace)
        if harm.rerun:
            (workspace / "faults.json").unlink(missing_ok=True)
            (workspace / "filler").unlink(missing_ok=True)
            disk.remount("size=200m")
            before = len(complete(workspace))
            again = subprocess.run([*SURVEY, *harm.command, config], capture_output=True, text=True)
            word = f"{len(complete(workspace)) - before} tasks run" if harm.command == ("run",) else "the rest fetched"
            found.rerun = f"{again.returncode}: {word}"
    return found


def plant(workspace: Path, faults: tuple[str, ...]) -> None:
    (workspace / "faults.json").write_text(json.dumps({f"detector1/{VICTIM}": faults}))


def write_config(folder: Path, server, workspace: Path, max_missing: int = 0, archive: str = "", **more: str) -> Path:
    config = folder / "config.yaml"
    values = {
        "archive": archive or f'server: "{server.url}"', "crds": server.crds_url, "cache": folder.parent / "crds",
        "hours": "1", "engine": "stock", "max_missing": max_missing, "workspace": workspace, **more,
    }  # fmt: skip
    config.write_text(CONFIG.format(**values))
    return config


@contextlib.contextmanager
def cluster(workers: tuple[float, ...]) -> Iterator[str]:
    """The address of a scheduler whose workers declare so much memory [GB]."""
    from dask.distributed import LocalCluster

    resources = {"memory_gb": workers[0]} if workers else None
    with LocalCluster(
        n_workers=len(workers), threads_per_worker=1, processes=True, host="127.0.0.1", resources=resources,
        dashboard_address="127.0.0.1:0",
    ) as started:  # fmt: skip
        yield started.scheduler_address


def watch(found: Found, harm: Harm, command: list[object], workspace: Path) -> None:
    """Run a command and note when it tells of the fault."""
    began = time.time()
    process = subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    when = None
    try:
        for line in process.stderr or ():
            found.said.append(line.rstrip())
            if when is None and re.search(harm.shown, line):
                when, found.seen = time.time(), shortened(line, workspace)
    except KeyboardInterrupt:
        process.terminate()
        raise
    last = (process.stdout.read() if process.stdout else "").splitlines()
    found.exit_code = process.wait()
    if when is None:
        line = next((line for line in last if re.search(harm.shown, line)), "")
        when, found.seen = time.time(), shortened(line, workspace)
    found.seconds = round(when - (fault_time(workspace) or began), 1)
    mosaics = len(list((workspace / "mosaics").glob("*_i2d.fits"))) if workspace.is_dir() else 0
    raw = len(list((workspace / "raw").glob("*_uncal.fits"))) if workspace.is_dir() else 0
    found.kept = f"{raw} raw files, {len(complete(workspace))} tasks, {mosaics} mosaics"


def fault_time(workspace: Path) -> float | None:
    """When the victim's last attempt began."""
    with contextlib.suppress(OSError, IndexError):
        return float((workspace / "attempts" / f"detector1.{VICTIM}").read_text().split()[-1])
    return None


def complete(workspace: Path) -> list[str]:
    """Keys of the tasks that are complete."""
    paths = (workspace / "records").glob("*.json") if workspace.is_dir() else ()
    records = [json.loads(path.read_text()) for path in paths]
    return [record["key"] for record in records if record["status"] == "complete"]


def shortened(line: str, workspace: Path) -> str:
    """A line without what only this run knows."""
    line = line.strip().replace(str(workspace), "WORKSPACE")
    line = re.sub(r"jw01345-a3001_t001_nircam_clear-(f\d+[wmn])-sub320", r"MOSAIC-\1", line)
    return re.sub(r"jw01345001001_02201_(\d+)_(nrc\w+?)(?=[\W_]|$)", r"EXPOSURE-\1-\2", line)


def poisoned(folder: Path, observatory: Path, server) -> list[Found]:
    """One run of the real pipeline on four good exposures and one of each kind of poison."""
    say("poison, through the real pipeline")
    raw, workspace = folder / "raw", folder / "ws"
    raw.mkdir(parents=True)
    server.faults.clear()
    for path in (observatory / "raw").glob("*.fits"):
        shutil.copy(path, raw)
    made = make_poison(min(raw.glob("*_nrcblong_uncal.fits")), raw)
    config = write_config(folder, server, workspace, len(POISON), f'local: "{raw}"', engine="tiled")
    environment = {key: value for key, value in os.environ.items() if key != "SURVEY_PRELOAD"}
    done = subprocess.run([*SURVEY, "run", config, "--json"], capture_output=True, text=True, env=environment)
    said = json.loads(done.stdout)
    kept = f"4 good exposures, {len(said['mosaics'])} mosaics"
    return [poison_row(what, name, said, done.returncode, workspace, kept) for what, name in made.items()]


def poison_row(
    what: str, name: str, said: Mapping[str, dict[str, str]], code: int, workspace: Path, kept: str
) -> Found:
    cause = said["missing"].get(name) or said["failed"].get(f"detector1/{name}") or ""
    if not cause:
        return Found(f"exposure: {what}", "nothing: its pixels are taken as they are", code, None, kept)
    return Found(f"exposure: {what}", shortened(f"{name}: {cause}", workspace), code, None, kept)


def table(rows: list[Found]) -> str:
    head = "| fault | what the user sees | exit code | seconds until seen | kept | rerun |\n|---|---|---|---|---|---|"
    return "\n".join([head, *map(row_text, rows)])


def row_text(row: Found) -> str:
    if row.left_out:
        return f"| {row.fault} | left out: {row.left_out} | | | | |"
    seen = row.seen if len(row.seen) <= MAX_SHOWN else f"{row.seen[:MAX_SHOWN]}..."
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    return f"| {row.fault} | {seen} | {row.exit_code} | {seconds} | {row.kept} | {row.rerun} |"


if __name__ == "__main__":
    main()
