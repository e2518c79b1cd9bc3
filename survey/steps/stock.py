"""Steps of `engine: stock`: the pipeline's Image3 on an association, and its mosaic as a zarr group."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.models import Notice
from survey.mosaics.groups import write_group
from survey.names import programs_of, split_file
from survey.steps.alignment import NO_SKY, Watched, check, watched
from survey.steps.base import MEMBER, Job, Outcome, Step
from survey.steps.pipeline import call, is_simulated, link, stamp
from survey.steps.reference_catalog import served, stored_catalog
from survey.steps.sanity import check_covered

# Products of an exposure (jw..._<acid>_crf.fits) go to stage3, those of the association to mosaics.
_EXPOSURE_PRODUCT = re.compile(r"jw\d{11}_", re.ASCII)
_LEFT = {"skymatch": NO_SKY, "outlier_detection": "there is no other exposure to compare them with"}


def run_image3(job: Job, step: Step) -> Outcome:
    """Run Image3 on an association, the first input of the job; the other inputs are the cal files of its members.

    Products: i2d, source catalogue and segmentation map, depending on the settings, and a crf file of each member.

    Raises
    ------
    TaskError
        Image3 made no i2d file, or one without data; or tweakreg did not align all members and the config requires it.
    """
    catalog, (association, *members) = stored_catalog(job.inputs)
    folder = job.path / "in"
    names = [str(split_file(Path(member).name)[0]) for member in members]
    for name, member in zip(names, members, strict=True):
        link(member, folder, f"{name}_{MEMBER}.fits")
    source = link(association, folder, Path(association).name)
    for member in json.loads(source.read_text())["products"][0]["members"]:
        if member.get("tweakreg_catalog"):  # relative to the association; see `survey.steps.association`
            link(str(Path(association).parent / member["tweakreg_catalog"]), folder, member["tweakreg_catalog"])
    output = job.path / "products"
    output.mkdir()

    def check_aligned(found: Watched) -> None:
        if job.must_align:
            check(found.notices(names), len(names))

    with served(catalog), watched(check_aligned) as alignment:
        resolved = call(step.step_class, source, output, job.settings)
    made = sorted(path for path in output.iterdir() if path.is_file())
    main = output / f"{job.subject}_{step.produces}.fits"
    if main not in made:
        found = ", ".join(path.name for path in made) or "nothing"
        raise TaskError(f"{job.subject}: Image3 did not make {main.name}; found {found}. See its log.")
    check_covered(main, job.subject)
    simulated = any(is_simulated(Path(member)) for member in members)
    for path in made:
        if path.suffix == ".fits":
            stamp(path, job, simulated)
    return Outcome(
        tuple((f"products/{path.name}", f"{_folder(path.name, step)}/{path.name}") for path in made),
        resolved,
        _measure(main, source),
        notices=(*alignment.notices(names), *_other_notices(made, names, resolved)),
    )


def write_zarr(job: Job, step: Step) -> Outcome:
    """Write the i2d file of a job as a zarr group."""
    if len(job.inputs) != 1:
        raise TaskError(f"{job.key}: expected one i2d, got {len(job.inputs)}.")
    settings = job.settings
    group = str(settings["group"])
    attributes = {
        "survey": job.survey,
        "digest": job.digest,
        "filter": settings["filter"],
        "members": list(settings["members"]),
        "programs": programs_of(settings["members"]),
        "missing": list(settings["missing"]),
    }
    write_group(Path(job.inputs[0]), job.path / "store", group, chunk=int(settings["chunk"]), attrs=attributes)
    return Outcome(((f"store/{group}", f"{step.folder}/mosaics.zarr/{group}"),))


def _folder(name: str, step: Step) -> str:
    return "stage3" if _EXPOSURE_PRODUCT.match(name) else step.folder


def _other_notices(made: Sequence[Path], names: Sequence[str], resolved: Mapping[str, Any]) -> list[Notice]:
    """Members of which sky or outliers were not found, by the headers of their crf files."""
    from astropy.io import fits

    found = []
    headers = {name: fits.getheader(path) for name in names for path in made if path.name.startswith(f"{name}_")}
    for step, keyword in (("skymatch", "S_SKYMAT"), ("outlier_detection", "S_OUTLIR")):
        left = tuple(name for name, header in headers.items() if header.get(keyword) in ("SKIPPED", "FAILED"))
        if left and not resolved["steps"][step]["skip"]:
            found.append(Notice(step, step == "skymatch", _LEFT[step], left))
    return found


def _measure(i2d: Path, association: Path) -> dict[str, float]:
    """Size and number of members of a mosaic, for its record."""
    from astropy.io import fits

    header = fits.getheader(i2d, "SCI")
    members = json.loads(association.read_text())["products"][0]["members"]
    return {"members": len(members), "nx": int(header["NAXIS1"]), "ny": int(header["NAXIS2"])}
