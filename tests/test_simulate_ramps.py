"""Ramps: the physics against its formulas, each artifact on and off, truth against counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from survey.errors import ConfigError
from survey.simulate import artifacts as planted
from survey.simulate import geometry, ramps
from survey.simulate.detector import REFERENCE_PIXEL, Window, load_detector
from survey.simulate.ramps import View, make_ramp, measured_counts
from survey.simulate.readout import readout_timing
from survey.simulate.scene import (
    Artifacts,
    CosmicRays,
    Persistence,
    Readout,
    Scene,
    Snowballs,
    Striping,
    Wisps,
)

SCENE = Scene(seed=7)
CENTRE = Window(852, 860, 320, 320)
CORNER = Window(0, 0, 320, 320)  # with reference pixels
CLEAN = Artifacts(cosmic_rays=CosmicRays(enabled=False))
GROUP_S = 2 * 1.06904  # BRIGHT1 on SUB320


@pytest.fixture(scope="module")
def detector():
    return load_detector("NRCBLONG", SCENE)


def expose(detector, rate, artifacts=CLEAN, *, window=CENTRE, readout=None, seed=1, residual=None, filter_name="F444W"):
    sky = np.full((window.ny, window.nx), float(rate))
    rng = np.random.default_rng(seed)
    return make_ramp(sky, View(detector, window, filter_name), readout or Readout(), artifacts, rng, residual)


def steps_e(ramp, detector, window=CENTRE):
    """Differences of groups (ngroups - 1, ny, nx) [e-]."""
    return np.diff(ramp.data[0].astype(float), axis=0) * detector.gain[window.slices]


def ordinary(detector, window=CENTRE):
    return detector.mask[window.slices] == 0


def test_timing_of_patterns():
    assert tuple(readout_timing("BRIGHT1", "SUB320")) == pytest.approx((1, 1, 1.06904, GROUP_S))
    deep = readout_timing("DEEP8", "FULL")
    assert (deep.nframes, deep.groupgap, deep.group_s) == pytest.approx((8, 12, 20 * 10.73677))
    assert list(deep.frames(1)) == list(range(20, 28))
    assert deep.mean_seconds(0) == pytest.approx(4.5 * 10.73677)
    with pytest.raises(ConfigError, match="'FAST'"):
        readout_timing("FAST", "FULL")
    with pytest.raises(ConfigError, match="'SUB64'"):
        readout_timing("RAPID", "SUB64")


def test_charge_lands_in_the_group_that_holds_most_of_it():
    timing = readout_timing("SHALLOW4", "SUB320")  # reads 0-3, drops 4, reads 5-8
    times = np.array([0, 1, 2, 3, 4, 5, 7, 8]) + 0.5  # frame k is read at k + 1
    group, share = timing.landing(times * timing.frame_s, groups=2)
    assert group.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    # Frames 0 to 3 are 1, 3/4, 1/2, 1/4 of group 0; what comes late in the last group has no later one
    assert share.tolist() == [1, 0.75, 0.5, 0.75, 1, 1, 0.5, 0.25]


def test_dark_frame_is_bias_and_read_noise(detector):
    ramp = expose(detector, 0)
    good = ordinary(detector)
    assert ramp.data.shape == (1, 5, 320, 320) and ramp.data.dtype == np.uint16
    assert ramp.zeroframe is None and not ramp.saturated.any() and len(ramp.cosmic_rays) == 0
    excess = (ramp.data[0, 0].astype(float) - detector.superbias[CENTRE.slices])[good]
    assert excess.mean() == pytest.approx(0, abs=5 * 6 / 320)  # 6 DN of noise over 320 x 320 pixels
    noise = steps_e(ramp, detector)[:, good].std()
    assert noise == pytest.approx(np.sqrt(2) * SCENE.detector.read_noise_e, rel=0.01)


def test_light_comes_through_the_flat_with_poisson_noise(detector):
    rate = 500.0
    ramp = expose(detector, rate)
    good = ordinary(detector)
    expected = rate * detector.flat("F444W")[CENTRE.slices] + detector.dark[CENTRE.slices]
    signal = np.array([measured_counts(expected * t / 1.85, detector.quadratic[CENTRE.slices], detector.cubic) * 1.85
                       for t in GROUP_S * np.arange(1, 6) - 1.06904])  # fmt: skip
    residual = (steps_e(ramp, detector) - np.diff(signal, axis=0))[:, good]
    noise = np.sqrt(rate * GROUP_S + 2 * SCENE.detector.read_noise_e**2)
    assert residual.mean() == pytest.approx(0, abs=0.5)  # of 1069 e-: 4 steps share reads, error 0.1
    assert residual.std() == pytest.approx(noise, rel=0.015)


def test_polynomial_undoes_the_nonlinearity(detector):
    true = np.linspace(0, 47000, 320 * 320, dtype=np.float32).reshape(320, 320)
    c = detector.linearity[(slice(None), *CENTRE.slices)].astype(float)
    measured = measured_counts(true, detector.quadratic[CENTRE.slices], detector.cubic).astype(float)
    restored = sum(plane * measured**k for k, plane in enumerate(c))
    np.testing.assert_allclose(restored, true, atol=0.02)  # float32 resolves 0.004 DN here
    assert 1 - measured[-1, -1] / true[-1, -1] == pytest.approx(0.03, rel=0.1)


def test_full_well_is_flagged_and_clipped(detector):
    ramp = expose(detector, 20000)
    good = ordinary(detector)
    assert ramp.saturated[good].all()
    above = ramp.data[0, -1] - detector.saturation[CENTRE.slices]
    assert above[good].min() > 0 and above[good].max() < 0.02 * 46000 + 60  # margin of the well, and noise


def test_reference_pixels_see_drift_but_no_light(detector):
    ramp = expose(detector, 2000, window=CORNER)
    reference = (detector.mask[CORNER.slices] & REFERENCE_PIXEL) != 0
    assert reference.sum() == 4 * 320 + 4 * 316
    steps = np.diff(ramp.data[0].astype(float), axis=0)[:, reference]
    assert np.abs(steps.mean(axis=1)).max() < 12  # 4 sigma of a drift of 2 DN per read
    assert np.abs(steps.mean(axis=1)).max() > 0.5  # 3 sigma of the noise of 2544 pixels
    assert not ramp.saturated[reference].any()


def test_hits_step_up_by_their_charge(detector):
    rays = Artifacts(cosmic_rays=CosmicRays(rate_per_cm2_s=50))
    ramp = expose(detector, 2.0, rays)
    hits = ramp.cosmic_rays
    alone = hits[hits["detectable"] & (hits["sigma"] > 10) & (hits["electrons"] < 20000)]
    _, index, count = np.unique(alone[["x", "y"]], return_index=True, return_counts=True)
    alone = alone[index[count == 1]]
    seen = steps_e(ramp, detector)[alone["group"] - 1, alone["y"], alone["x"]]
    pull = (seen - alone["electrons"]) / (alone["electrons"] / alone["sigma"])
    assert len(alone) > 100
    # Up to 20,000 e- the non-linear output shows up to 1% less: half a sigma at the top
    assert abs(np.median(pull)) < 0.5 and np.quantile(np.abs(pull), 0.95) < 4
    everywhere = np.zeros((320, 320), bool)
    everywhere[hits["y"], hits["x"]] = True
    clean = steps_e(ramp, detector)[:, ordinary(detector) & ~everywhere]
    assert np.abs(clean).max() < 7 * 16.5  # nothing but noise elsewhere


def test_number_and_charge_of_hits():
    settings = CosmicRays(rate_per_cm2_s=5.0)
    rng = np.random.default_rng(3)
    deposits = planted.cosmic_ray_deposits((1000, 1000), 1000.0, settings, rng)
    hits = len(np.unique(deposits["time"]))
    expected = 5.0 * (18e-4 * 1000) ** 2 * 1000
    assert hits == pytest.approx(expected, rel=4 / np.sqrt(expected))
    assert deposits["electrons"].sum() / hits == pytest.approx(settings.mean_electrons, rel=0.05)
    assert deposits["electrons"].min() >= 1
    assert deposits["x"].max() < 1000 and deposits["y"].min() >= 0


def test_no_hits_when_switched_off():
    off = planted.cosmic_ray_deposits((10, 10), 0.0, CosmicRays(), np.random.default_rng(1))
    assert len(off) == 0


def test_pink_noise_has_unit_rms_and_falls_as_one_over_f():
    rng = np.random.default_rng(5)
    frames = [planted.pink_noise((128, 500), rng) for _ in range(40)]
    assert np.sqrt(np.mean(np.square(frames))) == pytest.approx(1, rel=0.05)
    power = np.mean([np.abs(np.fft.rfft(frame, axis=1)) ** 2 for frame in frames], axis=(0, 1))
    # Bins far from both ends of a row's spectrum: ten times the frequency, a tenth of the power
    assert power[8:12].mean() / power[80:120].mean() == pytest.approx(10, rel=0.15)


def test_striping_adds_its_variance_along_rows(detector):
    noisy = expose(detector, 0, CLEAN.model_copy(update={"striping": Striping(enabled=True, amplitude_e=10)}))
    good = ordinary(detector)
    bias = detector.superbias[CENTRE.slices]
    extra_e = (noisy.data[0].astype(float) - bias) * 1.85
    variance = extra_e[:, good].var() - SCENE.detector.read_noise_e**2
    assert np.sqrt(variance) == pytest.approx(10, rel=0.3)  # five reads of a noise that is strongest when slowest
    rows = np.median(extra_e, axis=2).std(axis=1).mean()
    columns = np.median(extra_e, axis=1).std(axis=1).mean()
    assert rows > 4 * columns
    assert noisy.amplitudes["striping_e"] == 10


def test_full_frame_stripes_are_partly_common_to_the_amplifiers():
    noise = planted.striping((64, 2048), np.random.default_rng(2))
    first, last = noise[:, :512], noise[:, 1536:]
    assert np.corrcoef(first.ravel(), last.ravel())[0, 1] == pytest.approx(0.7, abs=0.25)


def test_wisps_reach_their_detectors_and_filters_only(detector):
    wisps = CLEAN.model_copy(update={"wisps": Wisps(enabled=True, amplitude_e_s=50)})
    assert planted.has_wisps("NRCB4", "F200W")
    assert not planted.has_wisps("NRCB4", "F115W") and not planted.has_wisps("NRCB1", "F200W")
    for name in planted.WISP_DETECTORS:
        template = planted.wisp_template(name, SCENE.seed)
        assert template.dtype == np.float32 and template.max() == 1 and template.min() >= 0
        small = template[geometry.window(name, "SUB320").slices]
        assert small.max() > 0.3 and small.min() < 0.1  # the small subarrays have their part, and it has structure
    unaffected = expose(detector, 0, wisps)
    assert unaffected.amplitudes["wisps_e_s"] == 0
    np.testing.assert_array_equal(unaffected.data, expose(detector, 0, CLEAN).data)


def test_wisps_add_their_template_before_the_flat(detector):
    neighbour = replace(detector, name="NRCB4", channel="SHORT")
    where = geometry.window("NRCB4", "SUB320")
    wisps = CLEAN.model_copy(update={"wisps": Wisps(enabled=True, amplitude_e_s=200)})
    lit = expose(neighbour, 0, wisps, window=where, filter_name="F200W")
    amplitude = lit.amplitudes["wisps_e_s"]
    assert 140 <= amplitude <= 260
    shape = (planted.wisp_template("NRCB4", SCENE.seed) * neighbour.flat("F200W"))[where.slices]
    good = ordinary(neighbour, where)
    slope = steps_e(lit, neighbour, where).mean(axis=0)[good] / GROUP_S
    # 10^5 pixels of 6 e-/s noise, and a loss of at most 0.3% in the non-linear output
    assert np.polyfit(shape[good], slope, 1)[0] == pytest.approx(amplitude, rel=0.006)


def test_snowballs_saturate_their_core(detector):
    settings = Snowballs(enabled=True, rate_per_detector_s=30.0, radius_px=(12, 12))
    ramp = expose(detector, 0, CLEAN.model_copy(update={"snowballs": settings}))
    assert len(ramp.snowballs) > 0
    for ball in ramp.snowballs:
        x, y = int(np.clip(round(ball["x"]), 0, 319)), int(np.clip(round(ball["y"]), 0, 319))
        response = ordinary(detector)[y, x]
        assert not response or ramp.data[0, ball["group"], y, x] >= detector.saturation[CENTRE.slices][y, x]
    charge = planted.snowball_charge((64, 64), 32, 32, 20, 150000)
    assert charge[32, 32] == 150000 and 0 < charge[32, 44] < 7500 and charge[32, 60] == 0


def test_persistence_releases_its_fraction_in_the_exposure(detector):
    settings = CLEAN.model_copy(update={"persistence": Persistence(enabled=True, fraction=0.01, decay_s=5)})
    residual = np.zeros((320, 320))
    residual[:, :160] = 85000
    ramp = expose(detector, 0, settings, residual=residual)
    good = ordinary(detector)
    counts = (ramp.data[0].astype(float) - detector.superbias[CENTRE.slices]) * detector.gain[CENTRE.slices]
    glow = [np.mean(group[:, :160][good[:, :160]]) - np.mean(group[:, 160:][good[:, 160:]]) for group in counts]
    assert glow[-1] == pytest.approx(850, rel=0.01)
    assert np.all(np.diff(np.diff(glow)) < 0)  # it decays
    unlit = expose(detector, 0, settings)
    assert unlit.amplitudes["persistence_e"] == 0


def test_averaged_patterns_keep_a_zero_frame_and_less_noise(detector):
    ramp = expose(detector, 0, readout=Readout(pattern="SHALLOW4", groups=3, integrations=2))
    assert ramp.data.shape == (2, 3, 320, 320) and ramp.zeroframe.shape == (2, 320, 320)
    good = ordinary(detector)
    assert steps_e(ramp, detector)[:, good].std() == pytest.approx(np.sqrt(2 / 4) * 11, rel=0.015)
    assert not np.array_equal(ramp.data[0], ramp.data[1])


def test_same_generator_same_bytes_and_another_seed_not(detector):
    everything = Artifacts(striping=Striping(enabled=True), snowballs=Snowballs(enabled=True))
    first, again = (expose(detector, 3, everything) for _ in range(2))
    np.testing.assert_array_equal(first.data, again.data)
    np.testing.assert_array_equal(first.cosmic_rays, again.cosmic_rays)
    assert not np.array_equal(first.data, expose(detector, 3, everything, seed=2).data)


def test_wrong_shape_is_refused(detector):
    with pytest.raises(ConfigError, match=r"sky_rate has shape \(10, 10\).*\(320, 320\)"):
        make_ramp(np.zeros((10, 10)), View(detector, CENTRE, "F444W"), Readout(), CLEAN, np.random.default_rng(1))
    with pytest.raises(ConfigError, match="residual has shape"):
        expose(detector, 0, residual=np.zeros((2, 2)))


def test_input_is_left_alone(detector):
    sky = np.full((320, 320), 5.0)
    make_ramp(sky, View(detector, CENTRE, "F444W"), Readout(), ramps.Artifacts(), np.random.default_rng(1))
    assert (sky == 5.0).all()
