"""What the checks cost: ``python benchmarks/checks.py [--repeat 2] [--exposure-seconds 24] [--json]``.

First each check alone, on files of the sizes of a NIRCam full frame of five groups: the raw file 42 MB, rate and cal
117 MB each; their sum beside what Detector1 and Image2 of such an exposure take (field: 22 s and 2 s of one core). Then
whole runs of a small scene with all checks, and with them patched out: hashes, flushes, the look at structure, ramps
and images, and the watch over memory. CPU seconds are of all processes; wall seconds are worth something on a quiet
machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import ROOT, measure, say, served, simulate

from survey.execution.children import PRELOAD, WATCH_SECONDS

SCENE = ROOT / "tests" / "whole_scene.yaml"
SIDE, GROUPS = 2048, 5
PLANES = 7  # of float32 that make 117 MB
CONFIG = """\
survey: checks
program: 1345
archive: {{server: "${{SURVEY_ARCHIVE_URL}}"}}
references: {{server: "${{SURVEY_CRDS_URL}}", context: jwst_0001.pmap, cache: "{folder}/crds"}}
steps: [detector1: {{}}, subtract_striping: {{}}, image2: {{}}]
mosaic: {{tile: 256, image3: {{tweakreg: {{expand_refcat: true}}}}}}
workspace: "{workspace}"
"""


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        run_once(Path(sys.argv[3]), sys.argv[2] == "on")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--exposure-seconds", type=float, default=24.0, help="CPU time of one exposure to its cal file")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    beside = Path(os.environ.get("TMPDIR", ROOT / "runs"))  # a disk, where the temporary folder may be memory
    beside.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside) as name:
        found = {"full_frame": full_frame(Path(name), given.exposure_seconds)}
        if given.repeat:
            found["small_scene"] = small_scene(Path(name), given.repeat)
    print(json.dumps(found, indent=1) if given.json else text(found))


# --- one full frame ---------------------------------------------------------------------------------------------


def full_frame(folder: Path, exposure_seconds: float) -> dict[str, object]:
    """Seconds of each check, and of all checks that one exposure goes through until its cal file is read again."""
    from survey.archive.structure import check_structure
    from survey.digest import file_sha256
    from survey.execution.child_memory import family, held_gb
    from survey.steps.sanity import check_image, check_ramp

    say("checks of one full frame")
    raw, rate = write_files(folder)
    raw_fsync, rate_fsync = flush_seconds(raw), flush_seconds(rate)
    each = {
        "sha256 of the raw file": least(lambda: file_sha256(raw)),
        "structure of the raw file": least(lambda: check_structure(raw)),
        "flush of the raw file": raw_fsync,
        "the raw file's ramp": least(lambda: check_ramp(raw, "raw")),
        "sha256 of a rate or cal file": least(lambda: file_sha256(rate)),
        "flush of a rate or cal file": rate_fsync,
        "the pixels of a rate or cal file": least(lambda: check_image(rate, "rate")),
        "one look at a child's memory": least(lambda: held_gb(family(os.getpid())), 50),
    }
    # Raw: hashed and walked as it arrives, hashed and looked at by Detector1. Rate and cal: hashed and flushed as they
    # are published, looked at by the step that made them, hashed by the task that reads them.
    of_raw = ("sha256 of the raw file", "structure of the raw file", "flush of the raw file", "the raw file's ramp")
    of_products = ("sha256 of a rate or cal file", "flush of a rate or cal file", "the pixels of a rate or cal file")
    total = sum(each[name] for name in of_raw) + each["sha256 of the raw file"]
    total += 2 * (sum(each[name] for name in of_products) + each["sha256 of a rate or cal file"])
    total += each["one look at a child's memory"] * exposure_seconds / WATCH_SECONDS
    return {
        "raw_mb": raw.stat().st_size / 1e6, "rate_mb": rate.stat().st_size / 1e6, "seconds": each,
        "seconds_per_exposure": total, "exposure_seconds": exposure_seconds, "share": total / exposure_seconds,
    }  # fmt: skip


def write_files(folder: Path) -> tuple[Path, Path]:
    """A raw file and a rate or cal file of a full frame, of noise."""
    from astropy.io import fits

    rng = np.random.default_rng(3)
    ramp = np.cumsum(rng.integers(0, 900, (1, GROUPS, SIDE, SIDE), dtype="uint16"), axis=1, dtype="uint16")
    image = rng.normal(size=(SIDE, SIDE)).astype("float32")
    primary = fits.PrimaryHDU()
    fits.HDUList([primary, fits.ImageHDU(ramp, name="SCI")]).writeto(folder / "a_uncal.fits")
    planes = [fits.ImageHDU(image, name=f"PLANE{number}") for number in range(PLANES - 2)]
    flags = fits.ImageHDU(np.zeros((SIDE, SIDE), "uint32"), name="DQ")
    fits.HDUList([primary, fits.ImageHDU(image, name="SCI"), flags, *planes]).writeto(folder / "a_rate.fits")
    return folder / "a_uncal.fits", folder / "a_rate.fits"


def flush_seconds(path: Path) -> float:
    """Of a copy whose bytes were just written."""
    copy = path.with_suffix(".copy")
    with open(copy, "wb") as stream:
        stream.write(path.read_bytes())
        stream.flush()
        began = time.perf_counter()
        os.fsync(stream.fileno())
        seconds = time.perf_counter() - began
    copy.unlink()
    return seconds


def least(check: Callable[[], object], times: int = 3) -> float:
    """Shortest of several runs [s]."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        check()
        found.append(time.perf_counter() - began)
    return min(found)


