"""Geometry of the simulated telescope, held against the SIAF and the pipeline's own coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from survey.errors import ConfigError
from survey.simulate import geometry
from survey.simulate.geometry import Attitude

MICROARCSEC = 1e-6 / 3600  # degrees; far below 1e-4 arcsec, far above rounding


@pytest.mark.parametrize(
    ("detector", "subarray", "start"),
    [
        ("NRCBLONG", "SUB320", (853, 861)),
        ("NRCBLONG", "SUB640", (693, 701)),
        ("NRCALONG", "SUB640", (705, 705)),
        ("NRCB1", "SUB320", (1, 1)),
        ("NRCB4", "SUB320", (1729, 1729)),
        ("NRCA1", "FULL", (1, 1)),
    ],
)
def test_windows_start_where_real_headers_say(detector, subarray, start):
    window = geometry.window(detector, subarray)
    assert (window.x0 + 1, window.y0 + 1) == start
    size = {"FULL": 2048, "SUB640": 640, "SUB320": 320}[subarray]
    assert (window.nx, window.ny) == (size, size)


@pytest.mark.parametrize("detector", [f"NRC{m}{c}" for m in "AB" for c in ("1", "4", "LONG")])
def test_distortion_is_the_siafs_and_its_inverse_goes_back(detector):
    x, y = np.array([0.0, 300.0, 2000.0, 1023.5]), np.array([0.0, 1900.0, 50.0, 1023.5])
    v2, v3 = geometry.distortion_model(detector)(x, y)
    siaf_v2, siaf_v3 = geometry.aperture(detector).sci_to_tel(x + 1, y + 1)  # the SIAF counts pixels from 1
    np.testing.assert_allclose([v2, v3], [siaf_v2, siaf_v3], atol=1e-9)
    back = geometry.distortion_model(detector).inverse(v2, v3)
    np.testing.assert_allclose(back, [x, y], atol=0.05)  # the SIAF's own accuracy at the corners
    np.testing.assert_allclose(geometry.v2v3_to_pixel(detector, v2, v3), [x, y], atol=1e-9)


def test_pixel_area_is_that_of_the_siafs_scales():
    for detector in ("NRCB1", "NRCALONG"):
        place = geometry.aperture(detector)
        # the product of the scales ignores the skew of the axes, which is below 1e-4
        expected = place.XSciScale * place.YSciScale
        assert geometry.nominal_pixel_area_arcsec2(detector) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("detector", "axes"),
    [("NRCA1", (-1, 2)), ("NRCA2", (1, -2)), ("NRCALONG", (-1, 2)), ("NRCB1", (1, -2)), ("NRCBLONG", (1, -2))],
)
def test_readout_axes_are_those_of_real_headers(detector, axes):
    assert geometry.readout_axes(detector) == axes


def test_attitude_points_where_it_says():
    attitude = Attitude(-88.6, -491.6, 214.825, 52.825, -49.7)
    ra, dec = attitude.to_sky(-88.6, -491.6)
    assert (float(ra), float(dec)) == (pytest.approx(214.825, abs=1e-12), pytest.approx(52.825, abs=1e-12))
    # one arcsec along V3 is one arcsec towards position angle -49.7
    ra, dec = attitude.to_sky(-88.6, -490.6)
    east, north = (float(ra) - 214.825) * np.cos(np.radians(52.825)) * 3600, (float(dec) - 52.825) * 3600
    # the distance along V3 is exact; the direction turns by less than 1e-5 over an arcsec
    np.testing.assert_allclose([east, north], [np.sin(np.radians(-49.7)), np.cos(np.radians(-49.7))], atol=2e-5)


def test_attitude_goes_back_and_is_the_same_from_every_point():
    attitude = Attitude(-88.6, -491.6, 0.001, -30.0, 200.0)  # across ra = 0
    v2, v3 = np.array([-120.0, 0.0, 90.0]), np.array([-450.0, 0.0, -500.0])
    ra, dec = attitude.to_sky(v2, v3)
    assert np.all((ra >= 0) & (ra < 360))
    np.testing.assert_allclose(attitude.from_sky(ra, dec), [v2, v3], atol=1e-9)
    np.testing.assert_allclose(attitude.at(90.0, -500.0).to_sky(v2, v3), [ra, dec], atol=1e-11)


def test_shift_and_roll_are_those_asked_for():
    attitude = Attitude(-88.6, -491.6, 214.825, 52.825, 310.3)
    moved = attitude.shifted(0.3, -0.2, 0.01)
    assert (moved.ra - attitude.ra) * np.cos(np.radians(attitude.dec)) * 3600 == pytest.approx(0.3, abs=1e-5)
    assert (moved.dec - attitude.dec) * 3600 == pytest.approx(-0.2, abs=1e-5)
    assert moved.roll - attitude.roll == pytest.approx(0.01, abs=1e-12)
    same = attitude.shifted(0.0, 0.0, 0.0)
    assert (same.ra, same.dec, same.roll) == pytest.approx((attitude.ra, attitude.dec, attitude.roll), abs=1e-12)


@pytest.mark.parametrize("name", ["NRCC1", "NRS1", "", "NRCA5", "nrca1", "../NRCA1"])
def test_unknown_detectors_are_refused_by_name(name):
    with pytest.raises(ConfigError, match="NRCA1, NRCA2"):
        geometry.siaf_detector(name)


def test_unknown_subarray_is_refused():
    with pytest.raises(ConfigError, match="SUB999"):
        geometry.aperture("NRCB1", "SUB999")


@pytest.mark.pipeline
def test_attitude_equals_the_pipelines_rotation():
    from jwst.assign_wcs.pointing import _v23tosky, compute_roll_ref

    attitude = Attitude(-88.6, -491.6, 214.825, 52.825, 310.3)
    v2, v3 = np.array([-120.0, -50.0, 90.0]), np.array([-450.0, -500.0, -500.0])
    theirs = _v23tosky(-88.6 / 3600, -491.6 / 3600, 310.3, 214.825, 52.825)(v2, v3)
    np.testing.assert_allclose(attitude.to_sky(v2, v3), theirs, atol=MICROARCSEC)
    roll = compute_roll_ref(-88.6, -491.6, 310.3, 214.825, 52.825, 90.0, -500.0)
    assert attitude.at(90.0, -500.0).roll == pytest.approx(roll, abs=1e-9)
