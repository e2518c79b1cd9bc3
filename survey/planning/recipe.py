"""The recipe of a config: its steps and parameters as the installed pipeline accepts them, checked once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from survey.config.code_versions import code_versions
from survey.config.model import SurveyConfig
from survey.config.pipeline_spec import missing_files
from survey.config.sections import SCALES_ARCSEC, MosaicConfig, StepConfig
from survey.errors import ConfigError
from survey.messages import nearest, shown
from survey.nircam import FILTERS
from survey.planning.tiled import faults as tiled_faults
from survey.steps.base import code_in
from survey.steps.foreign import probe_names
from survey.steps.parameter_files import listed_files
from survey.steps.registry import IMAGE3, REGISTRY, check_chain, row_for, row_named


@dataclass(frozen=True)
class Recipe:
    """The steps and parameters of a config, with defaults merged in and values converted."""

    chain: Mapping[str, Mapping[str, Any]]  # step -> settings, for each exposure, in order
    image3: Mapping[str, Any]  # parameters of Image3's steps, the config's grid included
    makes_mosaics: bool  # whether the chain ends in what a mosaic is made from
    # step -> name and version of the packages of other people's steps and hooks that it runs
    packages: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    faults: tuple[str, ...] = ()  # each starts with its place in the config: 'steps.detector1.jump: ...'

    @cached_property
    def mask_step(self) -> str:
        """Name of the step that makes source masks from the mosaics of a first pass; '' for one pass."""
        return next((name for name in self.chain if row_named(name).masks), "")

    @cached_property
    def shared_chain(self) -> dict[str, Mapping[str, Any]]:
        """The steps that are run once for both passes: those before the source mask; all of them in one pass."""
        names = [*self.chain]
        last = names.index(self.mask_step) if self.mask_step else len(names)
        return {name: self.chain[name] for name in names[:last]}

    @cached_property
    def second_chain(self) -> dict[str, Mapping[str, Any]]:
        """The steps of the second pass, from the source mask on; none in one pass."""
        return {name: settings for name, settings in self.chain.items() if name not in self.shared_chain}

    @cached_property
    def mask_filters(self) -> tuple[str, ...]:
        """Filters whose mosaics are searched for sources; (): each exposure's own."""
        return tuple(self.chain.get(self.mask_step, {}).get("filters") or ()) if self.mask_step else ()


def recipe_of(config: SurveyConfig) -> Recipe:
    """The recipe of a config; the config is checked on first use.

    Raises
    ------
    ConfigError
        Wrong steps or parameters; every fault is named.
    """
    recipe = checked(config)
    if recipe.faults:
        raise ConfigError(config.located(recipe.faults))
    return recipe


def checked(config: SurveyConfig) -> Recipe:
    """The recipe of a config, with its faults.

    The config object keeps it, beside a copy of the parts that were checked, as do copies and pickles of the config. It
    is checked again only when these parts differ, as after ``model_copy(update={"steps": ...})``.
    """
    parts = config.model_dump(include={"steps", "mosaic", "filters"}, warnings=False)
    kept: tuple[dict[str, Any], Recipe] | None = config._checked
    if kept is None or kept[0] != parts:
        kept = config._checked = (parts, check(config.steps, config.mosaic, config.filters))
    return kept[1]


def check(steps: Sequence[StepConfig], mosaic: MosaicConfig, filters: Sequence[str] | None) -> Recipe:
    """Check steps and parameters against the installed pipeline and the engines; `recipe_of` does it once a config."""
    probe_names(steps, REGISTRY, mosaic.image3)
    chain, faults = check_chain(steps)
    given = {**mosaic.image3, "resample": {**_mapping(mosaic.image3.get("resample")), **mosaic.grid}}
    twice = sorted(set(_mapping(mosaic.image3.get("resample"))) & set(mosaic.grid))
    faults += [
        f"mosaic.image3.resample.{name}: {name!r} is also given by mosaic's own grid; write it once." for name in twice
    ]
    image3, found = IMAGE3.settings(given if given["resample"] else mosaic.image3, "mosaic.image3")
    faults += found
    faults += _grid_faults(_mapping(image3.get("resample")), "mosaic.image3.resample")
    if mosaic.engine == "tiled":
        faults += tiled_faults(image3)
    else:
        faults += [f"mosaic.{name}: only 'engine: tiled' can do this." for name in ("alignment", "align_to")
                   if getattr(mosaic, name) is not None]  # fmt: skip
    if mosaic.align_to is not None:
        others = ["abs_refcat"] if str(_mapping(image3.get("tweakreg")).get("abs_refcat") or "").strip() else []
        others += ["mosaic.alignment"] if mosaic.alignment is not None else []
        faults += [f"mosaic.align_to: {name} is given as well; an alignment has one reference." for name in others]
    if mosaic.align_to is not None and filters is not None and mosaic.align_to not in filters:
        faults.append(f"mosaic.align_to: {mosaic.align_to} is not among the config's filters.")
    faults += _pass_faults(chain, mosaic, filters)
    code = {name: code_in(settings) for name, settings in {**chain, IMAGE3.name: image3}.items()}
    packages = {name: code_versions(modules) for name, modules in code.items() if modules}
    return Recipe(chain, image3, _makes_members(chain), packages, tuple(faults))