# --- whole runs -------------------------------------------------------------------------------------------------


def small_scene(folder: Path, repeat: int) -> dict[str, object]:
    """Runs with and without checks, in turns."""
    simulate(folder / "observatory", SCENE)
    costs: dict[str, list[dict[str, float]]] = {"on": [], "off": []}
    preload = ",".join([*PRELOAD, "checks:switch_off_in_children"])
    with served(folder / "observatory") as environment:
        for number in range(2 * repeat):
            switch = "off" if number % 2 else "on"
            say(f"run {number + 1} of {2 * repeat}: checks {switch}")
            config = folder / f"{number}.yaml"
            config.write_text(CONFIG.format(folder=folder, workspace=folder / f"ws{number}"))
            extra = {"PYTHONPATH": str(Path(__file__).parent)}
            extra |= {"SURVEY_PRELOAD": preload} if switch == "off" else {}
            cost = measure([sys.executable, __file__, "--one", switch, config], environment={**environment, **extra})
            costs[switch].append({"wall_s": cost.wall_s, "cpu_s": cost.cpu_s})
    on, off = (min(item["cpu_s"] for item in costs[switch]) for switch in ("on", "off"))
    return {"runs": costs, "cpu_s": {"on": on, "off": off}, "share": (on - off) / off}


def run_once(config: Path, checks: bool) -> None:
    """A whole run in this process: client, scheduler, two workers with a thread each; their children do the work."""
    import survey
    from survey.execution.children import close_idle

    if not checks:
        switch_off()
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        done = survey.run(survey.load_config(config), client=client)
        close_idle()
    if done.failed or done.missing:
        sys.exit(f"{len(done.failed)} tasks failed: {done.failed[:1]}")


class _AnyDigest(str):
    """Equal to every digest."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def switch_off() -> None:
    """In the client and its workers."""
    from survey.archive import raw
    from survey.archive.structure import read_hdus
    from survey.config.limits import Limits
    from survey.execution import inputs as reads
    from survey.execution import publication

    nothing = "0" * 64
    publication.file_sha256 = raw.file_sha256 = lambda path: nothing
    publication.tree_sha256 = lambda path: (nothing, 0)
    reads._known_sha256 = lambda path: _AnyDigest(nothing)
    raw.check_structure = read_hdus
    os.fsync = lambda descriptor: None
    Limits.memory_gb = lambda *_: 0.0


def switch_off_in_children() -> None:
    from survey.steps import exposure

    exposure.check_ramp = lambda *_: None
    exposure.check_image = lambda *_: 1.0


def text(found: dict) -> str:
    frame = found["full_frame"]
    lines = [f"{name:36s}{1000 * seconds:9.2f} ms" for name, seconds in frame["seconds"].items()]
    lines.append(
        f"all of one exposure to its cal file: {frame['seconds_per_exposure']:.2f} s, "
        f"{100 * frame['share']:.1f} % of its {frame['exposure_seconds']:.0f} s"
    )
    if "small_scene" in found:
        scene = found["small_scene"]
        lines += [
            f"small scene, checks {switch}: "
            + ", ".join(f"{run['cpu_s']:.1f} s CPU {run['wall_s']:.1f} s" for run in runs)
            for switch, runs in scene["runs"].items()
        ]
        lines.append(f"checks of the small scene: {100 * scene['share']:.1f} % of its CPU time")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
