"""Artifacts one by one: a scene without one of them is the same scene, and what is missing is what the truth says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import poisson

from survey.errors import ConfigError
from survey.simulate import badpixels, geometry, shocks, wisps
from survey.simulate.detector import load_detector
from survey.simulate.ramps import View, make_ramp
from survey.simulate.readout import readout_timing
from survey.simulate.scene import Artifacts, Readout, Scene
from survey.simulate.streams import Streams, poisson_counts

SCENE = Scene(seed=11, random_streams="separate")
WHERE = geometry.window("NRCB4", "SUB320")
READOUT = Readout(pattern="BRIGHT1", groups=4)
TIMING = readout_timing("BRIGHT1", "SUB320")
SECONDS = TIMING.read_seconds(TIMING.frames(3)[-1])
SKY_E_S = 8.0
EVERYTHING = Artifacts.model_validate(
    {
        "cosmic_rays": {"rate_per_cm2_s": 20},
        "striping": {"enabled": True},
        "column_noise": {"enabled": True, "amplitude_e": 5},
        "even_odd_noise": {"enabled": True, "amplitude_e": 5},
        "amplifier_offsets": {"enabled": True, "amplitude_e": 5},
        "snowballs": {
            "enabled": True, "rate_per_detector_s": 60, "radius_px": [8, 12], "profile": "power_law",
            "first_group_share": 0.3, "edge_share": 0.3,
        },
        "wisps": {"enabled": True, "amplitude_e_s": 3.0, "components": 3},
        "persistence": {"enabled": True, "across_exposures": True, "decay_s": 100},
        "flat_error": {"enabled": True},
        "sky_gradient": {"enabled": True, "amplitude_mjy_sr": 1.0},
        "scattered_stripe": {"enabled": True, "amplitude_mjy_sr": 1.0},
        "claw": {"enabled": True, "amplitude_mjy_sr": 1.0, "share": 1.0},
        "trails": {"enabled": True, "share": 1.0, "mag_ab": [20, 20]},
        "bad_pixels": {"enabled": True, "hot_fraction": 0.002, "open_fraction": 0.001},
    }
)  # fmt: skip
ARTIFACTS = tuple(Artifacts.model_fields)
PATTERNS = ("striping", "column_noise", "even_odd_noise", "amplifier_offsets")
DIFFUSE = ("wisps", "sky_gradient", "scattered_stripe", "claw")


@pytest.fixture(scope="module")
def detector():
    one = load_detector("NRCBLONG", SCENE)
    return replace(one, name="NRCB4", channel="SHORT")  # drawn once for several test modules


@pytest.fixture(scope="module")
def trapped():
    charge = np.zeros((320, 320))
    charge[100:110, 200:220] = 300.0
    return charge


@pytest.fixture(scope="module")
def complete(detector, trapped):
    return expose(detector, EVERYTHING, trapped)


def expose(detector, artifacts, residual=None, exposure="one"):
    view = View(detector, WHERE, "F200W")
    streams = Streams(SCENE.seed, exposure)
    return make_ramp(np.full((320, 320), SKY_E_S), view, READOUT, artifacts, streams, residual)


def without(name, artifacts=EVERYTHING):
    section = getattr(artifacts, name).model_copy(update={"enabled": False})
    return artifacts.model_copy(update={name: section})


def slope(ramp):
    """Unweighted straight line through the groups [DN/s]."""
    seconds = np.array([TIMING.mean_seconds(group) for group in range(READOUT.groups)])
    weights = (seconds - seconds.mean()) / np.sum((seconds - seconds.mean()) ** 2)
    return np.tensordot(weights, ramp.data[0].astype(float), 1)


def undisturbed(*ramps):
    """Pixels that do not saturate in any of these."""
    return ~np.any([ramp.saturated for ramp in ramps], axis=0)


def test_everything_is_planted_in_this_exposure(complete):
    assert len(complete.snowballs) > 0 and complete.trail is not None and complete.bad_pixels["bad"].any()
    assert set(complete.images) == {*PATTERNS, *DIFFUSE, "persistence", "trail"}


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern_noise_is_its_slope_image(detector, trapped, complete, name):
    rest = expose(detector, without(name), trapped)
    good = undisturbed(complete, rest)
    difference, planted = (slope(complete) - slope(rest))[good], complete.images[name][good]
    assert np.abs(planted).mean() > 0.05
    # Each of the four groups is rounded to whole counts; a saturated group of a well with noise is no straight line
    assert np.quantile(np.abs(difference - planted), 0.999) < 0.5
    assert np.sum(planted * difference) / np.sum(planted**2) == pytest.approx(1, abs=0.02)
    assert name not in rest.images


@pytest.mark.parametrize("name", DIFFUSE)
def test_diffuse_light_is_its_slope_image(detector, trapped, complete, name):
    rest = expose(detector, without(name), trapped)
    good = undisturbed(complete, rest)
    planted = complete.images[name]
    assert planted.max() > 0.3
    # The non-linear output shows up to 1% less at these counts; photon noise of the artifact alone remains
    assert np.polyfit(planted[good], (slope(complete) - slope(rest))[good], 1)[0] == pytest.approx(1, abs=0.05)
    unlit = planted == 0
    np.testing.assert_array_equal(complete.data[..., unlit], rest.data[..., unlit])
    assert (complete.data.astype(int) - rest.data).min() >= -1  # light adds charge; one count for rounding


@pytest.mark.parametrize("name", ARTIFACTS)
def test_without_one_artifact_the_others_stay(detector, trapped, complete, name):
    rest = expose(detector, without(name), trapped)
    assert not np.array_equal(rest.data, complete.data)
    for other in set(rest.images) - {name}:
        # Light goes through the true flat and a trail into it as well
        same = 0.06 if name == "flat_error" else 0
        np.testing.assert_allclose(rest.images[other], complete.images[other], rtol=same, atol=1e-7)
    if name != "cosmic_rays":
        np.testing.assert_array_equal(rest.cosmic_rays["electrons"], complete.cosmic_rays["electrons"])
    if name != "snowballs":
        np.testing.assert_array_equal(rest.snowballs, complete.snowballs)
    if name != "bad_pixels":
        np.testing.assert_array_equal(rest.bad_pixels, complete.bad_pixels)


def test_the_same_exposure_has_the_same_counts(detector, trapped, complete):
    np.testing.assert_array_equal(expose(detector, EVERYTHING, trapped).data, complete.data)
    assert not np.array_equal(expose(detector, EVERYTHING, trapped, exposure="another").data, complete.data)


def test_persistence_is_the_charge_that_is_left(detector, trapped, complete):
    rest = expose(detector, without("persistence"), trapped)
    elsewhere = trapped == 0
    np.testing.assert_array_equal(complete.data[..., elsewhere], rest.data[..., elsewhere])
    good = ~elsewhere & undisturbed(complete, rest) & (detector.mask[WHERE.slices] == 0)
    last = (complete.data[0, -1].astype(float) - rest.data[0, -1])[good] * detector.gain[WHERE.slices][good]
    assert last.mean() == pytest.approx(300 * -np.expm1(-SECONDS / 100), rel=0.06)  # 190 pixels of 21 e-
    assert complete.images["persistence"][~elsewhere].mean() == pytest.approx(
        300 * -np.expm1(-SECONDS / 100) / SECONDS / 1.85, rel=0.02
    )


def test_bad_pixels_are_bad_and_no_others(detector, trapped, complete):
    rest = expose(detector, without("bad_pixels"), trapped)
    states = complete.bad_pixels
    changed = np.any(complete.data != rest.data, axis=(0, 1))
    planted = np.zeros((320, 320), bool)
    planted[states["y"], states["x"]] = states["bad"]
    assert not (changed & ~planted).any()
    assert (detector.mask[WHERE.slices][states["y"], states["x"]] == 0).all()
    hot = states[states["bad"] & (states["kind"] == "hot") & ~complete.saturated[states["y"], states["x"]]]
    added = (slope(complete) - slope(rest))[hot["y"], hot["x"]] * 1.85
    assert np.median(added / hot["value"]) == pytest.approx(1, abs=0.1)  # 150 pixels, 2 to 200 photons each
    assert hot["value"].min() >= 0.5 and hot["value"].max() <= 20
    unconnected = states[states["bad"] & (states["kind"] == "open")]
    assert len(unconnected) > 50
    share = (slope(complete) / slope(rest))[unconnected["y"], unconnected["x"]]
    assert np.median(share - unconnected["value"]) == pytest.approx(0, abs=0.3)


def test_intermittent_pixels_are_bad_in_part_of_the_exposures(detector):
    settings = EVERYTHING.bad_pixels.model_copy(update={"duty": 0.4, "intermittent_share": 0.5})
    states = [badpixels.bad_pixel_states(detector, WHERE, settings, Streams(1, f"exposure {n}")) for n in range(30)]
    steady = ~states[0]["intermittent"]
    assert steady.mean() == pytest.approx(0.5, abs=0.12)  # 300 pixels, of which half are steady: 4 sigma
    assert all(state["bad"][steady].all() for state in states)
    assert np.mean([state["bad"][~steady].mean() for state in states]) == pytest.approx(0.4, abs=0.03)
    assert len(badpixels.bad_pixel_states(detector, WHERE, without("bad_pixels").bad_pixels, Streams(1, "a"))) == 0


def test_the_true_flat_differs_smoothly_by_its_rms(detector, trapped):
    settings = EVERYTHING.flat_error
    ratio = badpixels.flat_ratio("NRCB4", "F200W", SCENE.seed, settings)
    assert (ratio.mean(), ratio.std()) == (pytest.approx(1, abs=1e-4), pytest.approx(0.01, rel=0.01))
    # White noise smoothed with a Gaussian of sigma s correlates as exp(-(d / 2 s)^2): 2^(-1/2) at half its width
    apart = np.corrcoef(ratio[:, :-32].ravel(), ratio[:, 32:].ravel())[0, 1]
    assert apart == pytest.approx(0.5**0.5, abs=0.03)
    only = Artifacts.model_validate({"cosmic_rays": {"enabled": False}, "flat_error": {"enabled": True, "rms": 0.05}})
    lit, plain = expose(detector, only), expose(detector, without("flat_error", only))
    pattern = badpixels.flat_ratio("NRCB4", "F200W", SCENE.seed, only.flat_error)[WHERE.slices]
    good = undisturbed(lit, plain) & (detector.mask[WHERE.slices] == 0)
    change = ((lit.data[0, -1].astype(float) - plain.data[0, -1]) * 1.85)[good]
    missing = ((pattern - 1) * detector.flat("F200W")[WHERE.slices])[good]
    assert np.polyfit(missing, change, 1)[0] == pytest.approx(SKY_E_S * SECONDS, rel=0.02)


def test_snowballs_have_faint_elliptical_tails(detector, trapped, complete):
    rest = expose(detector, without("snowballs"), trapped)
    charge = sum(shocks.planted_snowball((320, 320), row) for row in complete.snowballs)
    outside = charge == 0
    np.testing.assert_array_equal(complete.data[..., outside], rest.data[..., outside])
    tail = (charge > 5) & (charge < 500) & undisturbed(complete, rest) & (detector.mask[WHERE.slices] == 0)
    seen = (complete.data[0, -1].astype(float) - rest.data[0, -1]) * detector.gain[WHERE.slices]
    assert tail.sum() > 1000
    assert np.polyfit(charge[tail], seen[tail], 1)[0] == pytest.approx(1, abs=0.02)
    rows = complete.snowballs
    assert (rows["group"] == 0).any()
    on_edge = np.isin(rows["x"], (0, 319)) | np.isin(rows["y"], (0, 319))
    assert on_edge.any() and not on_edge.all()


def test_a_snowballs_tail_falls_as_its_power():
    row = np.zeros(1, shocks.TAILED_SNOWBALL_HIT)[0]
    row["x"], row["y"], row["radius"], row["axis_ratio"], row["angle"] = 150, 150, 10, 0.5, 90
    row["core_electrons"], row["tail_electrons"], row["tail_slope"], row["reach"] = 1e5, 1000, 2, 60
    charge = shocks.planted_snowball((300, 300), row)
    assert charge[150, 150] == 1e5
    end = (60 / 4) ** -2.0  # the tail is 0 at the reach; the core ends at 4 pixels along the major axis, here y
    assert charge[162, 150] == pytest.approx(1000 * (3**-2 - end), rel=1e-4)
    assert charge[150, 156] == pytest.approx(1000 * (3**-2 - end), rel=1e-4)  # half as far along the minor axis
    assert charge[211, 150] == 0 and charge[150, 181] == 0


def test_a_trail_is_its_objects_light(detector):
    only = Artifacts.model_validate(
        {
            "cosmic_rays": {"enabled": False},
            "trails": {"enabled": True, "share": 1, "mag_ab": [18, 18], "speed_arcsec_s": [0.2, 0.2]},
        }
    )
    lit, plain = expose(detector, only), expose(detector, without("trails", only))
    assert lit.trail.mag_ab == 18 and lit.trail.speed_arcsec_s == pytest.approx(0.2)
    assert np.hypot(lit.trail.vx, lit.trail.vy) == pytest.approx(0.2 / 0.0311, rel=1e-6)
    rate = 10 ** (0.4 * 5.9) * detector.electrons_per_ujy("F200W")
    assert lit.trail.rate_e_s == pytest.approx(rate, rel=1e-6)
    added = ((lit.data[0, -1].astype(float) - plain.data[0, -1]) * detector.gain[WHERE.slices]).sum()
    planted = (lit.images["trail"] * detector.gain[WHERE.slices]).sum() * SECONDS
    assert added == pytest.approx(planted, rel=0.03)  # the non-linear output shows 1% less of its brightest part
    assert 0.1 * rate * SECONDS < planted <= 1.02 * rate * SECONDS


def test_wisps_vary_from_exposure_to_exposure(detector):
    strengths = np.array([wisps.wisp_strengths(EVERYTHING.wisps, Streams(5, f"exposure {n}")) for n in range(400)])
    assert strengths.mean(axis=0) == pytest.approx([3, 1.5, 0.75], rel=0.06)  # 30% / sqrt(400), 4 sigma
    assert strengths.std(axis=0) / strengths.mean(axis=0) == pytest.approx([0.3] * 3, rel=0.12)
    assert np.abs(np.corrcoef(strengths.T) - np.eye(3)).max() < 0.2  # each varies apart
    one = EVERYTHING.wisps.model_copy(update={"components": 1})
    assert (wisps.wisp_strengths(one, Streams(5, "exposure 0")) == [strengths[0, 0], 0, 0]).all()


def test_templates_of_nmfwisp_are_read_when_it_is_installed(tmp_path, monkeypatch):
    from astropy.io import fits

    folder = tmp_path / "nmfwisp" / "templates" / "nrcb4"
    folder.mkdir(parents=True)
    (tmp_path / "nmfwisp" / "__init__.py").write_text("raise ImportError('only its files are read')")
    rng = np.random.default_rng(1)
    planes = [rng.random((512, 512)).astype(np.float32) * size for size in (0.02, 0.01)]
    planes[0][100, 200] = 0.04
    planes[0][0, 0] = -0.01
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(plane, name=f"WISP_{n}") for n, plane in enumerate(planes))]
    fits.HDUList([*hdus, fits.ImageHDU(np.ones((512, 512)), name="MASK")]).writeto(folder / "nrcb4_f200w_wisp.fits")
    settings = EVERYTHING.wisps.model_copy(update={"templates": "auto"})
    with monkeypatch.context() as missing:
        missing.setattr(wisps, "nmfwisp_folder", lambda: None)
        assert wisps.wisp_components(settings, "NRCB4", "F200W", 1)[1] == "builtin"
    monkeypatch.syspath_prepend(tmp_path)
    assert wisps.nmfwisp_folder() == tmp_path / "nmfwisp" / "templates"
    templates, source = wisps.wisp_components(settings, "NRCB4", "F200W", 1)
    assert source.startswith("nmfwisp ") and len(templates) == 2
    assert templates[0].shape == (2048, 2048) and templates[0].max() <= 1 and templates[0].min() == 0
    # Pixel 100 of every fourth is the middle of pixels 400 to 403
    assert np.unravel_index(np.argmax(templates[0]), (2048, 2048)) in [(y, x) for y in (401, 402) for x in (801, 802)]
    expected = [0.375 * planes[0][0, 0] + 0.625 * planes[0][0, 1], 0.375 * planes[0][0, 1] + 0.625 * planes[0][0, 2]]
    assert templates[0][0, 4] / templates[0][0, 8] == pytest.approx(expected[0] / expected[1], rel=1e-4)
    with pytest.raises(ConfigError, match="no wisp template of NRCA3 and F150W"):
        wisps.wisp_components(settings, "NRCA3", "F150W", 1)


def test_nmfwisp_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(wisps, "nmfwisp_folder", lambda: None)
    with pytest.raises(ConfigError, match=r"nmfwisp is not installed.*auto or builtin"):
        wisps.wisp_components(EVERYTHING.wisps.model_copy(update={"templates": "nmfwisp"}), "NRCB4", "F200W", 1)


def test_poisson_counts_are_quantiles_and_rise_with_the_mean():
    uniform = np.random.default_rng(4).random(100_000)
    for mean in (0.05, 1.0, 15.9, 40.0, 3000.0):
        counts = poisson_counts(np.full(uniform.shape, mean), uniform)
        exact = poisson.ppf(uniform, mean)
        assert np.abs(counts - exact).max() <= (0 if mean < 16 else 1)
        assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / 100_000))
        assert (poisson_counts(np.full(uniform.shape, 1.1 * mean), uniform) >= counts).all()
    assert (poisson_counts(np.zeros(10), np.random.default_rng(1).random(10)) == 0).all()


@pytest.mark.parametrize(
    ("section", "setting", "value", "message"),
    [
        ("snowballs", "radius_px", [30, 8], "first value is larger"),
        ("snowballs", "profile", "cone", "disc"),
        ("bad_pixels", "hot_e_s", [0, 5], "positive"),
        ("bad_pixels", "open_response", [0, 2], "from 0 to 1"),
        ("wisps", "components", 4, "less than or equal to 3"),
        ("flat_error", "rms", -0.1, "greater than or equal to 0"),
        ("claw", "share", 1.5, "less than or equal to 1"),
        ("trails", "brightness", 3, "Extra inputs"),
    ],
)
def test_wrong_settings_of_artifacts_are_named(tmp_path, section, setting, value, message):
    import yaml

    from survey.simulate.scene import load_scene

    path = tmp_path / "scene.yaml"
    path.write_text(yaml.safe_dump({"artifacts": {section: {setting: value}}}))
    with pytest.raises(ConfigError, match=rf"scene\.yaml: artifacts\.{section}\.{setting}: .*{message}"):
        load_scene(path)
