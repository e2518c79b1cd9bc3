"""An i2d as a zarr group: the same pixels, units and WCS; replaced whole; cut out by sky position."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from astropy.wcs import WCS

from survey.digest import tree_sha256
from survey.errors import ConfigError, TaskError
from survey.mosaics import groups as mosaics
from survey.mosaics.groups import cutout, exposures_at, open_group, read_wcs, write_group

NY, NX = 37, 53
SCALE = 0.03  # arcsec
NAMES = ["sci", "err", "wht", "var_poisson", "var_rnoise", "var_flat"]


def make_i2d(path, ny=NY, nx=NX, planes=2, drop=(), seed=1, flags=False):
    """A mosaic with made-up pixels, a rotated tangent projection and a contribution mask of ``planes`` planes."""
    rng = np.random.default_rng(seed)
    angle = np.deg2rad(-49.7)
    header = fits.Header()
    header["BUNIT"] = "MJy/sr"
    for axis, (kind, value, reference) in enumerate((("RA---TAN", 214.825, 20.5), ("DEC--TAN", 52.825, 11.0)), 1):
        header[f"CTYPE{axis}"], header[f"CUNIT{axis}"] = kind, "deg"
        header[f"CRVAL{axis}"], header[f"CRPIX{axis}"] = value, reference
        header[f"CDELT{axis}"] = SCALE / 3600
    header["PC1_1"], header["PC1_2"] = -np.cos(angle), np.sin(angle)
    header["PC2_1"], header["PC2_2"] = np.sin(angle), np.cos(angle)
    header["RADESYS"] = "ICRS"
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"SURVEY": "egs-demo", "SVYDIGST": "ab" * 32, "CRDS_CTX": "jwst_0001.pmap", "FILTER": "F200W", "SIMULATD": "T"}
    )
    hdus = fits.HDUList([primary])
    for name in ("SCI", "ERR", "CON", "WHT", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT", *(["DQ"] if flags else [])):
        if name == "CON":
            data = rng.integers(-(2**31), 2**31, (planes, ny, nx)).astype(np.int32)
        elif name == "DQ":
            data = rng.integers(0, 2**32, (ny, nx)).astype(np.uint32)
        else:
            data = rng.normal(size=(ny, nx)).astype(np.float32)
            data[:3, :4] = np.nan
        if name not in drop:
            hdus.append(fits.ImageHDU(data, header if name == "SCI" else None, name=name))
    hdus.writeto(path, overwrite=True)
    return path


@pytest.fixture
def i2d(tmp_path):
    return make_i2d(tmp_path / "jw01345-a3001_t001_nircam_clear-f200w_i2d.fits")


@pytest.fixture
def store(tmp_path, i2d):
    write_group(i2d, tmp_path / "mosaics.zarr", "F200W", chunk=16, attrs={"members": ["a", "b"], "survey": "egs"})
    return tmp_path / "mosaics.zarr"


def test_every_pixel_arrives(i2d, store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mosaic = xr.open_zarr(store, group="F200W", consolidated=False)
    assert sorted(mosaic.data_vars) == sorted([*NAMES, "con"])
    with fits.open(i2d) as hdus:
        for name in NAMES:
            assert mosaic[name].dtype == np.float32
            assert mosaic[name].dims == ("y", "x")
            np.testing.assert_array_equal(mosaic[name].values, hdus[name.upper()].data)
        assert mosaic["con"].dtype == np.uint32
        assert mosaic["con"].dims == ("plane", "y", "x")
        np.testing.assert_array_equal(mosaic["con"].values.view(np.int32), hdus["CON"].data)


def test_flags_keep_all_their_bits(tmp_path):
    path = make_i2d(tmp_path / "x_i2d.fits", flags=True)
    write_group(path, tmp_path / "s", "F200W")
    mosaic = open_group(tmp_path / "s", "F200W")
    assert mosaic["dq"].dtype == np.uint32
    np.testing.assert_array_equal(mosaic["dq"].values, fits.getdata(path, "DQ"))


def test_chunks_and_attributes(store):
    group = zarr.open_group(store, mode="r", path="F200W")
    assert group["sci"].chunks == (16, 16)
    assert group["con"].chunks == (1, 16, 16)
    assert group["sci"].compressors
    mosaic = open_group(store, "F200W")
    assert mosaic.attrs["units"] == mosaic["sci"].attrs["units"] == "MJy/sr"
    assert mosaic["var_flat"].attrs["units"] == "(MJy/sr)**2"
    facts = {"filter": "F200W", "digest": "ab" * 32, "context": "jwst_0001.pmap", "simulated": "T", "complete": True}
    assert {name: mosaic.attrs[name] for name in facts} == facts
    assert mosaic.attrs["members"] == ["a", "b"]
    assert mosaic.attrs["survey"] == "egs"  # what the caller says goes before the header
    assert mosaic.attrs["pixel_scale_arcsec"] == pytest.approx(SCALE, rel=1e-9)  # undistorted: exact but for rounding


def test_wcs_is_that_of_the_file(i2d, store):
    with fits.open(i2d) as hdus:
        expected = WCS(hdus["SCI"].header)
    mosaic = open_group(store, "F200W")
    corners = np.array([[0, 0], [NX - 1, 0], [NX - 1, NY - 1], [20.25, 11.75]])
    by_hand = WCS(fits.Header.fromstring(mosaic["sci"].attrs["wcs_header"]))
    for wcs in (read_wcs(mosaic), read_wcs(mosaic["err"]), by_hand):
        np.testing.assert_array_equal(wcs.all_pix2world(corners, 0), expected.all_pix2world(corners, 0))
    assert mosaic.attrs["wcs"]["CRPIX1"] == 20.5


@pytest.mark.parametrize(("size", "corner"), [(5, (9, 28)), (6, (9, 28)), (1, (11, 30))])
def test_cutout_is_centred_and_keeps_the_sky(store, size, corner):
    mosaic = open_group(store, "F200W")
    ra, dec = (float(value) for value in read_wcs(mosaic).all_pix2world(30.1, 11.2, 0))
    small = cutout(store, "F200W", ra, dec, size_px=size)
    assert small["sci"].shape == (size, size)
    assert small.attrs["corner"] == list(corner)
    rows, columns = (slice(start, start + size) for start in corner)
    np.testing.assert_array_equal(small["sci"].values, mosaic["sci"].values[rows, columns])
    x, y = read_wcs(small).all_world2pix(ra, dec, 0)
    assert (x + corner[1], y + corner[0]) == pytest.approx((30.1, 11.2), abs=1e-6)  # wcslib's own tolerance
    x, y = read_wcs(small["sci"]).all_world2pix(ra, dec, 0)
    assert x + corner[1] == pytest.approx(30.1, abs=1e-6)


def test_cutout_by_arcsec_is_clipped_at_the_edge(store):
    ra, dec = (float(value) for value in read_wcs(open_group(store, "F200W")).all_pix2world(0.0, 36.0, 0))
    small = cutout(store, "F200W", ra, dec, size_arcsec=11 * SCALE)
    assert small["sci"].shape == (6, 6)
    assert small["con"].shape == (2, 6, 6)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"size_px": 3, "size_arcsec": 1.0}, "either"),
        ({}, "either"),
        ({"size_px": 0}, "at least 1"),
        ({"size_px": 5, "ra": 214.9}, "outside"),
        ({"size_px": 5, "ra": 34.825, "dec": -52.825}, "outside"),  # the antipode projects too
        ({"size_px": 5, "group": "F999W"}, "there are F200W"),
        ({"size_px": 5, "group": "../x"}, "no mosaic"),
    ],
)
def test_bad_cutouts_are_refused(store, arguments, cause):
    call = {"group": "F200W", "ra": 214.825, "dec": 52.825} | arguments
    with pytest.raises(ConfigError, match=cause):
        cutout(store, **call)


def test_cutout_reads_only_the_chunks_it_needs(store):
    for chunk in ("0/3", "2/0", "2/3"):
        (store / "F200W" / "sci" / "c" / chunk).write_bytes(b"damaged")
    small = cutout(store, "F200W", 214.825, 52.825, size_px=4)
    assert np.isfinite(small["sci"].values).all()
    with pytest.raises(Exception, match=r".+"):
        open_group(store, "F200W")["sci"].load()


def test_groups_stand_side_by_side_and_are_replaced_whole(tmp_path, store, i2d):
    write_group(i2d, store, "F444W", chunk=64)
    first = tree_sha256(store / "F200W")
    write_group(make_i2d(tmp_path / "b_i2d.fits", ny=20, nx=21, planes=1), store, "F200W", chunk=64)
    assert open_group(store, "F200W")["sci"].shape == (20, 21)
    assert tree_sha256(store / "F200W") != first
    assert sorted(os.listdir(store)) == ["F200W", "F444W", "zarr.json"]
    assert sorted(zarr.open_group(store, mode="r").group_keys()) == ["F200W", "F444W"]


def test_the_same_file_gives_the_same_bytes(tmp_path, i2d):
    for name in ("a", "b"):
        write_group(i2d, tmp_path / name, "F200W", chunk=16)
    assert tree_sha256(tmp_path / "a") == tree_sha256(tmp_path / "b")


def test_exposures_at_a_position_are_those_of_the_context_planes(tmp_path, i2d):
    members = [f"exposure{number}" for number in range(40)]  # of 64 bits in two planes
    folder = write_group(i2d, tmp_path / "s", "F200W", attrs={"members": members})
    ra, dec = (float(value) for value in read_wcs(open_group(tmp_path / "s", "F200W")).all_pix2world(7.3, 4.8, 0))
    first, second = (int(plane) for plane in fits.getdata(i2d, "CON")[:, 5, 7].astype(np.uint32))
    bits = first | second << 32
    expected = tuple(name for number, name in enumerate(members) if bits >> number & 1)
    assert 0 < len(expected) < 40 and any(int(name.removeprefix("exposure")) >= 32 for name in expected)
    assert exposures_at(folder, ra, dec) == expected
    assert exposures_at(cutout(tmp_path / "s", "F200W", ra, dec, size_px=5), ra, dec) == expected
    with pytest.raises(ConfigError, match="outside of"):
        exposures_at(folder, ra + 1, dec)


def test_a_crash_leaves_the_old_group(monkeypatch, tmp_path, store):
    before = tree_sha256(store / "F200W")

    def crash(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mosaics, "sync_tree", crash)
        with pytest.raises(KeyboardInterrupt):
            write_group(make_i2d(tmp_path / "b_i2d.fits", seed=2), store, "F200W")
    assert tree_sha256(store / "F200W") == before
    assert sorted(os.listdir(store)) == ["F200W", "zarr.json"]


def test_a_group_without_its_marker_is_refused(store):
    group = zarr.open_group(store, path="F200W")
    group.attrs["complete"] = False
    with pytest.raises(ConfigError, match="is incomplete"):
        open_group(store, "F200W")


def test_variances_may_be_missing(tmp_path):
    write_group(make_i2d(tmp_path / "x_i2d.fits", drop=("VAR_FLAT", "ERR")), tmp_path / "s", "F200W")
    assert "var_flat" not in open_group(tmp_path / "s", "F200W")


@pytest.mark.parametrize("drop", [("SCI",), ("WHT", "CON")])
def test_what_is_no_mosaic_is_refused(tmp_path, drop):
    with pytest.raises(TaskError, match=f"no extension {', '.join(drop)}"):
        write_group(make_i2d(tmp_path / "x_i2d.fits", drop=drop), tmp_path / "s", "F200W")
    assert not (tmp_path / "s" / "F200W").exists()


def test_other_bad_input_is_refused(tmp_path, i2d):
    (tmp_path / "text.fits").write_text("no FITS")
    with pytest.raises(TaskError, match="not a FITS file"):
        write_group(tmp_path / "text.fits", tmp_path / "s", "F200W")
    fits.setval(i2d, "CTYPE1", value="LINEAR", extname="SCI")
    with pytest.raises(TaskError, match="celestial WCS"):
        write_group(i2d, tmp_path / "s", "F200W")
    for group in ("", "../x", "a/b", ".hidden", "x\n"):
        with pytest.raises(ConfigError, match="group"):
            write_group(i2d, tmp_path / "s", group)
    with pytest.raises(ConfigError, match="chunk 0"):
        write_group(i2d, tmp_path / "s", "F200W", chunk=0)


@pytest.mark.slow
def test_a_mosaic_larger_than_the_memory_it_takes(tmp_path):
    """118 MB of pixels in chunks of 256: less than half of that may be in memory at a time."""
    path = make_i2d(tmp_path / "large_i2d.fits", ny=2048, nx=2048, planes=1)
    code = (
        "import sys, resource; from pathlib import Path; from survey.mosaics.groups import write_group\n"
        "import zarr, xarray, numpy, astropy.io.fits, astropy.wcs\n"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write_group(Path(sys.argv[1]), Path(sys.argv[2]), 'F200W', chunk=256)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "s")], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < path.stat().st_size / 2 / 2**20
