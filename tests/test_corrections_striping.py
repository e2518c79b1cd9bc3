"""1/f striping: planted stripes come back, clean images stay, gaps and sources do no harm."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from crds_folder import Server, make_observatory

pytestmark = pytest.mark.pipeline  # the module imports jwst

SIZE = 128
SETTINGS = {"n_sigma": 2.0, "grow": 2, "min_pixels": 20}


@pytest.fixture(scope="module")
def striping():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USER", "survey")  # the pipeline asks for a user name at import
        from survey.corrections import striping
    return striping


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def planted(rng, amplifiers: int) -> np.ndarray:
    """Stripes with a median of zero in each amplifier, rms 0.1 DN/s."""
    rows = rng.normal(0, 0.1, (SIZE, amplifiers)).astype(np.float32)
    rows -= np.median(rows, axis=0)
    return np.repeat(rows, SIZE // amplifiers, axis=1)


def measure(striping, sci, good=None, flat=None, amplifiers=1, **changes):
    good = np.ones(sci.shape, bool) if good is None else good
    flat = np.ones(sci.shape, np.float32) if flat is None else flat
    return striping.measure_striping(sci, good, flat, amplifiers, striping.StripingSettings(**{**SETTINGS, **changes}))


@pytest.mark.parametrize("amplifiers", [1, 4])
def test_known_answer(striping, rng, amplifiers):
    stripes = planted(rng, amplifiers)
    noise = 0.3  # as in real rates, a stripe hides below the noise of a pixel
    sci = (0.5 + stripes + rng.normal(0, noise, stripes.shape)).astype(np.float32)
    found = measure(striping, sci, amplifiers=amplifiers, grow=0)
    assert found.dtype == np.float32
    assert found.shape == sci.shape
    # Sigma of a median of n values is 1.25 noise / sqrt(n); the source mask cuts the bright side of the noise.
    expected = 1.25 * noise / np.sqrt(SIZE / amplifiers)
    assert np.std(found - stripes) < 1.4 * expected
    rows = found[:, :: SIZE // amplifiers], stripes[:, :: SIZE // amplifiers]
    # The error of the slope is that of a stripe over the stripes' rms, over the square root of their number.
    error = expected / 0.1 / np.sqrt(SIZE * amplifiers)
    assert abs(np.polyfit(rows[1].ravel(), rows[0].ravel(), 1)[0] - 1) < 4 * error
    assert np.std(sci - found) < np.std(sci)


def test_amplifiers_are_measured_on_their_own(striping, rng):
    sci = np.full((SIZE, SIZE), 0.3, np.float32) + np.tile([0.1, -0.1], SIZE // 2).astype(np.float32)
    sci[40, : SIZE // 4] += 0.2
    found = measure(striping, sci, amplifiers=4, n_sigma=50)
    assert found[40, : SIZE // 4] == pytest.approx(0.2, abs=1e-6)
    assert np.abs(found[40, SIZE // 4 :]).max() < 1e-6


def test_no_signal_gives_zeros(striping):
    sci = np.full((SIZE, SIZE), 0.3, np.float32)
    assert not measure(striping, sci).any()
    assert not measure(striping, np.zeros_like(sci), amplifiers=4).any()


def test_the_sky_times_the_flat_is_no_stripe(striping, rng):
    flat = (1 + 0.1 * np.sin(np.arange(SIZE) / 9)[:, None] * np.ones((1, SIZE))).astype(np.float32)
    assert np.abs(measure(striping, 0.7 * flat, flat=flat)).max() < 1e-6


def test_sources_do_not_pull_the_rows(striping, rng):
    stripes = planted(rng, 1)
    sci = (0.5 + stripes + rng.normal(0, 0.3, stripes.shape)).astype(np.float32)
    y, x = np.mgrid[:SIZE, :SIZE]
    bright = sci + (50 * np.exp(-((y - 60) ** 2 + (x - 50) ** 2) / 30)).astype(np.float32)
    difference = measure(striping, bright) - measure(striping, sci)
    # Its wings below the noise stay; unmasked, rows through it would rise by more than 1.
    assert np.abs(difference).max() < 0.15


def test_gaps_are_left_out_and_poor_rows_left_alone(striping, rng):
    stripes = planted(rng, 1)
    sci = (0.5 + stripes).astype(np.float32)
    sci[5, 10:60] = np.nan
    good = np.ones(sci.shape, bool)
    good[9, 12:] = False  # 12 usable pixels
    sci[9, 12:] = 1e6
    flat = np.ones(sci.shape, np.float32)
    flat[20, :30], flat[21, :30], flat[22, :30] = np.nan, 0, -1
    found = measure(striping, sci, good, flat, n_sigma=50)
    assert np.isfinite(found).all()
    assert not found[9].any()
    rows = np.delete(np.arange(SIZE), 9)
    shift = np.median(np.delete(stripes[:, 0], 9))
    np.testing.assert_allclose(found[rows, 0], stripes[rows, 0] - shift, atol=1e-6)


def test_nothing_usable_gives_zeros(striping):
    sci = np.full((SIZE, SIZE), np.nan, np.float32)
    assert not measure(striping, sci).any()
    assert not measure(striping, np.ones_like(sci), good=np.zeros(sci.shape, bool)).any()


def test_arguments_stay_as_they_are(striping, rng):
    sci = rng.normal(0.5, 0.1, (SIZE, SIZE)).astype(np.float32)
    good, flat = np.ones(sci.shape, bool), np.ones(sci.shape, np.float32)
    before = sci.copy()
    measure(striping, sci, good, flat)
    np.testing.assert_array_equal(sci, before)
    assert good.all()
    assert (flat == 1).all()


def test_bad_input(striping):
    sci = np.zeros((8, 8), np.float32)
    with pytest.raises(ValueError, match="one shape"):
        measure(striping, sci, good=np.ones((8, 7), bool))
    with pytest.raises(ValueError, match="8 columns do not divide into 3 amplifiers"):
        measure(striping, sci, amplifiers=3)


def test_source_mask_grows(striping):
    image = np.zeros((21, 21), np.float32)
    image[:] = np.random.default_rng(1).normal(0, 1, image.shape)
    image[10, 10] = 100
    good = np.ones(image.shape, bool)
    assert striping.source_mask(image, good, 5.0, 0).sum() == 1
    assert striping.source_mask(image, good, 5.0, 2).sum() == 13  # a diamond of radius 2


def write_rate(path, stripes) -> None:
    from stdatamodels.jwst import datamodels

    model = datamodels.ImageModel((0.5 + stripes).astype(np.float32))
    model.dq = np.zeros(stripes.shape, np.uint32)
    model.meta.instrument.name, model.meta.instrument.detector = "NIRCAM", "NRCB1"
    model.meta.instrument.filter, model.meta.instrument.pupil = "F200W", "CLEAR"
    model.meta.instrument.module, model.meta.instrument.channel = "B", "SHORT"
    model.meta.observation.date, model.meta.observation.time = "2022-12-21", "08:30:00"
    model.meta.exposure.type, model.meta.exposure.noutputs = "NRC_IMAGE", 4
    model.meta.subarray.name = "FULL"
    model.meta.subarray.xstart = model.meta.subarray.ystart = 1
    model.meta.subarray.xsize = model.meta.subarray.ysize = SIZE
    model.save(path)


CALL = """
import sys
from survey.corrections.striping import SubtractStripingStep
SubtractStripingStep.call(
    sys.argv[1], override_flat="N/A", min_pixels=20, n_sigma=50.0, save_results=True, output_dir=sys.argv[2]
)
"""


@pytest.mark.parametrize("how", ["call", "strun"])
def test_runs_as_a_step(striping, rng, tmp_path, how):
    stripes = planted(rng, 4)
    source = tmp_path / "jw01345001001_02101_00001_nrcb1_rate.fits"
    write_rate(source, stripes)
    output = tmp_path / "out"
    output.mkdir()
    name = "survey.corrections.striping.SubtractStripingStep"
    strun = [
        "from stpipe._cli.strun import main; import sys; sys.argv[0] = 'strun'; sys.exit(main())", name, str(source),
        "--override_flat=N/A", "--min_pixels=20", "--n_sigma=50", "--save_results=true", f"--output_dir={output}",
        "--disable-crds-steppars",
    ]  # fmt: skip
    command = [CALL, str(source), str(output)] if how == "call" else strun
    with Server(make_observatory(tmp_path / "crds")) as server:
        environment = {
            **os.environ, "CRDS_SERVER_URL": server.url, "CRDS_PATH": str(tmp_path / "cache"), "USER": "survey",
            "CRDS_CONTEXT": "jwst_0001.pmap", "STPIPE_DISABLE_CRDS_STEPPARS": "true",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", *command], capture_output=True, text=True, env=environment, cwd=tmp_path
        )
    assert done.returncode == 0, done.stderr[-2000:]
    from astropy.io import fits

    (made,) = output.glob("*.fits")
    assert made.name == "jw01345001001_02101_00001_nrcb1_striping.fits"
    with fits.open(made) as hdus:
        np.testing.assert_allclose(hdus["SCI"].data, 0.5, atol=1e-6)


def faint_galaxy(rows: slice = slice(40, 90)) -> np.ndarray:
    """Light at a fifth of the noise that fills most of some rows: no mask drawn on the exposure holds it."""
    light = np.zeros((SIZE, SIZE), np.float32)
    light[rows, 10:-10] = 0.06
    return light


def test_a_mask_from_elsewhere_keeps_faint_light(striping, rng):
    stripes, light = planted(rng, 1), faint_galaxy()
    sci = (0.5 + light + stripes + rng.normal(0, 0.3, stripes.shape)).astype(np.float32)
    ones = np.ones(sci.shape, bool)
    settings = striping.StripingSettings(**{**SETTINGS, "min_pixels": 10})
    known = striping.SourceMask(light > 0, ones)
    own = striping.measure_striping(sci, ones, ones.astype(np.float32), 1, settings)
    better = striping.measure_striping(sci, ones, ones.astype(np.float32), 1, settings, known)
    # What is subtracted from the galaxy's rows beside stripes, of 0.06 planted.
    lost = [float(np.mean((found - stripes)[40:90]) - np.mean((found - stripes)[:40])) for found in (own, better)]
    assert lost[0] > 0.04 and abs(lost[1]) < 0.03


def test_where_the_mask_knows_nothing_sources_are_masked_on_the_image(striping, rng):
    stripes = planted(rng, 1)
    sci = (0.5 + stripes + rng.normal(0, 0.3, stripes.shape)).astype(np.float32)
    sci[30:60, 5:70] += 5.0
    ones, nothing = np.ones(sci.shape, bool), np.zeros(sci.shape, bool)
    settings = striping.StripingSettings(**SETTINGS)
    own = striping.measure_striping(sci, ones, ones.astype(np.float32), 1, settings)
    found = striping.measure_striping(
        sci, ones, ones.astype(np.float32), 1, settings, striping.SourceMask(nothing, nothing)
    )
    assert (found == own).all()
    with pytest.raises(ValueError, match="one shape"):
        striping.measure_striping(
            sci, ones, ones.astype(np.float32), 1, settings, striping.SourceMask(nothing[:5], nothing[:5])
        )
