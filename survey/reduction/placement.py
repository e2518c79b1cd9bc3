"""Compare the grids of a plan with the exposures of its mosaics, with the layouts of the workspace."""

from __future__ import annotations

from dataclasses import replace

from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.models import Plan
from survey.mosaics.layouts import read_layouts
from survey.planning.grids import Grid, grids
from survey.planning.placement import Placement, placement
from survey.planning.pointing import pointing_warnings
from survey.planning.recipe import recipe_of


def plan_grids(config: SurveyConfig, made: Plan) -> dict[str, Grid | None]:
    """The output grid of each mosaic of a plan, by product; None where it is not known yet."""
    products = [association.product for association in made.associations]
    layouts = read_layouts(config.folders.root, products)
    return grids(made, recipe_of(config).image3.get("resample", {}), layouts)


def placement_of(config: SurveyConfig, made: Plan) -> Placement:
    """Compare the grid of each mosaic of a plan with the footprints of its members; warn of doubtful pointings too."""
    resample = recipe_of(config).image3.get("resample", {})
    found = placement(made, plan_grids(config, made), resample, config.mosaic.model_dump(exclude={"image3"}))
    return replace(found, warnings=(*found.warnings, *pointing_warnings(made.exposures)))


def check_placement(config: SurveyConfig, made: Plan) -> tuple[str, ...]:
    """Warnings of grids that lose exposures or parts of them, and of exposures whose pointing may be wrong.

    Raises
    ------
    ConfigError
        A grid misses all exposures of a mosaic, or would be nearly empty.
    """
    found = placement_of(config, made)
    if found.faults:
        raise ConfigError(config.located(found.faults))
    return found.warnings
