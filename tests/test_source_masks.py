"""Source masks: planted sources are found and mapped to exposures; noise, gaps and odd files do no harm."""

from __future__ import annotations

import numpy as np
import pytest
from small_wcs import SIDE, tangent_wcs

from survey.errors import TaskError
from survey.masks import read_masks, write_masks
from survey.steps.image3.source_masks import Detection, detect, positions

HOW = Detection(n_sigma=3.0, smooth_px=1.5, min_pixels=5, grow_px=0.0)
NOISE = 0.2


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def source(shape, x, y, peak, sigma=2.0):
    rows, columns = np.indices(shape)
    return peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def test_planted_sources_are_found_and_noise_is_not(rng):
    shape = (200, 220)
    light = sum(source(shape, x, y, 1.0) for x, y in ((40, 50), (150, 120), (219, 0)))
    found = detect(light + 7.0 + rng.normal(0, NOISE, shape), np.ones(shape), HOW)
    # Smoothing by 1.5 pixels lowers the peak to 0.64 and the noise to 0.038: the wings are found out to 0.12.
    assert found[light > 0.35].all()
    assert found[light < 0.005].mean() < 1e-3


def test_a_background_of_noise_alone_has_no_sources(rng):
    found = detect(rng.normal(3.0, NOISE, (300, 300)), np.ones((300, 300)), HOW)
    assert found.mean() < 2e-3  # 0.00135 of normal noise is above 3 sigma


def test_a_pixel_of_low_weight_is_not_a_source_for_its_noise(rng):
    weight = np.ones((200, 200))
    weight[:, 100:] = 1 / 25
    image = rng.normal(0, NOISE, weight.shape) / np.sqrt(weight)
    assert detect(image, weight, HOW).mean() < 2e-3


def test_sources_grow_by_a_radius():
    image = np.zeros((60, 60))
    image[30, 30] = 100.0
    image += np.random.default_rng(1).normal(0, 0.01, image.shape)
    how = Detection(n_sigma=50.0, smooth_px=0.0, min_pixels=1, grow_px=4.0)
    found = detect(image, np.ones(image.shape), how)
    rows, columns = np.indices(image.shape)
    assert (found == (np.hypot(columns - 30, rows - 30) <= 4.0)).all()


def test_small_groups_of_pixels_are_noise():
    image = np.random.default_rng(2).normal(0, 0.01, (60, 60))
    image[10, 10:13] = image[40, 40:46] = 100.0
    found = detect(image, np.ones(image.shape), Detection(50.0, 0.0, 5, 0.0))
    assert found.sum() == 6 and found[40, 40:46].all()


@pytest.mark.parametrize("image", [np.full((20, 20), np.nan), np.zeros((20, 20))])
def test_without_data_or_noise_nothing_is_found(image):
    assert not detect(image, np.ones(image.shape), HOW).any()
    assert not detect(image, np.zeros(image.shape), HOW).any()


def test_pixels_without_data_hide_no_neighbour(rng):
    shape = (100, 100)
    image = source(shape, 50, 50, 2.0) + rng.normal(0, NOISE, shape)
    image[:, 48] = np.nan
    found = detect(image, np.ones(shape), HOW)
    assert found[50, 50] and found[50, 46] and not found[:, 48].any()


def test_masks_come_back_and_are_small(tmp_path, rng):
    masks = {"source": rng.random((33, 70)) > 0.5, "covered": np.ones((33, 70), bool)}
    write_masks(tmp_path / "a.npz", masks, (128, 256))
    write_masks(tmp_path / "b.npz", masks, (128, 256))
    found, origin = read_masks(tmp_path / "a.npz")
    assert origin == (128, 256) and all((found[name] == values).all() for name, values in masks.items())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    blobs = np.zeros((2048, 2048), bool)
    for x, y in rng.integers(0, 2040, (6000, 2)):  # a fifth of the pixels, in 6000 sources of 12 pixels
        blobs[y : y + 12, x : x + 12] = True
    write_masks(tmp_path / "full.npz", {"source": blobs, "covered": np.ones_like(blobs)})
    assert blobs.mean() > 0.18 and (tmp_path / "full.npz").stat().st_size < 200_000


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04" + b"\0" * 40])
def test_a_damaged_file_of_masks_is_named(tmp_path, content):
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(TaskError, match=r"m\.npz: is not a file of masks"):
        read_masks(tmp_path / "m.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(TaskError, match=r"other\.npz"):
        read_masks(tmp_path / "other.npz")


def test_positions_on_the_mosaic():
    exposure, grid = tangent_wcs(10.0, 12.0), tangent_wcs(110.0, 62.0)
    x, y = positions(exposure, (SIDE, SIDE), grid)
    rows, columns = np.indices((SIDE, SIDE))
    assert (x == columns + 100).all() and (y == rows + 50).all()
    x, y = positions(exposure, (1, 1), grid)
    assert (x[0, 0], y[0, 0]) == (100, 50)
