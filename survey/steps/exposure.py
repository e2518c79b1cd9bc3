"""Steps that turn one exposure's product into its next one by a pipeline or Step class."""

from __future__ import annotations

from pathlib import Path

from survey.errors import TaskError
from survey.steps.base import Job, Outcome, Step
from survey.steps.pipeline import call, check_references, is_simulated, link, stamp
from survey.steps.sanity import check_image, check_ramp


def run(job: Job, step: Step) -> Outcome:
    """Run the step's class on the job's one input; every product that it saves is kept.

    The input is linked under the name that the pipeline expects of its suffix, so that a correction's product goes into
    the next step as any rate file does, and products come out under the exposure's archive names.

    Raises
    ------
    TaskError
        The class ran and left no product of the suffix that the step promises, or used references that were not
        planned; the input cannot be an exposure, or the product has no usable pixel.
    """
    if len(job.inputs) != 1:
        raise TaskError(f"{job.key}: expected one input, got {len(job.inputs)}.")
    source = link(job.inputs[0], job.path / "in", f"{job.subject}_{step.accepts}.fits")
    if step.accepts == "uncal":
        check_ramp(source, job.key)
    output = job.path / "products"
    output.mkdir()
    resolved = call(step.step_class, source, output, job.settings)
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
    """Whether a product says what its neighbour says: the 'ints' of one integration, as large as the rate or cal
    itself.

    A survey's exposures mostly have one; for 13,000 of them such copies are a terabyte.
    """
    from astropy.io import fits

    if not path.name.endswith(("_rateints.fits", "_calints.fits")):
        return False
    return int(fits.getval(path, "NINTS", ext=0)) == 1


def rename_product(output: Path, subject: str, step: Step, main: str) -> None:
    """Give a lone Step's product the suffix of its registry row; stpipe names it after the Step's class.

    Raises
    ------
    TaskError
        There is no product to rename.
    """
    if (output / main).exists():
        return
    made = sorted(output.glob(f"{subject}_*.fits"))
    if len(made) != 1:
        names = ", ".join(path.name for path in made) or "nothing"
        raise TaskError(f"{subject}: step {step.name!r} should have made {main}, found {names}; its log says why.")
    made[0].rename(output / main)
