"""The simulated sky: catalogue, point-spread function and its image on a detector."""

from __future__ import annotations

import numpy as np
import pytest

from survey.errors import ConfigError
from survey.simulate import geometry, sky
from survey.simulate.detector import load_detector
from survey.simulate.geometry import Attitude
from survey.simulate.psf import HALF_SIZE, PHASES, load_psf, passband
from survey.simulate.scene import Scene

SCENE = Scene(sky={"stars": {"number": 30}, "galaxies": {"number": 20}})


def one_source(**values):
    """A catalogue of a single star (or galaxy) at the target."""
    table = sky.draw_sources(SCENE)[:1]
    table["ra"], table["dec"], table["flux_F444W"] = SCENE.ra_deg, SCENE.dec_deg, 100.0
    for name, value in values.items():
        table[name] = value
    return table


def looking_at_target(detector="NRCBLONG", dx=0.0, dy=0.0):
    """Attitude that puts the target on a given offset from the middle of the detector's SUB320, and that pixel."""
    window = geometry.window(detector, "SUB320")
    x, y = window.x0 + 160 + dx, window.y0 + 160 + dy
    v2, v3 = geometry.pixel_to_v2v3(detector, x, y)
    return Attitude(float(v2), float(v3), SCENE.ra_deg, SCENE.dec_deg, 30.0), window


def centroid(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return (image * x).sum() / image.sum(), (image * y).sum() / image.sum()


@pytest.mark.parametrize("filter_name", ["F200W", "F444W"])
def test_psf_keeps_flux_and_position(filter_name):
    psf = load_psf(filter_name)
    for fraction in ((0.0, 0.0), (0.31, 0.72), (0.999, 0.5)):
        stamp = psf.stamp(*fraction).astype(float)
        assert stamp.sum() == pytest.approx(1.0, abs=1e-5)
        x, y = centroid(stamp)
        # what the stamp's edge cuts off on one side moves the centroid by a few thousandths of a pixel
        assert (x - HALF_SIZE, y - HALF_SIZE) == pytest.approx(fraction, abs=0.01)


def test_psf_is_diffraction_limited():
    for filter_name in ("F200W", "F444W"):
        wavelength, _, _ = passband(filter_name)
        psf = load_psf(filter_name)
        middle = psf.fine.shape[0] // 2
        row = psf.fine[middle]
        # width between the interpolated half-maximum points
        beyond = np.flatnonzero(row[middle:] < row[middle] / 2)[0]
        high, low = row[middle + beyond - 1], row[middle + beyond]
        half = beyond - 1 + (high - row[middle] / 2) / (high - low)
        fwhm = 2 * half * psf.pixel_arcsec / 8
        # lambda / D of a 6.5 m mirror with a factor 1.0 for hexagons with a hole, and 6 mas of jitter
        assert fwhm == pytest.approx(wavelength * 1e-6 / 6.5 / geometry.ARCSEC, rel=0.08)


def test_encircled_energy_grows_to_one():
    psf = load_psf("F444W")
    offset = (np.arange(psf.fine.shape[0]) - psf.fine.shape[0] // 2) * psf.pixel_arcsec / PHASES
    distance = np.hypot(offset, offset[:, None])
    energies = [float(psf.fine[distance <= radius].sum()) for radius in (0.1, 0.3, 1.0, 4.0, 10.0)]
    assert energies == sorted(energies)
    assert 0.8 < energies[1] < 0.92  # JWST's F444W: 0.87 within 0.3 arcsec
    assert energies[-1] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", ["F20W", "K", "", "F\u0662\u0660\u0660W", "F200X"])
def test_unknown_filters_are_refused(name):
    with pytest.raises(ConfigError, match="filter"):
        passband(name)


def test_catalogue_is_the_seeds_alone():
    first, again = sky.draw_sources(SCENE), sky.draw_sources(SCENE)
    assert all((first[name] == again[name]).all() for name in first.colnames)
    other = sky.draw_sources(SCENE.model_copy(update={"seed": 2}))
    assert not np.any(first["ra"] == other["ra"])
    fewer = sky.draw_sources(SCENE.model_copy(update={"filters": ["F444W"]}))
    assert (first["flux_F444W"] == fewer["flux_F444W"]).all()
    assert (first["ra"] == fewer["ra"]).all()


def test_catalogue_lies_where_and_is_as_bright_as_asked():
    table = sky.draw_sources(SCENE)
    east = (table["ra"] - SCENE.ra_deg) * np.cos(np.radians(SCENE.dec_deg)) * 3600
    north = (table["dec"] - SCENE.dec_deg) * 3600
    assert np.hypot(east, north).max() < SCENE.sky.radius_arcsec * 1.001
    stars = table[table["kind"] == "star"]
    assert len(stars) == 30
    assert stars["mag_ab"].min() >= 18.0
    assert stars["mag_ab"].max() <= 25.0
    # AB magnitudes hold at 2 micron, where F200W is
    np.testing.assert_allclose(stars["flux_F200W"], 10 ** (0.4 * (23.9 - stars["mag_ab"])), rtol=1e-12)


def test_scattered_points_fill_the_disc_and_keep_apart():
    rng = np.random.default_rng(1)
    east, north = sky.scatter(300, 20.0, 1.0, rng)
    distance = np.hypot(east[:, None] - east, north[:, None] - north)
    assert distance[~np.eye(300, dtype=bool)].min() >= 1.0
    # uniform: a quarter of them within half the radius, to 3 sigma of a binomial
    assert np.mean(np.hypot(east, north) < 10.0) == pytest.approx(0.25, abs=0.075)
    with pytest.raises(ConfigError, match="do not fit"):
        sky.scatter(300, 5.0, 1.0, rng)
    assert sky.scatter(0, 5.0, 1.0, rng)[0].shape == (0,)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.4, -3.3)])
