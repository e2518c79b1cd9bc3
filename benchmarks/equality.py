"""A workspace's products against the plain pipeline's, to the bit: ``python benchmarks/equality.py [WORKSPACE]``.

Each product is made again from the same input file with the settings of its record, by ``Detector1Pipeline.call``,
``Image2Pipeline.call``, ``Image3Pipeline.call`` and, for a correction in between, the ``call`` of its Step.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from measure import DEMO, make_demo, say, survey_environment

from survey.models import COMPLETE, TaskRecord
from survey.references import References, worker_environment
from survey.steps.registry import REGISTRY
from survey.workspace.records import read_records


def unequal_pixels(ours: np.ndarray, plain: np.ndarray) -> int:
    """Number of elements whose bits differ; two NaN are equal whatever their bits."""
    if ours.shape != plain.shape or ours.dtype != plain.dtype:
        return max(ours.size, plain.size)
    native = [np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))) for array in (ours, plain)]
    bits = [array.view(f"u{array.dtype.itemsize}") for array in native]
    differ = bits[0] != bits[1]
    if native[0].dtype.kind == "f":
        differ &= ~(np.isnan(native[0]) & np.isnan(native[1]))
    return int(differ.sum())


def compare_files(ours: Path, plain: Path) -> dict[str, dict[str, int]]:
    """Unequal and all pixels of every image extension of two FITS files."""
    rows: dict[str, dict[str, int]] = {}
    with fits.open(ours) as first, fits.open(plain) as second:
        names = [[hdu.name for hdu in hdus if hdu.is_image and hdu.size] for hdus in (first, second)]
        for name in dict.fromkeys(names[0] + names[1]):
            if name not in names[0] or name not in names[1]:
                there = (first if name in names[0] else second)[name].data
                rows[name] = {"unequal": int(there.size), "pixels": int(there.size)}
                continue
            unequal = unequal_pixels(first[name].data, second[name].data)
            rows[name] = {"unequal": unequal, "pixels": int(first[name].data.size)}
    return rows


def call_plain(record: TaskRecord, source: Path, output: Path) -> None:
    """Run a record's Step class by its own ``call``, with the record's settings."""
    module, _, name = REGISTRY[record.step].step_class.partition(":")
    own = {key: value for key, value in record.settings.items() if not isinstance(value, Mapping)}
    steps = {key: dict(value) for key, value in record.settings.items() if isinstance(value, Mapping)}
    given = {**own, "steps": steps} if steps else own
    output.mkdir(parents=True)
    getattr(importlib.import_module(module), name).call(str(source), save_results=True, output_dir=str(output), **given)


def compare_exposure(name: str, records: Mapping[str, TaskRecord], workspace: Path, scratch: Path) -> dict[str, Any]:
    """All steps of one exposure, each from the workspace's own input of that step."""
    found: dict[str, Any] = {}
    source = workspace / "raw" / f"{name}_uncal.fits"
    chain = [name for name, step in REGISTRY.items() if step.chained]
    for record in (records[f"{step}/{name}"] for step in chain if f"{step}/{name}" in records):
        step = REGISTRY[record.step]
        folder = scratch / f"{record.step}-{name}"
        folder.mkdir(parents=True)
        given = folder / f"{name}_{step.accepts}.fits"
        given.symlink_to(source.resolve())
        call_plain(record, given, folder / "plain")
        for product in record.products:
            made = folder / "plain" / Path(product.path).name
            lone = sorted((folder / "plain").glob("*.fits"))
            plain = made if made.is_file() or len(lone) != 1 else lone[0]  # a lone Step names its product itself
            found[product.path] = compare_files(workspace / product.path, plain)
        source = workspace / step.folder / f"{name}_{step.produces}.fits"
    return found


def compare_mosaic(record: TaskRecord, workspace: Path, scratch: Path) -> dict[str, Any]:
    """Image3 on the workspace's own association; the i2d and every crf."""
    folder = scratch / record.step
    call_plain(record, (workspace / "asn" / f"{record.subject}_asn.json").resolve(), folder / record.subject)
    paths = [product.path for product in record.products if product.path.endswith(("_i2d.fits", "_crf.fits"))]
    return {path: compare_files(workspace / path, folder / record.subject / Path(path).name) for path in paths}


