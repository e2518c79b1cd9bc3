"""Whether a machine's surroundings change pixels: ``python benchmarks/surroundings.py [NAME ...]``.

A small survey is run again and again, each time in other surroundings: variables of the shell, files in the home folder
and in the current one, limits of the shell, instructions of the processor. Every pixel of every product is compared
with that of a plain run, and so are the digests.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from equality import compare_files
from measure import ROOT, SURVEY, measure, say, served, simulate, survey_environment

from survey.workspace.records import read_records

SCENE = """\
name: surroundings
seed: 2718
program: 1345
target: EGS
ra_deg: 214.825
dec_deg: 52.825
roll_deg: -49.7
start: "2022-12-21T08:30:00"
detectors: [NRCBLONG]
filters: [F444W]
subarray: SUB320
readout: {pattern: SHALLOW4, groups: 5, integrations: 1}
observations:
  - {observation: 1, offset_arcsec: [0.0, 0.0], dithers: 2, dither_arcsec: 1.0}
pointing_errors: {shift_arcsec: 0.03, roll_arcsec: 10.0}
sky:
  radius_arcsec: 24.0
  stars: {number: 340, bright_mag: 19.8, faint_mag: 22.8, slope: 0.12, separation_arcsec: 1.2}
  galaxies: {number: 20, bright_mag: 20.5, faint_mag: 25.0, slope: 0.3, half_light_arcsec: [0.08, 0.4]}
  zodiacal_mjy_sr: {F444W: 0.35}
artifacts:
  cosmic_rays: {enabled: true}
  striping: {enabled: true, amplitude_e: 4.0}
