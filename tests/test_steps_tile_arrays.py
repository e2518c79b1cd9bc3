"""Arrays of a tile: contexts counted by the association, what parameters ask for, fill values, and the median."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from survey.mosaics.arrays import context_planes
from survey.steps.image3.drizzle import array_names, context_of_all, fill_value
from survey.steps.image3.outliers import nanmedian

pytestmark = pytest.mark.pipeline


@pytest.mark.parametrize(("members", "planes"), [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3), (690, 22)])
def test_a_plane_holds_32_members(members, planes):
    assert context_planes(members) == planes


def contexts(seen):
    """Planes as drizzle fills them: (members, ny, nx) of bool -> (planes, ny, nx) of uint32."""
    planes = np.zeros((context_planes(len(seen)), *seen.shape[1:]), np.uint32)
    for index, layer in enumerate(seen):
        planes[index // 32] |= layer.astype(np.uint32) << np.uint32(index % 32)
    return planes


@pytest.mark.parametrize("seed", range(8))
def test_contexts_of_a_tile_are_the_mosaics(seed):
    rng = np.random.default_rng(seed)
    members = int(rng.integers(33, 200))
    added = sorted(rng.choice(members, int(rng.integers(1, members + 1)), replace=False).tolist())
    whole = np.zeros((members, 5, 6), bool)
    whole[added] = rng.uniform(size=(len(added), 5, 6)) < 0.5
    np.testing.assert_array_equal(context_of_all(contexts(whole[added]), added, members), contexts(whole))


@pytest.mark.parametrize(("added", "members"), [(1, 1), (31, 40), (32, 33), (33, 33), (40, 100), (64, 65)])
def test_the_first_members_of_an_association_keep_their_bits(added, members):
    seen = np.random.default_rng(added).uniform(size=(added, 4, 3)) < 0.5
    whole = np.zeros((members, 4, 3), bool)
    whole[:added] = seen
    found = context_of_all(contexts(seen), list(range(added)), members)
    np.testing.assert_array_equal(found, contexts(whole))
    assert found.dtype == np.uint32


def parameters(**changes):
    pars = {"enable_ctx": True, "enable_err": True, "report_var": True, "propagate_dq": False, "fillval": "NAN"}
    return SimpleNamespace(**{**pars, **changes})


VARIANCES = {"var_poisson", "var_rnoise", "var_flat"}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"sci", "wht", "con", "err"} | VARIANCES),
        ({"propagate_dq": True}, {"sci", "wht", "con", "err", "dq"} | VARIANCES),
        ({"enable_ctx": False}, {"sci", "wht", "err"} | VARIANCES),
        ({"report_var": False}, {"sci", "wht", "con", "err"}),
        ({"enable_err": False}, {"sci", "wht", "con"}),
    ],
)
def test_a_mosaic_has_the_arrays_that_the_parameters_ask_for(changes, names):
    found = array_names(parameters(**changes))
    assert set(found) == names and len(found) == len(names)


@pytest.mark.parametrize("text", ["NAN", "nan", "INDEF", "indef", "", " 0 ", "0.0", "-99", "1e3"])
def test_the_fill_value_is_what_drizzle_makes_of_it(text):
    from drizzle.resample import Drizzle

    y, x = np.indices((4, 4), dtype=float)
    driz = Drizzle(out_shape=(12, 12), fillval=text, disable_ctx=True)
    driz.add_image(np.ones((4, 4), np.float32), exptime=1.0, pixmap=np.stack([x, y], axis=-1))
    np.testing.assert_array_equal(driz.out_img[11, 11], np.float32(fill_value(parameters(fillval=text))))


@pytest.mark.parametrize("layers", range(1, 41))
def test_the_median_is_stcals_to_the_bit(layers):
    from stcal.outlier_detection.median import nanmedian3D

    rng = np.random.default_rng(layers)
    stack = (rng.normal(size=(layers, 12, 15)) * 10.0 ** rng.uniform(-6, 6, (layers, 12, 15))).astype("f4")
    stack[rng.uniform(size=stack.shape) < rng.uniform(0, 0.9)] = np.nan
    stack[:, 0, 0] = np.nan  # no data at all
    stack[:, 1, 1] = 7.0  # ties
    stack[0, 2, 2], stack[-1, 2, 3] = np.inf, -np.inf
    found, wanted = nanmedian(stack.copy()), nanmedian3D(stack.copy())
    assert found.dtype == wanted.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)
    assert np.isnan(found[0, 0]) and found[1, 1] == 7