def compare_tiled(
    record: TaskRecord, records: Mapping[str, TaskRecord], workspace: Path, scratch: Path
) -> dict[str, Any]:
    """The same for a mosaic that was made in parts: plain Image3 with the parameters that the parts were given."""
    parts: dict[str, Any] = {}
    members, paths = record.settings["members"], [f"mosaics/{record.subject}_i2d.fits"]
    for other in records.values():
        of_mosaic = other.subject.startswith(record.subject) or any(other.subject.startswith(name) for name in members)
        if of_mosaic and other.step not in ("detector1", "image2"):
            for key, value in other.settings.items():
                if isinstance(value, Mapping):  # each task holds those of its own steps, some only a part of them
                    parts.setdefault(key, {}).update(value)
        if of_mosaic and other.step == "outliers":
            paths += [product.path for product in other.products]
    output = scratch / "tiled" / record.subject
    call_plain(
        replace(record, step="image3", settings=parts),
        (workspace / "asn" / f"{record.subject}_asn.json").resolve(),
        output,
    )
    return {path: compare_files(workspace / path, output / Path(path).name) for path in paths}


def choose(records: Mapping[str, TaskRecord], number: int) -> list[str]:
    """Exposures to compare: different detectors first."""
    names = sorted({record.subject for record in records.values() if record.step == "detector1"})
    detectors: dict[str, int] = {}
    order = []
    for name in names:
        detector = name.rpartition("_")[2]
        order.append((detectors.setdefault(detector, 0), detector, name))
        detectors[detector] += 1
    return [name for *_, name in sorted(order)][: number or None]


def compare(workspace: Path, exposures: int, mosaics: bool) -> dict[str, Any]:
    records = {key: item for key, item in read_records(workspace / "records").by_key.items() if item.status == COMPLETE}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="equality-", dir=workspace) as folder:
        for name in choose(records, exposures):
            say(f"plain pipeline: {name}")
            found |= compare_exposure(name, records, workspace, Path(folder))
        for record in records.values():
            if mosaics and record.step == "image3":
                say(f"plain pipeline: {record.subject}")
                found |= compare_mosaic(record, workspace, Path(folder))
            if mosaics and record.step == "assemble":
                say(f"plain pipeline: {record.subject}")
                found |= compare_tiled(record, records, workspace, Path(folder))
    return found


def show(found: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
    kinds: dict[str, dict[str, list[int]]] = {}
    for path, arrays in found.items():
        kind = kinds.setdefault(path.removesuffix(".fits").rpartition("_")[2], {})
        for name, row in arrays.items():
            total = kind.setdefault(name, [0, 0, 0])
            for number, value in enumerate((1, row["unequal"], row["pixels"])):
                total[number] += value
    print(f"{'product':10s} {'array':14s} {'files':>6s} {'pixels':>12s} {'unequal':>9s}")
    for kind, arrays in kinds.items():
        for name, (files, unequal, pixels) in arrays.items():
            print(f"{kind:10s} {name:14s} {files:6d} {pixels:12d} {unequal:9d}")
    worst = [path for path, arrays in found.items() if any(row["unequal"] for row in arrays.values())]
    print(f"{len(found)} files, {len(worst)} with unequal pixels{': ' if worst else ''}{', '.join(worst[:5])}")


def set_environment(workspace: Path) -> None:
    """The run's own CRDS cache and context, before the pipeline is imported."""
    references = References.from_json(json.loads((workspace / "references.json").read_text())["references"])
    os.environ.update(survey_environment(worker_environment(references)))
    logging.disable(logging.WARNING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, nargs="?", default=DEMO, help="a finished run; default: the demo's")
    parser.add_argument("--exposures", type=int, default=5, help="how many to compare; 0: all; default: 5")
    parser.add_argument("--no-mosaics", action="store_true", help="leave out Image3")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    if given.workspace == DEMO:
        make_demo()
    set_environment(given.workspace)
    found = compare(given.workspace.resolve(), given.exposures, not given.no_mosaics)
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)
    sys.exit(any(row["unequal"] for arrays in found.values() for row in arrays.values()))


if __name__ == "__main__":
    main()
