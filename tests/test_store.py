"""Tiles in zarr and the FITS file that is streamed from them."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from astropy.io import fits

from survey.mosaics.grid import tiles
from survey.mosaics.tiles import (
    BLOCK,
    chunk_files,
    create,
    empty_arrays,
    remove_old_chunks,
    stream_fits,
    uncommit,
    write_tile,
)

SHAPE, SIDE, NAMES = (70, 95), 32, ["sci", "wht", "con"]


def filled(folder, places):
    root = create(folder, SHAPE, SIDE, NAMES, planes=2)
    rng = np.random.default_rng(1)
    written = {}
    for tile in tiles(SHAPE, SIDE):
        if (tile.ix, tile.iy) in places:
            arrays = {
                "sci": rng.normal(size=tile.box.shape).astype("float32"), "wht": np.ones(tile.box.shape, "float32"),
                "con": rng.integers(0, 2**32, (2, *tile.box.shape), dtype="uint32"),
            }  # fmt: skip
            write_tile(root, tile, arrays)
            written[tile] = arrays
    return root, written


def test_a_tile_is_one_file_of_each_array(tmp_path):
    root, written = filled(tmp_path / "g", {(0, 0), (2, 1), (1, 2)})
    chunks = {
        path.relative_to(tmp_path / "g").as_posix() for path in (tmp_path / "g").rglob("c/**/*") if path.is_file()
    }
    assert chunks == {file for tile in written for file in chunk_files(NAMES, tile, (0, 1))}
    for tile, arrays in written.items():
        np.testing.assert_array_equal(root["sci"][tile.box.slices], arrays["sci"])
        np.testing.assert_array_equal(root["con"][(slice(None), *tile.box.slices)], arrays["con"])
    assert np.isnan(root["sci"][40:60, 0:30]).all()
    assert not root["wht"][40:60, 0:30].any()


def test_a_chunk_of_nothing_is_written_all_the_same_but_no_empty_plane(tmp_path):
    root = create(tmp_path / "g", SHAPE, SIDE, NAMES, planes=3)
    tile = next(tiles(SHAPE, SIDE))
    con = np.zeros((3, *tile.box.shape), "uint32")
    con[1, 5, 5] = 1
    nothing = np.full(tile.box.shape, np.nan, "float32")
    files = write_tile(root, tile, {"sci": nothing, "wht": nothing, "con": con})
    assert files == ["sci/c/0/0", "wht/c/0/0", "con/c/1/0/0"]
    assert all((tmp_path / "g" / file).is_file() for file in files)


def test_pixels_without_a_tile_hold_the_fill_value(tmp_path):
    assert not create(tmp_path / "g", SHAPE, SIDE, NAMES, planes=1, fill=0.0)["sci"][:].any()


def test_unsigned_flags_come_back_from_fits(tmp_path):
    root = create(tmp_path / "g", (4, 5), 4, ["dq"], planes=1)
    flags = np.arange(20, dtype="uint32").reshape(4, 5) * np.uint32(2**27)
    root["dq"][:] = flags
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(flags, name="DQ")])
    stream_fits(tmp_path / "f.fits", hdus, {"DQ": root["dq"]}, 3)
    np.testing.assert_array_equal(fits.getdata(tmp_path / "f.fits", "DQ"), flags)


def test_what_is_not_the_mosaics_goes(tmp_path):
    _, written = filled(tmp_path / "g", {(0, 0), (2, 1)})
    (tmp_path / "g" / "old" / "c" / "0").mkdir(parents=True)
    (tmp_path / "g" / "old" / "c" / "0" / "0").write_bytes(b"x")
    keep = [tile for tile in written if tile.ix == 0]
    assert remove_old_chunks(tmp_path / "g", NAMES, keep, 2) == 4 + 1
    assert sorted(path.name for path in (tmp_path / "g").iterdir()) == ["con", "sci", "wht", "zarr.json"]
    assert remove_old_chunks(tmp_path / "g", NAMES, keep, 2) == 0


def test_without_its_mark_a_group_is_none(tmp_path):
    create(tmp_path / "s" / "g", SHAPE, SIDE, NAMES, planes=1)
    uncommit(tmp_path / "s" / "g")
    uncommit(tmp_path / "s" / "g")
    with pytest.raises(FileNotFoundError):
        zarr.open_group(tmp_path / "s" / "g", mode="r")


@pytest.mark.parametrize("rows", [1, 32, 1000])
def test_a_streamed_file_is_astropys(tmp_path, rows):
    root, _ = filled(tmp_path / "g", {(0, 0), (2, 1), (1, 2)})
    sci, con = root["sci"][:], root["con"][:].view("int32")
    hdus = fits.HDUList([
        fits.PrimaryHDU(), fits.ImageHDU(sci, name="SCI"), fits.ImageHDU(con, name="CON"),
        fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(5))], name="HDRTAB"),
    ])  # fmt: skip
    hdus[0].header["FILTER"] = "F200W"
    hdus["SCI"].header["BUNIT"] = "MJy/sr"
    stream_fits(tmp_path / "ours.fits", hdus, {"SCI": root["sci"], "CON": root["con"]}, rows)
    assert (tmp_path / "ours.fits").stat().st_size % BLOCK == 0
    hdus.writeto(tmp_path / "astropy.fits")
    with fits.open(tmp_path / "ours.fits") as ours, fits.open(tmp_path / "astropy.fits") as theirs:
        assert [hdu.name for hdu in ours] == [hdu.name for hdu in theirs]
        assert ours[0].header["FILTER"] == "F200W" and ours["SCI"].header["BUNIT"] == "MJy/sr"
        np.testing.assert_array_equal(ours["SCI"].data, sci)
        np.testing.assert_array_equal(ours["CON"].data, con)
        np.testing.assert_array_equal(ours["HDRTAB"].data["a"], np.arange(5))
        for one, other in zip(ours, theirs, strict=True):
            assert one.header.get("NAXIS1") == other.header.get("NAXIS1")


def test_empty_arrays_leave_nothing(tmp_path):
    with empty_arrays(tmp_path, {"sci": ((1000, 2000), "float32")}) as made:
        assert made["sci"].shape == (1000, 2000)
        assert not made["sci"][::100].any()
        assert next(tmp_path.iterdir()).stat().st_blocks * 512 < 1e6
    assert list(tmp_path.iterdir()) == []
