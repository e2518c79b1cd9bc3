"""Grids of alignments as plain numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from survey.mosaics.sky_plane import LinearWcs
from survey.steps.image3.wcs_files import linear_wcs

pytestmark = pytest.mark.slow  # gwcs takes seconds to import

GRID = LinearWcs((214.8252, 52.8255), (442.0, 458.5), 0.03, -49.7, (940, 900))


def fits_wcs(grid, *, stretch=1.0, more=None):
    """A grid as the pipeline makes it: gwcs with one FITS imaging transform."""
    import astropy.units as u
    from astropy.coordinates import ICRS
    from astropy.modeling.models import Pix2Sky_TAN
    from gwcs import WCS
    from gwcs.coordinate_frames import CelestialFrame, Frame2D
    from gwcs.fitswcs import FITSImagingWCSTransform

    angle, scale = math.radians(grid.rotation_deg), grid.pixel_scale_arcsec / 3600
    pc = np.array([[-math.cos(angle), math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    transform = FITSImagingWCSTransform(
        Pix2Sky_TAN(), crpix=list(grid.crpix), crval=list(grid.crval_deg), cdelt=[scale, stretch * scale], pc=pc
    )
    sky = CelestialFrame(reference_frame=ICRS(), unit=(u.deg, u.deg))
    wcs = WCS([(Frame2D(name="detector"), transform if more is None else more | transform), (sky, None)])
    wcs.array_shape = grid.shape[::-1]
    return wcs


def test_a_grid_of_the_pipeline_is_linear():
    wcs = fits_wcs(GRID)
    found = linear_wcs(wcs)
    assert found is not None
    assert found.rotation_deg == pytest.approx(GRID.rotation_deg, abs=1e-9)
    assert found.pixel_scale_arcsec == pytest.approx(GRID.pixel_scale_arcsec, rel=1e-12)
    assert (found.crval_deg, found.crpix, found.shape) == (GRID.crval_deg, GRID.crpix, GRID.shape)
    sky = tuple(float(value) for value in wcs(10.0, 800.0))
    assert found.pixel_of(sky) == pytest.approx((10.0, 800.0), abs=1e-6)


def test_any_other_wcs_is_not_told_as_linear():
    from astropy.modeling.models import Identity

    assert linear_wcs(fits_wcs(GRID, stretch=1.01)) is None
    assert linear_wcs(fits_wcs(GRID, more=Identity(2))) is None
