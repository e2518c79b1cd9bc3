"""The level-3 association of a mosaic and links to its members, for `strun calwebb_image3`."""

from __future__ import annotations

import shutil
from pathlib import Path

from survey.digest import file_sha256
from survey.errors import TaskError
from survey.models import Association, ListedMember
from survey.mosaics.association_files import write_association
from survey.steps.base import Job, Outcome, Step


def run(job: Job, step: Step) -> Outcome:
    """Write the association of the job's members, and a relative link to the cal file of each beside it.

    Of an association from outside, it also has the members' groups, and copies of their catalogues of sources.

    Raises
    ------
    TaskError
        A catalogue has changed since the run was planned.
    """
    settings = job.settings
    groups = dict(settings.get("group_ids", {}))
    association = Association(
        product=job.subject,
        filter=str(settings["filter"]),
        field=str(settings["field"]),
        members=tuple(settings["members"]),
        program=int(settings["program"]),
        listed=tuple(ListedMember(name, f"{name}_cal.fits", str(group)) for name, group in groups.items()),
        pool=str(settings.get("pool", "")),
    )
    catalogs = {}
    for name, (file, sha256) in settings.get("catalogs", {}).items():
        catalogs[name] = f"{job.subject}_{name}_sources{Path(file).suffix}"
        shutil.copyfile(file, job.path / catalogs[name])
        if file_sha256(job.path / catalogs[name]) != sha256:
            raise TaskError(f"{job.key}: {file} has changed since the run was planned. Run again.")
    path = write_association(association, job.path, catalogs)
    made = [path.name, *catalogs.values()]
    for member, source in zip(association.members, map(Path, job.inputs), strict=True):
        name = f"{member}_{step.accepts}.fits"  # also of a calibrated file that another step has corrected
        (job.path / name).symlink_to(Path("..") / source.parent.name / source.name)
        made.append(name)
    products = tuple((name, f"{step.folder}/{name}") for name in made)
    return Outcome(products, measurements={"members": len(association.members)})