"""
CONFIG = """\
survey: surroundings
program: 1345
archive: {server: "${SURVEY_ARCHIVE_URL}"}
references: {server: "${SURVEY_CRDS_URL}", context: jwst_0001.pmap, cache: CACHE}
steps: [{detector1: {}}, {subtract_striping: {}}, {image2: {}}]
mosaic: {tile: 256, image3: {tweakreg: {expand_refcat: true}}}
workspace: unused
"""
DEPLOY = "kind: local\ngroups: {one: {memory_gb: 8, maximum: 1}}\n"
ASTROPY = "[physical_constants]\nconstants = astropyconst13\n[utils.iers]\nauto_download = False\n"
TRAP = "raise RuntimeError('the module of the current folder')\n"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PACKAGES = ("asdf", "astropy", "dask", "jwst", "numpy", "photutils", "random", "scipy", "stcal", "stpipe", "yaml")


@dataclass(frozen=True)
class Surroundings:
    """What differs from the plain run."""

    variables: Mapping[str, str] = field(default_factory=dict)  # of the shell
    home: Mapping[str, str] = field(default_factory=dict)  # files in the home folder
    folder: Mapping[str, str] = field(default_factory=dict)  # files in the current folder
    commands: str = ""  # commands before the run
    path: Mapping[str, str] = field(default_factory=dict)  # modules in a folder of PYTHONPATH
    reaches: bool = False  # a task, and is recorded; else the run must be equal to the plain one


ALL: dict[str, Surroundings] = {
    "nothing": Surroundings(),
    "pipeline": Surroundings({
        "STPIPE_DISABLE_CRDS_STEPPARS": "true", "STRICT_VALIDATION": "1", "PASS_INVALID_VALUES": "1",
        "SKIP_FITS_UPDATE": "1", "SOURCE_DATE_EPOCH": "0", "NPY_PROMOTION_STATE": "legacy",
    }),
    "crds": Surroundings({
        "CRDS_CONTEXT": "jwst_9999.pmap", "CRDS_PATH": "/elsewhere", "CRDS_OBSERVATORY": "hst", "CRDS_MODE": "remote",
        "CRDS_READONLY_CACHE": "0", "CRDS_SERVER_URL": "http://127.0.0.1:9", "CRDS_PATH_SUBDIR_MODE": "instrument",
        "CRDS_INI_FILE": "/elsewhere.ini",
    }, home={".crds.ini": "[environment]\nCRDS_CONTEXT = jwst_9999.pmap\n"}),
    "python": Surroundings({
        "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONHASHSEED": "17", "PYTHONPATH": ":",
    }),
    "locale": Surroundings({"LC_ALL": "tr_TR.UTF-8", "LANG": "de_DE.UTF-8", "TZ": "Asia/Kolkata", "PYTHONUTF8": "0"}),
    "threads": Surroundings({**dict.fromkeys(THREADS, "7"), "NUMBA_DISABLE_JIT": "1", "NUMBA_CPU_NAME": "generic",
                             "FLEXIBLAS": "netlib", "MALLOC_ARENA_MAX": "1"}),
    "home": Surroundings(home={
        ".astropy/config/astropy.cfg": ASTROPY, ".config/astropy/astropy.cfg": ASTROPY,
        ".config/dask/mine.yaml": "distributed: {worker: {preload: [missing]}, dashboard: {link: '{NOT_SET}'}}\n",
        ".config/matplotlib/matplotlibrc": "image.interpolation: bicubic\n",
        ".config/asdf/config.yaml": "validate_on_read: false\n",
    }),
    "folder": Surroundings(folder={
        **{f"{name}.py": TRAP for name in PACKAGES}, "matplotlibrc": "backend: TkAgg\n",
        "setup.cfg": "[stpipe]\nskip = true\n", "calwebb_image3.cfg": "skip = true\n", "pars-tweakregstep.asdf": "",
        "pyproject.toml": "[tool.stpipe]\nskip = true\n",
    }),
    "limits": Surroundings(commands="umask 077; ulimit -s 1024; ulimit -n 256; ulimit -c unlimited"),
    # These reach the tasks.
    "four threads": Surroundings(path={"sitecustomize.py": (
        "import os, sys\n"
        "if 'survey.execution.children' in ' '.join(sys.orig_argv):\n"
        f"    os.environ.update(dict.fromkeys({THREADS}, '4'))\n"
    )}, reaches=True),
    "older processor": Surroundings({"OPENBLAS_CORETYPE": "Sandybridge"}, reaches=True),
    "no wide vectors": Surroundings({"NPY_DISABLE_CPU_FEATURES": (
        "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
    )}, reaches=True),
}  # fmt: skip


def together() -> Surroundings:
    """All surroundings that must not reach a task, at once."""
    items = [item for item in ALL.values() if not item.reaches]
    merged = {name: {k: v for item in items for k, v in getattr(item, name).items()}
              for name in ("variables", "home", "folder")}  # fmt: skip
    return Surroundings(**merged, commands="; ".join(filter(None, (item.commands for item in items))))


def run(scratch: Path, name: str, given: Surroundings, servers: Mapping[str, str]) -> Path:
    """Run the survey in these surroundings; its workspace."""
    base = scratch / name.replace(" ", "-")
    for kind, files in {"home": given.home, "folder": given.folder, "path": given.path}.items():
        (base / kind).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (base / kind / file).parent.mkdir(parents=True, exist_ok=True)
            (base / kind / file).write_text(text)
    path = [str(ROOT), *([given.variables["PYTHONPATH"]] if "PYTHONPATH" in given.variables else [])]
    path += [str(base / "path")] if given.path else []
    variables = {**given.variables, "HOME": str(base / "home"), "PYTHONPATH": ":".join(path)}
    command = shlex.join([*SURVEY, "run", str(scratch / "config.yaml"), "--workspace", str(base / "ws"),
                          "--cluster", str(scratch / "deploy.yaml")])  # fmt: skip
    # In the shell alone: the process that measures must not be in these surroundings.
    exported = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    lines = [f"cd {shlex.quote(str(base / 'folder'))}", given.commands or ":", f"exec env {exported} {command}"]
    measure(["bash", "-c", "\n".join(lines)], environment=survey_environment(servers))
    return base / "ws"


def compare(plain: Path, other: Path) -> dict[str, object]:
    """Unequal and all pixels of the products of two workspaces, and whether their digests are equal."""
    files = sorted(path.relative_to(plain) for stage in ("stage1", "stage2", "stage3", "mosaics")
                   for path in (plain / stage).glob("*.fits"))  # fmt: skip
    rows = {str(path): compare_files(plain / path, other / path) for path in files}
    digests = [{key: item.digest for key, item in read_records(folder / "records").by_key.items()}
               for folder in (plain, other)]  # fmt: skip
    return {
        "files": len(files),
        "unequal": sum(item["unequal"] for row in rows.values() for item in row.values()),
        "pixels": sum(item["pixels"] for row in rows.values() for item in row.values()),
        "unequal files": [name for name, row in rows.items() if any(item["unequal"] for item in row.values())],
        "equal digests": digests[0] == digests[1],
        "in effect": sorted({f"{name}={value}" for item in read_records(other / "records").by_key.values()
                             for name, value in item.environment.items()}),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"'together', or of {', '.join(ALL)}; default: each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scratch", type=Path, help="folder that is kept")
    given = parser.parse_args()
    chosen = {name: together() if name == "together" else ALL[name] for name in given.names or ALL}
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = (given.scratch or Path(folder)).absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "scene.yaml").write_text(SCENE)
        (scratch / "config.yaml").write_text(CONFIG.replace("CACHE", str(scratch / "crds")))
        (scratch / "deploy.yaml").write_text(DEPLOY)
        simulate(scratch / "observatory", scratch / "scene.yaml")
        with served(scratch / "observatory") as servers:
            plain = scratch / "plain" / "ws"
            if not list(plain.glob("mosaics/*_i2d.fits")):
                run(scratch, "plain", Surroundings(), servers)
            for name, surroundings in chosen.items():
                found = compare(plain, run(scratch, name, surroundings, servers))
                faults += bool(found["unequal"]) and not surroundings.reaches
                faults += not found["equal digests"]
                say(f"{name}: {found['unequal']} of {found['pixels']} pixels differ")
                print(json.dumps({"surroundings": name, **found}) if given.json else f"{name:18} {found}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
