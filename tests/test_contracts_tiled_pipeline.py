"""More of what the tiled engine takes for granted of the installed pipeline: names, signatures, and what reads what.

`test_contracts_pipeline.py` holds those of the resampler, blot and flags; here are those of the classes that stand in
for the pipeline's (`WindowResampler`, its part, `BareResampler`, recorded sky images, libraries of headers), and of the
functions that are called for one exposure or tile.
"""

from __future__ import annotations

import ast
import inspect
import textwrap

import numpy as np
import pytest

from survey.mosaics.grid import Box

pytestmark = pytest.mark.pipeline


def names_of(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def assert_takes(function, *names: str) -> None:
    missing = set(names) - set(names_of(function))
    assert not missing, f"{function.__qualname__} no longer takes {sorted(missing)}; it takes {names_of(function)}"


def own_attributes(function, kind: type[ast.expr_context]) -> set[str]:
    """Names X of self.X that a function reads (ast.Load) or sets (ast.Store)."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
        and isinstance(node.ctx, kind)
    }  # fmt: skip


# --- stand-ins of the resampler ------------------------------------------------------------------------------------


def test_a_part_of_a_window_has_all_that_variances_ask_of_their_resampler():
    """`_Part` skips __init__: what stcal's three functions read must be set by it or belong to the class."""
    from stcal.resample import Resample

    read = set()
    for name in ("resample_variance_arrays", "_resample_one_variance_array", "_check_var_array"):
        read |= own_attributes(getattr(Resample, name), ast.Load)
    of_the_class = {name for name in read if hasattr(Resample, name)}
    assert read - of_the_class == {"kernel", "pixfrac", "weight_type", "_variance_info"}, "_Part lacks an attribute"
    properties = {name for name in of_the_class if isinstance(inspect.getattr_static(Resample, name), property)}
    assert properties == {"output_array_shape"}, "_Part lacks what a property reads"
    assert own_attributes(Resample.output_array_shape.fget, ast.Load) == {"_output_array_shape"}


def test_variances_are_running_sums_in_two_arrays():
    """`_Part` has views of 'wsum' and 'wt', and sums into them; 'var' is of one member."""
    from stcal.resample import Resample

    class Sums(Resample):
        def __init__(self):
            self._output_array_shape = (3, 4)

    sums = Sums()
    sums.init_variance_arrays()
    assert set(sums._variance_info) == {"var_rnoise", "var_poisson", "var_flat"}
    for info in sums._variance_info.values():
        assert set(info) == {"wsum", "wt"}, "the running sums of a variance have other names"
        assert np.isnan(info["wsum"]).all() and not info["wt"].any()


def test_variances_take_what_a_window_hands_on():
    from stcal.resample import Resample

    wanted = ["self", "model", "pixmap", "pixel_scale_ratio", "iscale", "weight_map", "xmin", "xmax", "ymin", "ymax"]
    assert names_of(Resample.resample_variance_arrays) == wanted


def test_a_bare_resampler_resets_what_the_pipelines_does():
    from jwst.resample.resample import ResampleImage
    from stcal.resample import Resample

    theirs = own_attributes(Resample.reset_arrays, ast.Store) | own_attributes(ResampleImage.reset_arrays, ast.Store)
    # _driz_error is for 'driz_err', which this engine does not ask for; the blender is made by __init__ as well.
    assert theirs == {"_output_model", "_driz", "_driz_error", "_finalized", "_blender", "output_jwst_model"}
    assert own_attributes(ResampleImage.__init__, ast.Store) >= {"_blender", "output_jwst_model"}


def test_a_bare_resampler_counts_what_the_pipelines_does():
    """Attributes that adding a member changes; 'pointings' is set anew from the group ids when it is finalized."""
    from jwst.resample.resample import ResampleImage
    from stcal.resample import Resample

    changed = own_attributes(Resample.add_model, ast.Store) | own_attributes(ResampleImage.add_model, ast.Store)
    assert changed == {"_n_res_models", "output_jwst_model"}
    called = own_attributes(Resample.add_model, ast.Load)
    assert {"update_time", "_group_ids", "_compute_pixel_scale_ratio"} <= called
    assert 'self._output_model["pointings"] = len(self.group_ids)' in inspect.getsource(Resample.finalize)
    assert names_of(ResampleImage.input_model_to_dict) == ["self", "model", "weight_type", "enable_var", "compute_err"]


def test_the_pipelines_resampler_takes_what_the_engine_gives():
    from drizzle.resample import Drizzle
    from jwst.resample.resample import ResampleImage

    assert_takes(ResampleImage.__init__, "input_models", "output_wcs", "wcs_pars", "blendheaders", "weight_type",
                 "pixfrac", "kernel", "fillval", "good_bits", "enable_ctx", "enable_var", "report_var", "compute_err",
                 "propagate_dq", "pixmap_stepsize", "pixmap_order")  # fmt: skip
    assert_takes(Drizzle.__init__, "kernel", "fillval", "out_shape", "out_dq", "max_ctx_id", "disable_ctx")
    assert_takes(Drizzle.add_image, "exptime", "pixmap", "dq", "weight_map", "pixel_scale_ratio", "pixfrac",
                 "xmin", "xmax", "ymin", "ymax")  # fmt: skip


def test_drizzle_parameters_of_a_step_are_the_resamplers():
    from jwst.resample.resample import ResampleImage
    from jwst.resample.resample_step import ResampleStep

    pars = ResampleStep().get_drizpars()
    assert set(pars) <= set(names_of(ResampleImage.__init__))
    assert {"output_wcs", "wcs_pars"} <= set(pars)
    wanted = {"crpix", "crval", "rotation", "pixel_scale", "pixel_scale_ratio", "output_shape"}
    assert set(pars["wcs_pars"]) == wanted, "a new parameter lays out grids: see GRID_PARAMETERS and align.lay_out"


def test_a_window_is_wcs_enough():
    """Nothing is asked of an output WCS, while it is drizzled onto, but what `Window` has."""
    from stcal.resample.utils import is_imaging_wcs

    from survey.steps.image3.resampling import StoredMap, Window, window_resampler

    window = Window(Box(0, 0, 7, 5))
    assert is_imaging_wcs(window) and is_imaging_wcs(StoredMap(np.zeros((2, 2, 2))))
    made = window_resampler()([0], output_wcs={"wcs": window, "pixel_scale": 0.03, "pixel_scale_ratio": 1.0},
                              blendheaders=False)  # fmt: skip
    assert made.output_array_shape == (5, 7)


def test_drizzle_scans_all_pixels_of_an_outline_without_a_corner():
    """And omits pixels of which a corner has no position."""
    from drizzle.resample import Drizzle

    y, x = np.indices((40, 40), dtype=float)
    pixmap = np.stack([x - 0.01 * (y - 20) ** 2 - 12.3, y - 0.4], axis=-1)  # bent across the left border
    taken = {}
    for name in ("clipped", "whole"):
        made = Drizzle(kernel="square", out_shape=(40, 40), disable_ctx=True)
        made.add_image(np.ones((40, 40), np.float32), exptime=1.0, pixmap=pixmap, pixel_scale_ratio=1.0)
        taken[name] = made.out_wht
        pixmap[-1] = pixmap[:, -1] = np.nan
    inner = (slice(2, 36), slice(0, 20))
    assert (taken["clipped"] < taken["whole"])[inner].any()
    np.testing.assert_allclose(taken["whole"][inner], 1, atol=1e-6)
    assert not taken["whole"][38:].any()


def test_flags_that_are_no_good_bits_take_a_pixels_weight():
    """'~DO_NOT_USE+NON_SCIENCE': only these two count as bad."""
    from jwst.resample.resample_step import GOOD_BITS
    from stcal.resample.utils import build_driz_weight
    from stdatamodels.jwst.datamodels.dqflags import pixel

    from survey.steps.image3.drizzle import DO_NOT_USE

    assert pixel["DO_NOT_USE"] == DO_NOT_USE
    dq = np.array([list(pixel.values())], np.uint32)
    model = {"data": np.ones(dq.shape, np.float32), "dq": dq, "var_rnoise": np.full(dq.shape, 0.25, np.float32)}
    weight = build_driz_weight(model, weight_type="ivm", good_bits=GOOD_BITS, flag_name_map=pixel)[0]
    assert weight.dtype == np.float32
    bad = {name for name, value in zip(pixel, weight, strict=True) if value == 0}
    assert bad == {"DO_NOT_USE", "NON_SCIENCE"}
    assert set(weight.tolist()) == {0.0, 4.0}


def test_a_headers_library_is_asked_for_metadata_alone():
    """`assemble._Headers` has __len__, read_metadata(index) and asn."""
    from jwst.resample.resample import ResampleImage, copy_asn_info_from_library

    asked = set()
    for function in (ResampleImage.combine_input_sregions, ResampleImage.finalize, copy_asn_info_from_library):
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self.input_models", "library"):
                asked.add(node.attr)
    assert asked == {"read_metadata", "asn"}
    assert names_of(copy_asn_info_from_library) == ["library", "output_model"]


# --- sky -----------------------------------------------------------------------------------------------------------


def test_sky_statistics_take_the_steps_parameters():
    from jwst.skymatch.skymatch_step import SkyMatchStep
    from stcal.skymatch import SkyImage, SkyStats, skymatch

    assert_takes(SkyStats.__init__, "skystat", "lower", "upper", "nclip", "lsig", "usig", "binwidth")
    assert_takes(SkyImage.__init__, "image", "mask", "wcs_fwd", "wcs_inv", "skystat", "stepsize", "sky_id")
    assert names_of(skymatch) == ["images", "skymethod", "match_down", "subtract"]
    source = inspect.getsource(SkyMatchStep.process)
    for text in ("interpret_bit_flags(self.dqbits, flag_name_map=pixel)", "lsig=self.lsigma", "usig=self.usigma"):
        assert text in source, f"skymatch sets up its statistics otherwise: {text}"


def test_a_sky_level_is_an_attribute_that_groups_shift():
    """Recorded images set ``sky`` and ``is_sky_valid``; a group's sky moves those of its images."""
    from stcal.skymatch import SkyGroup, SkyImage

    assert {"sky", "is_sky_valid", "sky_id", "image"} <= own_attributes(SkyImage.__init__, ast.Store)
    assert own_attributes(SkyGroup.__init__, ast.Store) == {"_images", "_polygon", "sky_id", "_sky"}
    reads = set()
    for function in (SkyGroup.sky.fset, SkyGroup.__iter__, SkyGroup.__len__, SkyGroup.__getitem__, SkyGroup.calc_sky):
        reads |= own_attributes(function, ast.Load)
    assert reads <= {"_images", "_sky", "sky"}, "a group without its polygon no longer does"


@pytest.mark.parametrize("subtract", [False, True])
def test_the_solution_asks_for_statistics_alone(subtract):
    """Levels of recorded images are those of images with pixels, as is what is taken from the pixels."""
    from stcal.skymatch import SkyImage, SkyStats, skymatch

    from survey.steps.image3.levels import Statistics
    from survey.steps.image3.numbers import untyped
    from survey.steps.image3.sky import _plain, _recorded_class

    def image(number):
        left = 0.0005 * number
        data = np.random.default_rng(number).normal(3 + number, 0.1, (40, 40)).astype("f4")

        def forward(x, y, **_pars):
            return 10 + left + np.asarray(x) * 2.5e-5, np.asarray(y) * 2.5e-5

        def backward(ra, dec, **_pars):
            return (np.asarray(ra) - 10 - left) / 2.5e-5, np.asarray(dec) / 2.5e-5

        return SkyImage(image=data, mask=np.ones(data.shape, bool), wcs_fwd=forward, wcs_inv=backward,
                        skystat=SkyStats(skystat="mode"), sky_id=str(number))  # fmt: skip

    images = [image(number) for number in range(3)]
    recorded = []
    for own, one in enumerate(images):
        overlaps = {str(n): _plain(one.calc_sky(overlap=other, delta=False))
                    for n, other in enumerate(images) if n != own}  # fmt: skip
        whole = _plain(one.calc_sky(overlap=None, delta=False))
        recorded.append(_recorded_class()(Statistics([0.0, "float"], whole, overlaps), str(own)))
        recorded[-1].number = own
    before = [one.image.copy() for one in images]
    for found in (images, recorded):
        skymatch(found, skymethod="match", match_down=True, subtract=subtract)
    assert [one.sky for one in recorded] == [one.sky for one in images]
    assert len({one.sky for one in images}) == 3, "the scene is too simple to say anything"
    assert all(one.is_sky_valid for one in (*images, *recorded))
    for one, other, pixels in zip(images, recorded, before, strict=True):
        for delta in other.image.deltas:
            pixels = pixels - untyped(delta)
        np.testing.assert_array_equal(one.image, pixels)
        assert bool(other.image.deltas) == subtract


# --- functions that are called for one exposure or tile ------------------------------------------------------------


def test_functions_for_one_exposure_keep_their_parameters():
    from jwst.assign_wcs.util import update_s_region_imaging
    from jwst.lib.pipe_utils import match_nans_and_flags
    from jwst.stpipe.utilities import query_step_status, record_step_status
    from stcal.outlier_detection.utils import compute_weight_threshold, gwcs_blot
    from stcal.resample.utils import resample_range
    from stdatamodels import fits_support
    from stdatamodels.jwst.datamodels import ImageModel, read_metadata

    assert_takes(gwcs_blot, "median_data", "median_wcs", "blot_shape", "blot_wcs", "fillval")
    assert names_of(compute_weight_threshold) == ["weight", "maskpt"]
    assert names_of(resample_range)[:2] == ["data_shape", "bbox"]
    assert names_of(match_nans_and_flags) == ["input_model"]
    assert names_of(update_s_region_imaging)[0] == "model"
    assert_takes(record_step_status, "status", "success")
    assert len(names_of(query_step_status)) >= 2
    assert names_of(fits_support.to_fits)[:2] == ["tree", "schema"]
    assert names_of(ImageModel.on_save) == ["self", "init"] and callable(read_metadata)


def test_a_weight_threshold_knows_no_pixels_without_weight():
    """A group's window has fewer empty pixels than the whole grid; they do not count, not even in a last bit."""
    from stcal.outlier_detection.utils import compute_weight_threshold

    weight = np.random.default_rng(1).uniform(0.5, 3, (60, 70)).astype("f4")
    around = np.zeros((300, 500), "f4")
    around[31:91, 200:270] = weight
    assert compute_weight_threshold(around, 0.7) == compute_weight_threshold(weight, 0.7)


def test_the_steps_parts_are_made_as_a_pipeline_makes_them():
    from jwst.pipeline.calwebb_image3 import Image3Pipeline
    from stpipe import Step
    from stpipe.config_parser import load_config_file, merge_config

    wanted = {"assign_mtwcs", "tweakreg", "skymatch", "outlier_detection", "resample", "source_catalog"}
    assert set(Image3Pipeline.step_defs) == wanted, "Image3 has other steps: the tiled engine runs those it knows"
    assert names_of(Step.from_config_section)[0] == "config" and "name" in names_of(Step.from_config_section)
    assert callable(load_config_file) and len(names_of(merge_config)) == 2
    assert names_of(Step.finalize_result) == ["self", "result", "reference_files_used"]


def test_tweakreg_takes_catalogues_that_were_made_before():
    from jwst.tweakreg.tweakreg_step import TweakRegStep

    step = TweakRegStep()
    for name in ("use_custom_catalogs", "catfile", "save_catalogs", "catalog_format", "abs_refcat", "skip"):
        assert hasattr(step, name), f"tweakreg has no parameter {name}"
    assert "tweakreg_catalog" in inspect.getsource(inspect.getmodule(TweakRegStep))


def test_angles_are_found_wherever_a_wcs_holds_them():
    """`wcs_files` walks a WCS: steps with transforms, compounds that can be traversed, parameters with a setter."""
    from astropy.modeling.models import (
        AffineTransformation2D,
        Mapping,
        Pix2Sky_TAN,
        Polynomial2D,
        RotateNative2Celestial,
    )

    from survey.steps.image3.wcs_files import _converted, _degrees, _set_degrees

    polynomials = Mapping((0, 1, 0, 1)) | Polynomial2D(1) & Polynomial2D(1)
    assert not list(_converted(wcs_of(polynomials))), "coefficients are no angles"
    rotation = RotateNative2Celestial(214.9123456789, 52.8765432101, 179.99)
    made = wcs_of(AffineTransformation2D() | Pix2Sky_TAN() | rotation)
    angles = list(_converted(made))
    assert [parameter.name for parameter in angles] == ["lon", "lat", "lon_pole"]
    held = [float(parameter._internal_value) for parameter in angles]
    degrees = _degrees(made)
    for parameter in angles:
        parameter.value = np.nextafter(parameter.value, 1000)
    _set_degrees(made, degrees)
    assert [float(parameter._internal_value) for parameter in _converted(made)] == held


def wcs_of(transform):
    import gwcs
    from astropy.coordinates import ICRS
    from astropy.units import pix
    from gwcs import coordinate_frames as frames

    detector = frames.Frame2D(name="detector", unit=(pix, pix))
    return gwcs.WCS([(detector, transform), (frames.CelestialFrame(name="world", reference_frame=ICRS()), None)])
