"""Run a pipeline or Step class like its method ``call``, and write where a product comes from into its header."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from survey.config.pipeline_spec import OUTPUT_NAMES, override_files
from survey.errors import TaskError
from survey.messages import shown
from survey.names import plain_name
from survey.steps.base import PIPELINE, Job
from survey.steps.foreign_code import (
    add_hooks,
    check_result,
    hook_at_fault,
    is_about_a_file,
    load,
    path_of,
    without_hooks,
)

log = logging.getLogger(__name__)


def call(
    step_class: str, source: Path, output: Path, settings: Mapping[str, Any], suffix: str | None = None
) -> dict[str, Any]:
    """Run a Step or Pipeline class on a file or association; it saves its products.

    These are the public calls of ``Step.call``: build the config, with parameter reference files from CRDS, create the
    instance, run it. ``call`` does not return the instance, which holds the parameters that were used.

    Parameters
    ----------
    step_class : 'module:Class'; the settings can name another one
    source : input file
    output : folder for the products
    settings : parameters, and {step name: parameters}
    suffix : of the product, for a Step of another package, which has to return one image

    Returns
    -------
    resolved : every parameter of the class and of its steps, as JSON types

    Raises
    ------
    TaskError
        The class raised SystemExit, as crds does; a Step of another package returned no image, or a hook raised an
        exception; see also `reject_remote_hooks`.
    """
    cls = load(str(settings.get(PIPELINE) or step_class))
    own, steps = split_settings(getattr(cls, "step_defs", {}), without_hooks(settings))
    if suffix is not None:
        own["suffix"] = suffix
    try:
        config, config_file = cls.build_config(
            str(source), **own, steps=steps, output_dir=str(output), save_results=True
        )
        for key in ("class", "logcfg"):
            config.pop(key, None)
        reject_remote_hooks(config)
        add_hooks(config, settings, getattr(cls, "step_defs", {}))
        name = config.pop("name", None)
        instance = cls.from_config_section(config, name=name, config_file=config_file)
        resolved = plain(instance.get_pars())  # before the run, after which Image2's are not valid by its own spec
        result = instance.run(str(source))
    except SystemExit as error:
        raise TaskError(f"{cls.__name__} ended the process with {error.code!r}; see its log.") from error
    except Exception as error:
        who = hook_at_fault(error) or (path_of(cls) if suffix is not None else "")
        of_the_machine = isinstance(error, MemoryError) or (isinstance(error, OSError) and not is_about_a_file(error))
        if not who or of_the_machine or isinstance(error, TaskError):
            raise
        raise TaskError(f"{who} raised {type(error).__name__}: {error}") from error
    if suffix is not None:
        check_result(instance, result)
    _close(result)
    return resolved


def reject_remote_hooks(config: Mapping[str, Any], inside: str = "") -> None:
    """Reject parameters that a config must not have and that can only come from a parameter file of a CRDS server.

    Raises
    ------
    TaskError
        Of class 'never': a hook, which runs code, or another folder or name for products.
    """
    for name, value in config.items():
        where = f"{inside}{name}"
        if isinstance(value, Mapping):
            reject_remote_hooks(value, f"{where}.")
        elif value and (
            name in ("pre_hooks", "post_hooks")
            or (name in OUTPUT_NAMES and not plain_name(str(value)))
            or (name in ("output_dir", "output_file") and inside)
        ):
            raise TaskError(f"a parameter file of CRDS sets {where} = {shown(value)}, which it must not.")


def split_settings(names: Container[str], settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split settings into those of a class and those of its steps, of which the names are given."""
    own = {key: value for key, value in settings.items() if key not in names}
    steps = {key: dict(value) for key, value in settings.items() if key in names}
    return own, steps


def stamp(path: Path, job: Job, simulated: bool) -> None:
    """Write SURVEY, SVYDIGST, missing members, and SIMULATD for simulated data, to the header of a FITS file."""
    from astropy.io import fits

    with fits.open(path, mode="update", memmap=False, lazy_load_hdus=True) as hdus:
        stamp_header(hdus[0].header, job, simulated)


def stamp_header(header: Any, job: Job, simulated: bool) -> None:
    """As `stamp`, for a primary header that is not in a file yet."""
    header["SURVEY"] = (job.survey, "name of the survey")
    header["SVYDIGST"] = job.digest  # 64 digits leave no room for a comment
    if simulated:
        header["SIMULATD"] = ("T", "descends from simulated exposures")
    if job.missing:
        header["SVYNMISS"] = (len(job.missing), "members that this mosaic was made without")
        for number, name in enumerate(job.missing, 1):
            header[f"SVYM{number:04d}"] = (name, "missing member")


def is_simulated(path: Path) -> bool:
    """Whether a FITS file was made from simulated exposures, by its header."""
    from astropy.io import fits

    return str(fits.getval(path, "SIMULATD", ext=0) if "SIMULATD" in fits.getheader(path, 0) else "").strip() == "T"


def used_references(path: Path) -> dict[str, str]:
    """Reference files in the header of a product: {type: file name}, without 'N/A'.

    A type is the keyword after ``R_`` in lower case, cut to six characters by the limit of FITS.
    """
    from astropy.io import fits

    header = fits.getheader(path, 0)
    found = {key[2:].lower(): str(value) for key, value in header.items() if key.startswith("R_") and value}
    return {key: Path(value.removeprefix("crds://")).name for key, value in found.items() if value != "N/A"}


def check_references(product: Path, source: Path, job: Job) -> None:
    """Reject a product that was made with reference files that are not in the plan.

    Raises
    ------
    TaskError
        Of class 'never': the header of the product names a reference file that neither its source nor the plan has.
    """
    planned = {name for name in job.references.values() if name != "N/A"}
    planned |= {Path(name).name for name in override_files(job.settings)}
    added = set(used_references(product).values()) - set(used_references(source).values())
    if added - planned:
        raise TaskError(
            f"{job.key}: used {', '.join(sorted(added - planned))}, which is not in the plan for {job.context}: "
            "the cache has changed since. Run 'survey refs' again."
        )


def link(source: str, folder: Path, name: str) -> Path:
    """Link an input of a step under the name that the pipeline expects."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    target.symlink_to(source)
    return target


def plain(value: Any) -> Any:
    """Parameters as JSON types: tuples become lists, other objects text."""
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
