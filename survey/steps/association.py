"""The level-3 association of a mosaic and links to its members, for `strun calwebb_image3`."""

from __future__ import annotations

from pathlib import Path

from survey.models import Association
from survey.mosaics.association_files import write_association
from survey.steps.base import Job, Outcome, Step


def run(job: Job, step: Step) -> Outcome:
    """Write the association of the job's members, and a relative link to the cal file of each beside it."""
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
