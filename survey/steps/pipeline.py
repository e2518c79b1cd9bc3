"""Run one of the pipeline's own classes inside a child process, as its ``call`` does, and stamp what it made."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from survey.config.pipeline_spec import OUTPUT_NAMES, StepSpec, override_files, read_spec
from survey.errors import TaskError
from survey.messages import shown
from survey.names import plain_name
from survey.steps.base import Job

log = logging.getLogger(__name__)


def call(step_class: str, source: Path, output: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run a Step or Pipeline class on a file or association and let it save its products.

    The same three public calls as in ``Step.call``: build the config (parameter reference files from CRDS first), make
    the instance, run it. Taken apart because ``call`` keeps the instance, which alone knows the parameters that were
    run.

    Parameters
    ----------
    step_class : 'module:Class'
    source : input file
    output : folder for the products
    settings : parameters, and {step name: parameters}

    Returns
    -------
    resolved : dict of JSON types; every parameter of the class and of its steps

    Raises
    ------
    TaskError
        The class stopped with SystemExit, as crds does, or as `refuse_foreign_orders`.
    """
    module_name, _, class_name = step_class.partition(":")
    cls = getattr(importlib.import_module(module_name), class_name)
    own, steps = split_settings(read_spec(step_class), settings)
    try:
        config, config_file = cls.build_config(
            str(source), **own, steps=steps, output_dir=str(output), save_results=True
        )
        for key in ("class", "logcfg"):
            config.pop(key, None)
        refuse_foreign_orders(config)
        name = config.pop("name", None)
        instance = cls.from_config_section(config, name=name, config_file=config_file)
        resolved = plain(
            instance.get_pars()
        )  # now: Image2 leaves its instance with parameters that its own spec refuses
        result = instance.run(str(source))
    except SystemExit as error:
        raise TaskError(f"{class_name} ended the process with {error.code!r}; its log says why.") from error
    _close(result)
    return resolved


def refuse_foreign_orders(config: Mapping[str, Any], inside: str = "") -> None:
    """Refuse what a config of this project could not ask for, and only a parameter file from a CRDS server did.

    Raises
    ------
    TaskError
        Class 'never': hooks, which run code, or a place for products other than their own.
    """
    for name, value in config.items():
        where = f"{inside}{name}"
        if isinstance(value, Mapping):
            refuse_foreign_orders(value, f"{where}.")
        elif value and (
            name in ("pre_hooks", "post_hooks")
            or (name in OUTPUT_NAMES and not plain_name(str(value)))
            or (name in ("output_dir", "output_file") and inside)
        ):
            raise TaskError(f"a parameter file of CRDS says {where} = {shown(value)}, which it has no say in.")


def split_settings(spec: StepSpec, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A class's own parameters, and those of its steps."""
    own = {key: value for key, value in settings.items() if key not in spec.steps}
    steps = {key: dict(value) for key, value in settings.items() if key in spec.steps}
    return own, steps


def stamp(path: Path, job: Job, simulated: bool) -> None:
    """Write who made a FITS product into its primary header: SURVEY, SVYDIGST, and SIMULATD when it descends from a
    simulation.
    """
    from astropy.io import fits

    with fits.open(path, mode="update", memmap=False, lazy_load_hdus=True) as hdus:
        stamp_header(hdus[0].header, job, simulated)


def stamp_header(header: Any, job: Job, simulated: bool) -> None:
    """The same for a primary header that is not in a file yet."""
    header["SURVEY"] = (job.survey, "name of the survey")
    header["SVYDIGST"] = job.digest  # 64 digits leave no room for a comment
    if simulated:
        header["SIMULATD"] = ("T", "descends from simulated exposures")
    if job.missing:
        header["SVYNMISS"] = (len(job.missing), "members that this mosaic was made without")
        for number, name in enumerate(job.missing, 1):
            header[f"SVYM{number:04d}"] = (name, "missing member")


def is_simulated(path: Path) -> bool:
    """Whether a FITS file says that it descends from a simulation."""
    from astropy.io import fits

    return str(fits.getval(path, "SIMULATD", ext=0) if "SIMULATD" in fits.getheader(path, 0) else "").strip() == "T"


def used_references(path: Path) -> dict[str, str]:
    """Reference files that the pipeline wrote into a product's header: {type: file name}; 'N/A' left out.

    A type is the keyword behind ``R_`` in lower case, shortened by the FITS limit of eight characters.
    """
    from astropy.io import fits

    header = fits.getheader(path, 0)
    found = {key[2:].lower(): str(value) for key, value in header.items() if key.startswith("R_") and value}
    return {key: Path(value.removeprefix("crds://")).name for key, value in found.items() if value != "N/A"}


def check_references(product: Path, source: Path, job: Job) -> None:
    """Refuse a product that was made with other reference files than the plan's digest stands for.

    Raises
    ------
    TaskError
        Class 'never': a file that the product's header adds to its source's is not in the plan; it is named.
    """
    planned = {name for name in job.references.values() if name != "N/A"}
    planned |= {Path(name).name for name in override_files(job.settings)}
    added = set(used_references(product).values()) - set(used_references(source).values())
    if added - planned:
        raise TaskError(
            f"{job.key}: used {', '.join(sorted(added - planned))}, which the plan for {job.context} does not hold. "
            "Run 'survey refs' again; the cache has changed since the plan was made."
        )


def link(source: str, folder: Path, name: str) -> Path:
    """Give a step its input under the name that the pipeline expects, without a copy."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    target.symlink_to(source)
    return target


def plain(value: Any) -> Any:
    """Parameters as JSON types: tuples become lists, anything else its text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value)


def _close(result: Any) -> None:
    for model in result if isinstance(result, (list, tuple)) else [result]:
        if hasattr(model, "close"):
            model.close()
