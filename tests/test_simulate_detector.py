"""The simulated detectors: same seed, same pixels; flags and numbers that the pipeline's own conventions confirm."""

from __future__ import annotations

import numpy as np
import pytest

from survey.errors import ConfigError
from survey.simulate import detector as detectors
from survey.simulate.detector import active_area, load_detector, stream
from survey.simulate.scene import DetectorSettings, Scene

SCENE = Scene(seed=7)


@pytest.fixture(scope="module")
def long_wave():
    return load_detector("NRCBLONG", SCENE)


@pytest.fixture(scope="module")
def flats(long_wave):
    return long_wave.flat("F444W"), long_wave.flat("F444W", version=2)


def test_flags_are_those_of_the_datamodels():
    from stdatamodels.jwst.datamodels.dqflags import pixel

    for name in ("DO_NOT_USE", "DEAD", "HOT", "NO_FLAT_FIELD", "REFERENCE_PIXEL"):
        assert getattr(detectors, name) == pixel[name]


def test_the_same_seed_draws_the_same_detector(long_wave):
    drawn_again = detectors._draw.__wrapped__("NRCBLONG", 7, SCENE.detector)
    for name in ("gain", "read_noise", "superbias", "dark", "saturation", "mask", "quadratic"):
        np.testing.assert_array_equal(getattr(drawn_again, name), getattr(long_wave, name))


def test_streams_differ_by_seed_and_label():
    first = stream(1, "NRCB1", "gain").random(3)
    assert (first == stream(1, "NRCB1", "gain").random(3)).all()
    assert not (first == stream(2, "NRCB1", "gain").random(3)).any()
    assert not (first == stream(1, "NRCB2", "gain").random(3)).any()


def test_border_is_reference_pixels_that_see_nothing(long_wave):
    border = ~active_area()
    assert border.sum() == 2048**2 - 2040**2
    assert (((long_wave.mask & detectors.REFERENCE_PIXEL) != 0) == border).all()
    assert not long_wave.response[border].any()
    assert not long_wave.dark[border].any()
    # DO_NOT_USE on them would keep the pipeline's reference pixel step from using them
    assert not (long_wave.mask[border] & detectors.DO_NOT_USE).any()


def test_pixels_scatter_as_the_scene_says(long_wave):
    settings = DetectorSettings()
    assert long_wave.gain.mean() == pytest.approx(settings.gain, rel=1e-4)
    assert long_wave.gain.std() / settings.gain == pytest.approx(settings.gain_structure, rel=0.01)
    noise_e = long_wave.read_noise * settings.gain
    assert noise_e.mean() == pytest.approx(settings.read_noise_e, rel=1e-3)
    # 4 million pixels: a per-mille fraction has an error of 2%; 4 amplifiers and 2048 columns scatter the bias more
    hot, dead = (((long_wave.mask & flag) != 0).mean() for flag in (detectors.HOT, detectors.DEAD))
    assert hot == pytest.approx(settings.hot_fraction, rel=0.08)
    assert dead == pytest.approx(settings.dead_fraction, rel=0.1)
    assert long_wave.superbias.std() == pytest.approx(settings.bias_structure_dn, rel=0.25)
    assert np.median(long_wave.dark[active_area()]) == pytest.approx(settings.dark_e_s, rel=0.01)


def test_hot_pixels_are_the_bright_dark_ones(long_wave):
    hot = (long_wave.mask & detectors.HOT) != 0
    assert long_wave.dark[hot].min() >= 1
    assert long_wave.dark[hot].max() <= 50
    assert long_wave.dark[~hot].max() < 0.1
    useless = (long_wave.mask & detectors.DO_NOT_USE) != 0
    assert useless[hot & (long_wave.dark > 10)].all()
    assert not useless[hot & (long_wave.dark < 10)].any()


def test_linearity_loses_the_set_fraction_at_saturation(long_wave):
    settings = DetectorSettings()
    measured = settings.saturation_dn - settings.bias_dn
    true = sum(plane.astype(float).mean() * measured**k for k, plane in enumerate(long_wave.linearity))
    assert 1 - measured / true == pytest.approx(settings.nonlinearity, rel=1e-3)


def test_nobody_can_write_into_a_shared_detector(long_wave, flats):
    for array in (long_wave.gain, long_wave.mask, flats[0], long_wave.relative_area):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_flat_is_normalised_and_structured(flats):
    flat, _ = flats
    assert np.median(flat) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(flat).all() and flat.min() > 0.8
    pixel_to_pixel = (flat[:, 1:] - flat[:, :-1]).std() / np.sqrt(2)
    assert pixel_to_pixel == pytest.approx(DetectorSettings().flat_pixel_rms, rel=0.02)


def test_second_version_of_a_flat_differs_smoothly_by_a_percent(flats):
    ratio = flats[1] / flats[0]
    assert ratio.std() == pytest.approx(0.01, rel=0.1)
    assert np.abs(np.diff(ratio, axis=1)).max() < 1e-3


def test_source_and_surface_brightness_agree(long_wave):
    # 1 uJy spread over one nominal pixel is a surface brightness of 1e-12 MJy / pixel_area_sr
    brightness = 1e-12 / long_wave.pixel_area_sr
    assert long_wave.electrons_per_ujy("F444W") == pytest.approx(
        brightness / long_wave.photmjsr("F444W") * SCENE.detector.gain
    )
    assert long_wave.pixel_area_sr == pytest.approx(9.3e-14, rel=0.01)  # NIRCam long wave, 0.063 arcsec


def test_wrong_detector_and_filter_are_named(long_wave):
    with pytest.raises(ConfigError, match=r"NRCC1.*expected one of NRCA1"):
        load_detector("NRCC1", SCENE)
    with pytest.raises(ConfigError, match="NRCBLONG: no filter 'F200W'"):
        long_wave.photmjsr("F200W")
