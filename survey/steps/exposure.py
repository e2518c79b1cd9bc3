"""Run a pipeline or Step class on the product of one exposure, such as Detector1, Image2 or a correction."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.steps.base import Job, Outcome, Step, code_in
from survey.steps.foreign_code import new_files
from survey.steps.pipeline import call, check_references, is_simulated, link, stamp
from survey.steps.sanity import check_image, check_ramp


def run(job: Job, step: Step) -> Outcome:
    """Run the class of a step on the input of a job, and keep every product that it saves.

    The input is linked under the archive's name with the suffix that the step accepts. So products have archive names,
    and a corrected rate file is read by the next step like any other.

    Raises
    ------
    TaskError
        The input is not a valid ramp; the class made no product with the suffix of the step, used reference files
        that were not planned, or left no usable pixel.
    """
    expected = 2 if len(job.inputs) == 2 and step.takes_mask else 1
    if len(job.inputs) != expected:
        raise TaskError(f"{job.key}: expected one input, got {len(job.inputs)}.")
    settings = dict(job.settings)
    if expected == 2:
        settings["mask_file"] = job.inputs[1]
    source = link(job.inputs[0], job.path / "in", f"{job.subject}_{step.accepts}.fits")
    if step.accepts == "uncal":
        check_ramp(source, job.key)
    output = job.path / "products"
    output.mkdir()
    if code_in(settings):
        resolved = _call_foreign(job, step, source, settings)
    else:
        resolved = call(step.step_class, source, output, settings)
    if expected == 2:
        resolved["mask_file"] = Path(job.inputs[1]).name
    main = f"{job.subject}_{step.produces}.fits"
    rename_product(output, job.subject, step, main)
    check_shape(source, output / main, job.key)
    check_references(output / main, source, job)
    usable = check_image(output / main, job.key)
    simulated = is_simulated(source)
    made = sorted(path for path in output.iterdir() if path.is_file() and not repeats(path))
    for path in made:
        if path.suffix == ".fits":
            stamp(path, job, simulated)
    products = tuple((f"products/{path.name}", f"{step.folder}/{path.name}") for path in made)
    return Outcome(products, resolved, {"usable": round(usable, 4)})


def _call_foreign(job: Job, step: Step, source: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run a class, or hooks, of another package, in a folder of its own; returns the parameters that were used.

    Files that its Step saves beside its product get the product's suffix in their names, so that no other task has
    products of these names.

    Raises
    ------
    TaskError
        It wrote files into the current folder, which would be lost; see also `call`.
    """
    folder, output = job.path / "current", job.path / "products"
    folder.mkdir()
    with contextlib.chdir(folder):
        resolved = call(step.step_class, source, output, settings, step.produces if step.foreign else None)
    lost = new_files(folder)
    if lost:
        raise TaskError(
            f"{job.key}: code of another package wrote {', '.join(lost[:5])} into the current folder, where it would "
            "be lost. A Step saves files by its save_model and make_output_path, or to an absolute path."
        )
    if step.foreign:
        for path in sorted(output.iterdir()):
            more = path.name.removeprefix(f"{job.subject}_")
            if more.rpartition(".")[0] != step.produces:
                path.rename(output / f"{job.subject}_{step.produces}-{more}")
    return resolved


def check_shape(source: Path, product: Path, key: str) -> None:
    """Reject a product whose image has another shape than that of its source, without integrations and groups.

    Raises
    ------
    TaskError
        The shapes differ, or the product has no image.
    """
    before, after = _shape(source)[-2:], _shape(product)
    if after != before:
        raise TaskError(
            f"{key}: its product has an image of shape {after}, its input of shape {before}; the steps after it need "
            "one image of the same shape."
        )


def _shape(path: Path) -> tuple[int, ...]:
    """Shape (y, x), or (integration, group, y, x), of a file's SCI array; () without one."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        if "SCI" not in hdus:
            return ()
        return tuple(int(hdus["SCI"].header[f"NAXIS{axis}"]) for axis in range(hdus["SCI"].header["NAXIS"], 0, -1))


def repeats(path: Path) -> bool:
    """Whether a product repeats another one: the rateints or calints of an exposure with one integration.

    They are as large as the rate or cal file: one terabyte for 13,000 exposures.
    """
    from astropy.io import fits

    if not path.name.endswith(("_rateints.fits", "_calints.fits")):
        return False
    return int(fits.getval(path, "NINTS", ext=0)) == 1


def rename_product(output: Path, subject: str, step: Step, main: str) -> None:
    """Rename the product of a single Step, which stpipe names after the class, to the suffix in the registry.

    Raises
    ------
    TaskError
        There is no product, or more than one.
    """
    if (output / main).exists():
        return
    made = sorted(output.glob(f"{subject}_*.fits"))
    if len(made) != 1:
        names = ", ".join(path.name for path in made) or "nothing"
        raise TaskError(f"{subject}: step {step.name!r} did not make {main}; found {names}. See its log.")
    made[0].rename(output / main)
