"""A finished i2d as a zarr group for xarray."""

from __future__ import annotations

from pathlib import Path

from survey.errors import TaskError
from survey.mosaics import write_group
from survey.steps.base import Job, Outcome, Step


def run(job: Job, step: Step) -> Outcome:
    """Write the job's i2d as the group that its settings name."""
    if len(job.inputs) != 1:
        raise TaskError(f"{job.key}: expected one i2d, got {len(job.inputs)}.")
    settings = job.settings
    group = str(settings["group"])
    attributes = {
        "survey": job.survey,
        "digest": job.digest,
        "filter": settings["filter"],
        "members": list(settings["members"]),
        "missing": list(settings["missing"]),
    }
    write_group(Path(job.inputs[0]), job.path / "store", group, chunk=int(settings["chunk"]), attrs=attributes)
    return Outcome(((f"store/{group}", f"{step.folder}/mosaics.zarr/{group}"),))