def test_star_has_its_flux_at_its_place(offset):
    attitude, window = looking_at_target(dx=offset[0], dy=offset[1])
    image = sky.flux_image(one_source(kind="star"), "NRCBLONG", window, "F444W", attitude)
    assert image.sum() == pytest.approx(100.0, rel=1e-5)
    assert centroid(image) == pytest.approx((160 + offset[0], 160 + offset[1]), abs=0.01)


def test_star_at_the_edge_keeps_the_part_that_is_inside():
    attitude, window = looking_at_target(dx=-160.5)  # on the outer edge of the first column
    image = sky.flux_image(one_source(kind="star"), "NRCBLONG", window, "F444W", attitude)
    assert image.sum() == pytest.approx(50.0, rel=0.02)  # the hexagon is symmetric but for sub-pixel phase


def test_surface_brightness_weighted_with_area_is_the_flux():
    attitude, window = looking_at_target("NRCB1")
    table = one_source(kind="star", flux_F200W=50.0)
    detector = load_detector("NRCB1", SCENE)
    rate = sky.sky_rate(table, detector, window, "F200W", attitude, 0.0)
    area = detector.relative_area[window.slices]
    assert area.mean() != pytest.approx(1.0, abs=0.003)  # a corner of the frame: the test would see a wrong sign
    assert (rate * area).sum() / detector.electrons_per_ujy("F200W") == pytest.approx(50.0, rel=1e-5)


def test_empty_sky_is_uniform_zodiacal_light():
    attitude, window = looking_at_target()
    detector = load_detector("NRCBLONG", SCENE)
    rate = sky.sky_rate(one_source()[:0], detector, window, "F444W", attitude, 0.35)
    np.testing.assert_allclose(rate, 0.35 * detector.electrons_per_mjy_sr("F444W"), rtol=1e-12)


def test_galaxy_has_its_flux_shape_and_angle():
    attitude, window = looking_at_target()
    table = one_source(kind="galaxy", half_light=0.6, sersic=1.0, axis_ratio=0.4, position_angle=30.0)
    image = sky.flux_image(table, "NRCBLONG", window, "F444W", attitude)
    assert image.sum() == pytest.approx(100.0, rel=1e-5)
    assert centroid(image) == pytest.approx((160, 160), abs=0.01)
    # second moments, back on the sky: the major axis lies at the position angle
    x, y = np.meshgrid(np.arange(320) - 160.0, np.arange(320) - 160.0)
    east, north = np.tensordot(sky.pixel_to_east_north("NRCBLONG", window, 160, 160, attitude), [x, y], axes=1)
    ee, nn, en = ((image * term).sum() / image.sum() for term in (east**2, north**2, east * north))
    angle = np.degrees(0.5 * np.arctan2(2 * en, nn - ee))
    assert angle == pytest.approx(30.0, abs=2.0)  # the PSF's sixfold wings add a degree


@pytest.mark.parametrize("index", [1.0, 4.0])
def test_sersic_holds_half_its_light_within_its_half_light_radius(index):
    offset = (np.arange(1200) - 599.5) / 50
    east, north = np.meshgrid(offset, offset)
    profile = sky.sersic(east, north, 2.0, index, 1.0, 0.0)
    inside = profile[np.hypot(east, north) <= 2.0].sum() / profile.sum()
    # half of the unbounded profile; 6 radii hold all of an exponential and 91 per cent of a de Vaucouleurs profile
    assert inside == pytest.approx({1.0: 0.5, 4.0: 0.5 / 0.9105}[index], rel=0.01)