def _makes_members(chain: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the last step of a chain makes what a mosaic is made from."""
    last = next(reversed([*chain.items()]), None)
    return last is not None and row_for(*last).makes_members


def _pass_faults(
    chain: Mapping[str, Mapping[str, Any]], mosaic: MosaicConfig, filters: Sequence[str] | None
) -> list[str]:
    """What keeps a config with a source mask from being run in two passes."""
    mask = next((name for name in chain if row_named(name).masks), None)
    if mask is None:
        return []
    found = []
    if mosaic.engine != "tiled":
        found.append(f"steps.{mask}: masks are made from tiles of a mosaic; only 'engine: tiled' makes them.")
    if not _makes_members(chain):
        found.append(f"steps.{mask}: the steps must end with one that makes calibrated images, such as 'image2'.")
    for name in chain[mask].get("filters") or ():
        if name not in FILTERS:
            found.append(f"steps.{mask}.filters: {shown(name)} is not a filter of NIRCam{nearest(name, FILTERS)}")
        elif filters is not None and name not in filters:
            found.append(f"steps.{mask}.filters: {name} is not among the config's filters.")
    found += [
        f"steps.{name}.mask_file: the step {mask!r} makes this file; remove one of the two."
        for name, settings in chain.items()
        if settings.get("mask_file") is not None
    ]
    return found


def _grid_faults(resample: Mapping[str, Any], where: str) -> list[str]:
    """Scales and positions that no mosaic of this instrument has: most are slips of the unit."""
    low, high = SCALES_ARCSEC
    found = []
    for name, least, most in (("pixel_scale", low, high), ("pixel_scale_ratio", low / 0.1, high / 0.01)):
        value = resample.get(name)
        if isinstance(value, int | float) and not least <= value <= most:
            found.append(f"{where}.{name}: {value}: expected {least:g} to {most:g}.")
    crval = resample.get("crval")
    if isinstance(crval, list | tuple) and len(crval) == 2 and not (0 <= crval[0] < 360 and -90 <= crval[1] <= 90):
        found.append(f"{where}.crval: {list(crval)} is not on the sky.")
    return found


def path_faults(config: SurveyConfig) -> list[str]:
    """Faults for files and folders that a config names and that do not exist."""
    recipe = checked(config)
    alignment = {} if config.mosaic.alignment is None else {"alignment": str(config.mosaic.alignment)}
    faults = missing_files(recipe.chain, "steps") + missing_files(recipe.image3, "mosaic.image3")
    faults += missing_files(alignment, "mosaic")
    faults += _lost_catalogues(str(_mapping(recipe.image3.get("tweakreg")).get("catfile") or ""))
    calibrated = config.mosaic.calibrated
    if calibrated is not None and not calibrated.is_dir():
        faults.append(f"mosaic.calibrated: {calibrated}: no such folder; expected one of calibrated files.")
    place = config.workspace
    if os.path.exists(place) and not os.path.isdir(place):
        faults.append(f"workspace: {place}: is no folder; expected one, or a name that is free.")
    if config.archive.local is not None and not config.archive.local.is_dir():
        faults.append(f"archive.local: {config.archive.local}: no such folder; expected one of *_uncal.fits.")
    return faults


def _lost_catalogues(catfile: str) -> list[str]:
    """Faults for catalogues that a catfile names and that do not exist."""
    path = Path(catfile)
    lost = [(number, item) for number, item in listed_files(path) if not item.is_file()] if catfile else []
    return [f"mosaic.image3.tweakreg.catfile: {path.name}:{number}: {shown(str(item))}: not found."
            for number, item in lost]  # fmt: skip


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
