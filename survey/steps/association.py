"""The level-3 association of a mosaic, beside links to its members, valid for `strun calwebb_image3`."""

from __future__ import annotations

from pathlib import Path

from survey.models import Association
from survey.mosaics.association_files import write_association
from survey.steps.base import Job, Outcome, Step


def run(job: Job, step: Step) -> Outcome:
    """Write the association of the job's members.

    The members are plain names, as the archive writes them; relative links to the cal files stand beside the file.
    """
    settings = job.settings
    association = Association(
        product=job.subject,
        filter=str(settings["filter"]),
        field=str(settings["field"]),
        members=tuple(settings["members"]),
        program=int(settings["program"]),
    )
    path = write_association(association, job.path)
    made = [path.name]
    for source in map(Path, job.inputs):
        (job.path / source.name).symlink_to(Path("..") / source.parent.name / source.name)
        made.append(source.name)
    products = tuple((name, f"{step.folder}/{name}") for name in made)
    return Outcome(products, measurements={"members": len(association.members)})
