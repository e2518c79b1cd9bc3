"""The tiled engine's pixels against stock's: ``python benchmarks/tiles.py``.

The demo's calibrated exposures go through Image3 by ``engine: stock`` once for each grid, and by ``engine: tiled`` with
several tile sizes and numbers of workers. Compared bit by bit: mosaics (sci, err, wht, var_*, con), segmentation maps,
flagged exposures, and every keyword of their headers. ``--picture`` draws a mosaic with its tiles and the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from equality import compare_files
from measure import DEMO, OBSERVATORY, ROOT, SURVEY, make_demo, measure, say, served

GRIDS: dict[str, dict[str, Any]] = {
    "default": {},
    "rotated": {"pixel_scale_arcsec": 0.021, "crval_deg": [214.8252, 52.8255], "crpix": [640.3, 655.0],
                "rotation_deg": -28.2, "shape": [1330, 1310]},
}  # fmt: skip
ALIGN = {"tweakreg": {"expand_refcat": True}}
# Of a header; times, and what says which engine it was.
UNLIKE = {"DATE", "SVYDIGST", "SVYENGIN", "SVYNCORR", "CHECKSUM", "DATASUM", "", "COMMENT", "HISTORY"}


def run(folder: Path, name: str, mosaic: dict[str, Any], workers: int, servers: dict[str, str]) -> Path:
    """Image3 of the demo's cal files, which are linked, by a config; returns the workspace."""
    workspace = folder / name
    skip = shutil.ignore_patterns(".lock*", "mosaics", "stage3", "asn", "provenance.zarr", ".provenance")
    shutil.copytree(DEMO, workspace, copy_function=os.link, ignore=skip, symlinks=True)
    for path in (workspace / "records").glob("*.json"):
        if path.name.split(".")[0] not in ("detector1", "subtract_striping", "image2"):
            path.unlink()
    facts = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    facts |= {"mosaic": {**mosaic, "image3": ALIGN}, "workspace": str(workspace)}
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(facts))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(cores)[:workers]))
    try:
        cost = measure([*SURVEY, "run", config], environment=servers, log=folder / f"{name}.log")
    finally:
        os.sched_setaffinity(0, cores)
    say(f"{name:28s}{cost}")
    return workspace


def unequal_keywords(one: Path, other: Path) -> int:
    with fits.open(one) as first, fits.open(other) as second:
        found = int([hdu.name for hdu in first] != [hdu.name for hdu in second])
        for hdu in first:
            if hdu.name != "ASDF" and hdu.name in second:
                cards, others = hdu.header, second[hdu.name].header
                found += sum(cards.get(key) != others.get(key) for key in {*cards, *others} - UNLIKE)
    return found


def compare(tiled: Path, stock: Path) -> dict[str, int]:
    """Unequal elements by product and extension, and unequal keywords."""
    rows: dict[str, int] = defaultdict(int)
    for place in ("mosaics", "stage3"):
        for path in sorted((stock / place).glob("*.fits")):
            ours, kind = tiled / place / path.name, path.stem.rpartition("_")[2]
            for name, row in compare_files(ours, path).items():
                rows[f"{kind} {name}"] += row["unequal"]
                rows["elements"] += row["pixels"]
            rows["keywords"] += unequal_keywords(ours, path)
    return dict(rows)


def draw(tiled: Path, stock: Path, side: int, path: Path) -> None:
    """A mosaic with its tile borders, and its difference from stock's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    name = sorted((stock / "mosaics").glob("*_i2d.fits"))[0].name
    ours, theirs = (fits.getdata(folder / "mosaics" / name, "SCI") for folder in (tiled, stock))
    figure, axes = plt.subplots(1, 2, figsize=(13, 6.4))
    low, high = np.nanpercentile(ours[ours != 0], [1, 99.5])
    axes[0].imshow(np.arcsinh((ours - low) / (0.1 * (high - low))), origin="lower", cmap="gray")
    for number in range(0, max(ours.shape) + side, side):
        axes[0].axvline(number - 0.5, color="tab:orange", lw=0.7)
        axes[0].axhline(number - 0.5, color="tab:orange", lw=0.7)
    axes[0].set(xlim=(-0.5, ours.shape[1] - 0.5), ylim=(-0.5, ours.shape[0] - 0.5), title=f"{name}\ntiles of {side}")
    difference = ours - theirs
    unequal = int((np.isnan(ours) != np.isnan(theirs)).sum() + np.count_nonzero(np.nan_to_num(difference)))
    shown = axes[1].imshow(difference, origin="lower", cmap="coolwarm", vmin=-1e-6, vmax=1e-6)
    axes[1].set_title(f"tiled - stock [MJy/sr]: {unequal} of {ours.size} pixels differ")
    figure.colorbar(shown, ax=axes[1], shrink=0.8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    make_demo()
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix=".tiles-", dir=DEMO.parent) as name, served(OBSERVATORY) as servers:
        folder = Path(name)
        for grid in given.grids:
            stock = run(folder, f"{grid}-stock", {"engine": "stock", **GRIDS[grid]}, max(given.workers), servers)
            for side in given.tiles:
                for workers in given.workers:
                    label = f"{grid}-tiles-{side}-workers-{workers}"
                    tiled = run(folder, label, {"engine": "tiled", "tile": side, **GRIDS[grid]}, workers, servers)
                    found[label] = compare(tiled, stock)
                    if given.picture and not given.picture.exists():
                        draw(tiled, stock, side, given.picture)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for label, rows in found.items():
        differing = {key: count for key, count in rows.items() if count and key != "elements"}
        print(f"{label:36s}{rows['elements']} elements compared; unequal: {differing or 'none'}")


if __name__ == "__main__":
    main()
