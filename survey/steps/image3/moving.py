"""Align the exposures of a moving target on the target, as Image3 does in place of tweakreg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from survey.errors import TaskError
from survey.models import TWEAKREG, Notice
from survey.steps.alignment import skipped
from survey.steps.base import Job
from survey.steps.image3.parts import parameters, part

FRAME = "moving_target"  # that assign_mtwcs adds to a WCS


def is_moving(meta: Mapping[str, Any]) -> bool:
    """Whether Image3 takes exposures for those of a moving target, by the header of the first one (flat)."""
    from jwst.lib.exposure_types import is_moving_target

    return bool(is_moving_target(dict(meta)))


def follow(job: Job, members: Any, names: Sequence[str]) -> tuple[dict[str, Any], Any, tuple[Notice, ...]]:
    """Run assign_mtwcs on skeletons: it needs their headers and WCS, no pixels.

    Returns
    -------
    resolved : every parameter of the step
    members : the library, with a frame that follows the target
    notices : that tweakreg does not align the exposures, and whether this step does

    Raises
    ------
    TaskError
        The config aligns this filter to another one, which is not possible for a moving target.
    """
    from jwst.stpipe.utilities import record_step_status

    if job.settings.get("reference"):
        raise TaskError(
            f"{job.subject}: the target moves, so its exposures are aligned on the target; mosaic.align_to cannot be "
            "used. Leave it out."
        )
    assign = part(job, "assign_mtwcs")
    resolved = parameters(assign)
    if assign.skip:  # a single step does not check it; the pipeline would
        record_step_status(members, "assign_mtwcs", status="SKIPPED")
        return resolved, members, (skipped("the target moves, and assign_mtwcs has the parameter skip", names),)
    members = assign.run(members)
    with members:  # its status is COMPLETE in any case
        first = members.borrow(0)
        followed = FRAME in first.meta.wcs.available_frames
        members.shelve(first, 0, modify=False)
    if followed:
        return resolved, members, (skipped("the target moves, and assign_mtwcs aligns the exposures on it", names),)
    lacking = "the target moves, and a member's header does not say where it was (MT_RA, MT_DEC)"
    return resolved, members, (Notice(TWEAKREG, True, lacking, tuple(names)),)
