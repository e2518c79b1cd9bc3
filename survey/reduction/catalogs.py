"""Which mosaics need an online reference catalogue, and where it is: for the plan, and fetched before a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from survey.archive.headers import DamagedFileError, read_primary_header
from survey.config.model import SurveyConfig
from survey.config.pipeline_spec import ONLINE_CATALOGUES
from survey.errors import ReferencesError
from survey.models import Association, CatalogFile, Exposure
from survey.mosaics.sky_plane import mean_direction
from survey.planning.mosaic_list import mosaics_of, reference_of
from survey.planning.recipe import recipe_of
from survey.reduction.inputs import raw_files, unreferenced
from survey.reduction.options import Say, silent
from survey.references import References, catalogs
from survey.steps.reference_catalog import FOLDER

PARS = ("pars-tweakregstep", "pars-image3pipeline")  # later ones take precedence
# tweakreg asks for the cone around a rectangle that holds the exposures: at most this many times as far from their
# middle as their corners are. The rest is for alignments and for the curvature of the sky.
REACH, MARGIN_DEG = 2.0, 0.02
Wanted = dict[str, dict[str, catalogs.Query | None]]  # product -> {first exposure: query; None: not known yet}


def with_catalogs(
    config: SurveyConfig,
    exposures: Sequence[Exposure],
    references: References,
    associations: Iterable[Association] | None = None,
) -> References:
    """References with the catalogues that mosaics need and that the workspace has; nothing is fetched.

    Parameters
    ----------
    exposures : at least the members
    associations : default: those that the config asks for
    """
    wanted = _wanted(config, exposures, references, associations)
    folder = config.folders.root / FOLDER
    found = {
        product: {first: _file(query, folder) for first, query in queries.items()}
        for product, queries in wanted.items()
    }
    return replace(references, catalogs=found) if found else references


def sync_catalogs(
    config: SurveyConfig,
    exposures: Sequence[Exposure],
    references: References,
    associations: Iterable[Association] | None = None,
    *,
    renew: bool = False,
    say: Say = silent,
) -> References:
    """As `with_catalogs`, after fetching those that the workspace lacks.

    Parameters
    ----------
    renew : fetch all of them again

    Raises
    ------
    ServiceUnreachableError, AccessRefusedError
        The service of catalogues does not answer.
    ReferencesError
        The headers of a mosaic's raw files have no date or no footprint.
    """
    asked = list(associations) if associations is not None else None
    lacking = unreferenced(config, exposures, references)
    exposures = [replace(item, fault=lacking.get(item.name, item.fault)) for item in exposures]
    folder = config.folders.root / FOLDER
    for product, queries in _wanted(config, exposures, references, asked).items():
        for first, query in queries.items():
            if query is None:
                raise ReferencesError(
                    f"{product}: tweakreg needs a reference catalogue (abs_refcat), and the header of {first} has no "
                    "DATE-OBS, or members have no footprint."
                )
            if renew or catalogs.recall(folder, query) is None:
                stored = catalogs.fetch(folder, query, config.references.timeout_seconds)
                say(f"{FOLDER}/{stored.path.name}: {stored.rows} sources of {query.catalog}")
    return with_catalogs(config, exposures, references, asked)


def _file(query: catalogs.Query | None, folder: Path) -> CatalogFile:
    if query is None:
        return CatalogFile("the reference catalogue")
    stored = catalogs.recall(folder, query)
    return CatalogFile(f"{FOLDER}/{query.name}.csv", "" if stored is None else stored.sha256)


def _wanted(
    config: SurveyConfig,
    exposures: Sequence[Exposure],
    references: References,
    associations: Iterable[Association] | None,
) -> Wanted:
    """Queries by mosaic, for each exposure that may be its first: up to ``max_missing`` may be lost in a run."""
    if config.mosaic.alignment is not None:
        return {}
    asked = list(mosaics_of(config, exposures) if associations is None else associations)
    by_name = {exposure.name: exposure for exposure in exposures}
    paths = raw_files(config.folders, exposures)
    found: Wanted = {}
    for association in asked:
        if reference_of(config, association, asked) is not None:
            continue  # it is aligned to the sources of another mosaic
        for first in association.members[: 1 + config.mosaic.max_missing]:
            name = online_catalog(config, references, first)
            if name:
                query = _query(association, name, paths.get(first), by_name)
                found.setdefault(association.product, {})[first] = query
    return found


def online_catalog(config: SurveyConfig, references: References, exposure: str) -> str:
    """The online catalogue that tweakreg will ask for: by the config, else by a parameter file of CRDS; or ''."""
    pars: dict[str, object] = {}
    try:
        files = references.for_step(exposure, PARS)
    except ReferencesError:  # not looked up yet
        files = {}
    for kind in PARS:
        if kind in files:
            step = "tweakreg" if kind.endswith("pipeline") else ""
            pars |= catalogs.parameters_in(references.path(files[kind]), step)
    pars |= recipe_of(config).image3.get("tweakreg", {})
    name = str(pars.get("abs_refcat") or "").strip().upper()
    return name if name in ONLINE_CATALOGUES and pars.get("skip") is not True else ""


def _query(
    association: Association, catalog: str, first: Path | None, exposures: Mapping[str, Exposure]
) -> catalogs.Query | None:
    """The query of a mosaic; None as long as headers of its members do not tell date and place."""
    corners = [exposures[name].footprint for name in association.members]
    if first is None or not all(corners):
        return None
    try:
        date = read_primary_header(first).text("DATE-OBS")
    except (OSError, DamagedFileError):
        return None
    if not date:
        return None
    points = [point for footprint in corners if footprint for point in footprint]
    ra, dec = mean_direction(points)
    middle = catalogs.Cone(ra, dec, 0.0)
    radius = REACH * max(middle.distance_deg(*point) for point in points) + MARGIN_DEG
    name = f"{association.product}_{catalog.lower()}_{date}"
    return catalogs.Query(name, catalog, date, catalogs.Cone(round(ra, 9), round(dec, 9), round(radius, 6)))
