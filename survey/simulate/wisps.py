"""Wisps of several components, from the templates of the package nmfwisp or from built-in ones.

nmfwisp (Wu et al., arXiv 2601.15958; MIT licence) has templates of real data. Only its files are read.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata, util
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.interpolate import RectBivariateSpline

from survey.errors import ConfigError
from survey.simulate.artifacts import wisp_template
from survey.simulate.detector import FRAME
from survey.simulate.sections import Wisps
from survey.simulate.streams import Streams

MOST_COMPONENTS = 3
SHARE = 0.5  # peak of a component over that of the one before it


def wisp_strengths(settings: Wisps, streams: Streams) -> np.ndarray:
    """Peak of each component in one exposure, (3,) [e-/s]; 0 for components that the scene does not have."""
    factors = np.maximum(0, 1 + settings.variation * streams.own("wisps").standard_normal(MOST_COMPONENTS))
    strengths = settings.amplitude_e_s * SHARE ** np.arange(MOST_COMPONENTS) * factors
    strengths[settings.components :] = 0
    return strengths


def wisp_components(settings: Wisps, detector: str, filter_name: str, seed: int) -> tuple[list[np.ndarray], str]:
    """Templates of a detector and filter, and where they are from.

    Returns
    -------
    templates : list of at most three full frames (2048, 2048) float32, each with peak 1, not negative
    source : 'builtin' or 'nmfwisp' with its version

    Raises
    ------
    ConfigError
        The scene asks for nmfwisp, which is not installed or has no template of this detector and filter.
    """
    folder = nmfwisp_folder()
    if settings.templates == "builtin" or (settings.templates == "auto" and folder is None):
        return [wisp_template(detector, seed, number) for number in range(settings.components)], "builtin"
    if folder is None:
        raise ConfigError(
            "artifacts.wisps.templates: the package nmfwisp is not installed. "
            "Install it (pip install 'jwst-survey[community]'), or set templates to auto or builtin."
        )
    templates = _read_templates(folder, detector.lower(), filter_name.lower())
    return list(templates[: settings.components]), f"nmfwisp {_version()}"


def nmfwisp_folder() -> Path | None:
    """The folder of nmfwisp's templates; None if the package is not installed. Does not import it."""
    found = util.find_spec("nmfwisp")
    for place in (found.submodule_search_locations if found else None) or ():
        if (Path(place) / "templates").is_dir():
            return Path(place) / "templates"
    return None


def _version() -> str:
    try:
        return metadata.version("nmfwisp")
    except metadata.PackageNotFoundError:
        return "of unknown version"


@lru_cache(maxsize=4)
def _read_templates(folder: Path, detector: str, filter_name: str) -> tuple[np.ndarray, ...]:
    """The components in a file of nmfwisp: extensions WISP_0, WISP_1 ..., full frames or every fourth pixel."""
    for subfolder in (f"{detector}_org", detector):
        for ending in (".fits", ".fits.gz"):
            path = folder / subfolder / f"{detector}_{filter_name}_wisp{ending}"
            if path.is_file():
                with fits.open(path) as hdus:
                    planes = [hdu.data for hdu in hdus if hdu.name.startswith("WISP_")]
                return tuple(_full_frame(plane) for plane in planes[:MOST_COMPONENTS])
    raise ConfigError(
        f"{folder}: no wisp template of {detector.upper()} and {filter_name.upper()}. "
        "Set artifacts.wisps.templates to builtin."
    )


def _full_frame(plane: np.ndarray) -> np.ndarray:
    """A template over the full frame with peak 1; coarser ones are interpolated linearly."""
    size = plane.shape[0]
    template = np.asarray(plane, float)
    if size != FRAME:
        step = FRAME // size
        nodes = np.arange(size) * step + (step - 1) / 2
        pixels = np.clip(np.arange(FRAME), nodes[0], nodes[-1])
        template = RectBivariateSpline(nodes, nodes, template, kx=1, ky=1)(pixels, pixels)
    template = np.maximum(template, 0)
    template = (template / max(template.max(), np.finfo(float).tiny)).astype(np.float32)
    template.setflags(write=False)
    return template
