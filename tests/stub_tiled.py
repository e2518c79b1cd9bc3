"""Stub steps of the tiled engine: each writes the files that the next ones read, and nothing of a pipeline.

A child process installs them as its server imports this module, named in SURVEY_PRELOAD. Faults as in `stub_steps`.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import stub_steps

import survey.steps.registry
from survey.models import Notice
from survey.mosaics.grid import Box, Tile
from survey.mosaics.layouts import Layout, Member
from survey.mosaics.tiles import chunk_files
from survey.steps.alignment import check
from survey.steps.base import Job, Outcome, Step

ENVIRONMENT = {**stub_steps.ENVIRONMENT, "SURVEY_PRELOAD": "stub_tiled"}
SHAPE = (300, 500)
MANY = 10
BOXES = (Box(0, 0, 300, 300), Box(200, 0, 500, 300))
SUFFIXES = {
    "sources": ["cat.ecsv", "member.asdf"], "sky": ["skystat.json"], "skymatch": ["sky.json"],
    "pixmap": ["pixmap.npy", "leftout.npy"], "outlier_i2d": ["outlier_i2d.npy"], "median": ["median.npy"],
    "outliers": ["crf.fits"], "assemble": ["i2d.fits"], "source_catalog": ["cat.ecsv"], "detect": ["detected.npz"],
}  # fmt: skip


def install(registry=survey.steps.registry.REGISTRY) -> None:
    stub_steps.install(registry)
    for name in (*SUFFIXES, "align", "drizzle"):
        registry[name] = replace(registry[name], run="stub_tiled:run")


def run(job: Job, step: Step) -> Outcome:
    stub_steps.fail(job.path.parents[1], job.key)
    text = stub_steps.content(job)
    made = [
        (f"{job.subject}_{suffix}", f"{step.folder}/{job.subject}_{suffix}") for suffix in SUFFIXES.get(step.name, ())
    ]
    for name, _ in made:
        (job.path / name).write_text(text)
    if step.name == "align":
        made = align(job, text)
        return Outcome(tuple(made), measurements={"members": 3}, notices=not_aligned(job))
    if step.name == "drizzle":
        tile = Tile(job.settings["ix"], job.settings["iy"], Box(*job.settings["box"]))
        for file in chunk_files(["sci", "wht"], tile, ()):
            (job.path / file).parent.mkdir(parents=True)
            (job.path / file).write_text(text)
            made.append((file, f"mosaics/mosaics.zarr/{job.settings['group']}/{file}"))
    if step.name == "assemble":
        (job.path / "zarr.json").write_text(text)
        made.append(("zarr.json", f"mosaics/mosaics.zarr/{job.settings['group']}/zarr.json"))
    return Outcome(tuple(made))


def not_aligned(job: Job) -> tuple[Notice, ...]:
    """A notice for the exposures in the workspace's ``not_aligned.json``, after which a task that must align stops."""
    path = job.path.parents[1] / "not_aligned.json"
    names = json.loads(path.read_text()) if path.exists() else []
    lost = tuple(name for name in names if any(name in source for source in job.inputs))
    found = (Notice("tweakreg", True, "too few sources", lost),) if lost else ()
    if job.must_align:
        check(found, 3)
    return found


def align(job: Job, text: str) -> list[tuple[str, str]]:
    names = [Path(path).name.removesuffix("_member.asdf") for path in job.inputs if path.endswith("_member.asdf")]
    shape, boxes = SHAPE, [BOXES[number % 2] for number in range(len(names))]
    if len(names) > MANY:  # a strip, so that a tile has few members
        shape = (300, 100 * len(names) + 300)
        boxes = [Box(100 * number, 0, 100 * number + 300, 300) for number in range(len(names))]
    members = tuple(Member(name, number, boxes[number], boxes[number]) for number, name in enumerate(names))
    layout = Layout(shape, shape, True, members, job.digest)
    files = {f"{job.subject}_layout.json": json.dumps(layout.to_json())}
    files |= {f"{job.subject}_{suffix}": text for suffix in ("grid.asdf", "sources.ecsv")}
    files |= {f"{name}_{job.settings['acid']}_wcs.asdf": text for name in names}
    for name, content in files.items():
        (job.path / name).write_text(content)
    return [(name, f"stage3/{name}") for name in files]


if "stub_tiled" in os.environ.get("SURVEY_PRELOAD", "").split(","):
    install()
