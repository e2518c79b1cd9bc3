"""What the tiled engine takes for granted of the installed pipeline beyond its public interface.

A failure here says which name changed; the whole runs say whether the pixels did.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from survey.mosaics.grid import Box

pytestmark = pytest.mark.pipeline


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_skymatch_makes_its_images_from_what_the_engine_sets():
    from jwst.skymatch.skymatch_step import SkyMatchStep
    from stcal.skymatch import SkyGroup, SkyImage

    assert parameters(SkyMatchStep._imodel2skyim) == ["self", "image_model", "index"]
    source = inspect.getsource(SkyMatchStep)
    assert "self._dqbits" in source and "self._skystat" in source
    assert parameters(SkyImage.calc_sky) == parameters(SkyGroup.calc_sky) == ["self", "overlap", "delta"]
    assert {"_images", "_sky"} <= set(vars(SkyGroup([_sky_image()]))), "SkyGroup holds other attributes"


def _sky_image():
    from stcal.skymatch import SkyImage

    corners = np.array([10.0, 10.1, 10.1, 10.0, 10.0]), np.array([0.0, 0.0, 0.1, 0.1, 0.0])
    empty = np.zeros((1, 1), bool)
    return SkyImage(image=empty, mask=empty, wcs_fwd=lambda *_x, **_k: corners, wcs_inv=None, skystat=None)


def test_flags_are_set_from_a_blotted_image():
    from jwst.outlier_detection.utils import _flag_resampled_model_crs

    wanted = ["input_model", "blot", "blot_err", "snr1", "snr2", "scale1", "scale2", "backg"]
    assert parameters(_flag_resampled_model_crs) == wanted


def test_the_resampler_has_the_parts_that_windows_override():
    from jwst.resample.resample import ResampleImage
    from stcal.resample import Resample

    for name in ("add_model", "finalize", "resample_variance_arrays", "reset_arrays", "init_variance_arrays",
                 "init_time_counters", "update_time", "create_output_model", "_compute_pixel_scale_ratio"):  # fmt: skip
        assert callable(getattr(Resample, name)), name
    for name in ("input_model_to_dict", "create_output_jwst_model", "update_output_model"):
        assert callable(getattr(ResampleImage, name)), name
    source = inspect.getsource(Resample)
    for name in ("_variance_info", "_output_array_shape", "_group_ids", "_n_res_models", "_finalized", "_driz"):
        assert f"self.{name}" in source, name
    assert isinstance(inspect.getattr_static(Resample, "output_array_shape"), property)


def test_a_pixel_map_is_what_two_wcs_answer():
    from stcal.resample.utils import calc_pixmap

    assert parameters(calc_pixmap) == ["wcs_from", "wcs_to", "shape", "disable_bbox", "stepsize", "order"]
    from survey.steps.image3.resampling import StoredMap, Window

    stored = np.random.default_rng(1).normal(size=(5, 7, 2))
    made = calc_pixmap(StoredMap(stored, ((-0.5, 6.4), (-0.5, 4.4))), Window(Box(0, 0, 9, 9)), (5, 7))
    np.testing.assert_array_equal(made, stored)


def test_a_bounding_box_is_read_as_the_pixels_that_it_was_made_from():
    from stcal.resample.utils import resample_range

    from survey.steps.image3.resampling import bounding_box

    used, read = Box(10, 20, 31, 44), Box(7, 17, 34, 47)
    inner = used.moved(read.x0, read.y0)
    found = resample_range(read.shape, bounding_box(used, read))
    assert found == (inner.x0, inner.x1 - 1, inner.y0, inner.y1 - 1)


def test_resample_takes_all_but_two_flags():
    from jwst.resample.resample_step import GOOD_BITS, ResampleStep

    assert GOOD_BITS == "~DO_NOT_USE+NON_SCIENCE"
    assert ResampleStep().get_drizpars()["good_bits"] == GOOD_BITS


def test_parameters_hold_radians_and_show_degrees():
    from astropy.modeling.rotations import Rotation2D

    angle = Rotation2D(30.0).angle
    assert angle._setter is not None and angle._internal_value == np.deg2rad(30.0)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 9, 40])
def test_the_median_is_stcals(layers):
    from stcal.outlier_detection.median import nanmedian3D

    from survey.steps.image3.outliers import nanmedian

    rng = np.random.default_rng(layers)
    stack = (rng.normal(size=(layers, 50, 60)) * 10.0 ** rng.uniform(-6, 6, (layers, 50, 60))).astype("f4")
    stack[rng.uniform(size=stack.shape) < 0.4] = np.nan
    np.testing.assert_array_equal(nanmedian(stack.copy()), nanmedian3D(stack.copy()))


def test_contexts_count_the_associations_members():
    from survey.mosaics.arrays import context_planes
    from survey.steps.image3.drizzle import context_of_all

    rng = np.random.default_rng(1)
    members = sorted(rng.choice(100, 37, replace=False).tolist())
    seen = rng.uniform(size=(len(members), 4, 5)) < 0.5
    local = np.zeros((2, 4, 5), np.uint32)
    for own, layer in enumerate(seen):
        local[own // 32] |= layer.astype(np.uint32) << np.uint32(own % 32)
    whole = context_of_all(local, members, 100)
    assert whole.shape[0] == context_planes(100) == 4
    for index in range(100):
        bits = (whole[index // 32] >> np.uint32(index % 32)) & 1
        wanted = seen[members.index(index)] if index in members else np.zeros((4, 5), bool)
        np.testing.assert_array_equal(bits.astype(bool), wanted)


@pytest.mark.parametrize("origin", [(30000.3, 9000.7), (20.2, 4090.0)])
def test_a_window_drizzled_alone_is_the_mosaics(origin):
    """To the bit, by drizzle itself; the same with centres that are only moved is not."""
    from drizzle.resample import Drizzle

    from survey.steps.image3.corners import BEFORE, exact_map, padded

    ny, nx = 120, 140
    y, x = np.indices((ny, nx), dtype=float)
    u = 1.03 * (x + 1e-4 * x * y) - 0.05 * y + origin[0]
    v = 1.03 * (y + 2e-4 * y**2) + 0.05 * x + origin[1]
    pixmap = np.stack([u, v], axis=-1)
    rng = np.random.default_rng(1)
    data, weight = (rng.uniform(1, 2, (ny, nx)).astype("f4") for _ in range(2))
    corner = (int(u.min()) - 5, int(v.min()) - 5)
    shape = (int(v.max()) - corner[1] + 6, int(u.max()) - corner[0] + 6)
    whole = Drizzle(out_shape=(corner[1] + shape[0], corner[0] + shape[1]), disable_ctx=True)
    whole.add_image(data, exptime=1.0, pixmap=pixmap, weight_map=weight)
    window = Drizzle(out_shape=shape, disable_ctx=True)
    limits = {"xmin": BEFORE, "xmax": BEFORE + nx - 1, "ymin": BEFORE, "ymax": BEFORE + ny - 1}
    window.add_image(
        padded(data), exptime=1.0, pixmap=exact_map(pixmap, corner), weight_map=padded(weight), **limits
    )  # fmt: skip
    inner = (slice(corner[1], None), slice(corner[0], None))
    np.testing.assert_array_equal(window.out_wht, whole.out_wht[inner])
    np.testing.assert_array_equal(window.out_img, whole.out_img[inner])
