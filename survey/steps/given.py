"""Copy a calibrated file that was made elsewhere into the workspace."""

from __future__ import annotations

import shutil

from survey.errors import TaskError
from survey.steps.base import Job, Outcome, Step
from survey.steps.sanity import check_image


def run(job: Job, step: Step) -> Outcome:
    """Copy the file of a job. Its header is not changed, since its pixels were not made here."""
    if len(job.inputs) != 1:
        raise TaskError(f"{job.key}: expected one file, got {len(job.inputs)}.")
    name = f"{job.subject}_{step.produces}.fits"
    shutil.copyfile(job.inputs[0], job.path / name)
    usable = check_image(job.path / name, job.key)
    return Outcome(((name, f"{step.folder}/{name}"),), measurements={"usable": round(usable, 4)})
