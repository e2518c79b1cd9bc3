"""Run a pipeline or Step class on the product of one exposure, such as Detector1, Image2 or a correction."""

from __future__ import annotations

from pathlib import Path

from survey.errors import TaskError
from survey.steps.base import Job, Outcome, Step
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
    resolved = call(step.step_class, source, output, settings)
    if expected == 2:
        resolved["mask_file"] = Path(job.inputs[1]).name
    main = f"{job.subject}_{step.produces}.fits"
    rename_product(output, job.subject, step, main)
    check_references(output / main, source, job)
    usable = check_image(output / main, job.key)
    simulated = is_simulated(source)
    made = sorted(path for path in output.iterdir() if path.is_file() and not repeats(path))
    for path in made:
        if path.suffix == ".fits":
            stamp(path, job, simulated)
    products = tuple((f"products/{path.name}", f"{step.folder}/{path.name}") for path in made)
    return Outcome(products, resolved, {"usable": round(usable, 4)})


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
