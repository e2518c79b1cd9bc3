"""The mosaics that a config asks for, and which of them others are aligned to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from survey.config.model import SurveyConfig
from survey.models import Association, Exposure
from survey.names import association_id
from survey.nircam import sees
from survey.planning.associations import WHOLE_SURVEY, group
from survey.planning.recipe import recipe_of


def mosaics_of(config: SurveyConfig, exposures: Sequence[Exposure]) -> tuple[Association, ...]:
    """The associations that a config asks for; none when its steps end before the calibrated images."""
    if not recipe_of(config).makes_mosaics:
        return ()
    exposures = [exposure for exposure in exposures if not exposure.excluded]
    made = group([exposure for exposure in exposures if not exposure.fault], config.mosaic.per, config.programs)
    faulty = [exposure for exposure in exposures if exposure.fault]
    return tuple(replace(item, lost=_lost(config, item, faulty)) for item in made)


def _lost(config: SurveyConfig, association: Association, faulty: Iterable[Exposure]) -> tuple[str, ...]:
    """Exposures that cannot be used and would be members: by their filter, or, where that is not known, detector."""
    programs = config.programs if association.field == "all" else (association.program,)
    return tuple(
        sorted(
            exposure.name
            for exposure in faulty
            if exposure.filter in ("", association.filter)
            and sees(exposure.detector, association.filter)
            and exposure.program in {association.program, *programs}
            and association.field in ("all", f"o{exposure.observation:03d}")
        )
    )


def in_order(config: SurveyConfig, associations: Iterable[Association]) -> list[Association]:
    """Associations, those that others are aligned to first."""
    return sorted(associations, key=lambda item: item.filter != config.mosaic.align_to)


def reference_of(config: SurveyConfig, association: Association, others: Iterable[Association]) -> str | None:
    """Product of the association that this one is aligned to: of the filter that the config names, and its field."""
    wanted = config.mosaic.align_to
    if config.mosaic.engine != "tiled" or wanted is None or association.filter == wanted:
        return None
    same = [item for item in others if item.filter == wanted and _are_joined(config, item, association)]
    near = [item for item in same if item.field == association.field] or same
    return near[0].product if near else None


def _are_joined(config: SurveyConfig, first: Association, second: Association) -> bool:
    """Whether two mosaics are of the same programs; those of a whole survey of several programs are."""
    return first.program == second.program or (len(config.programs) > 1 and first.field == second.field == "all")


def group_name(association: Association) -> str:
    """Zarr group of a mosaic: its filter, and for any but the whole survey's the association's id: F444W-o001.

    An association from outside names its own.
    """
    if association.group:
        return association.group
    acid = association_id(association.product)
    return association.filter if acid == WHOLE_SURVEY else f"{association.filter}-{acid}"
