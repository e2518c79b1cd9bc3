"""A FITS file that is streamed from tiles is, to the byte, the one that astropy writes of whole arrays."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from survey.mosaics.grid import Box, tiles
from survey.mosaics.tiles import BLOCK, bands, create, empty_arrays, stream_fits, write_tile

NAMES = {"sci": "SCI", "con": "CON", "dq": "DQ"}


def stored(folder, shape, side, planes):
    root = create(folder, shape, side, list(NAMES), planes)
    rng = np.random.default_rng(1)
    for tile in tiles(shape, side):
        arrays = {
            "sci": rng.normal(size=tile.box.shape).astype("float32"),
            "con": rng.integers(0, 2**32, (planes, *tile.box.shape), dtype="uint32"),
            "dq": rng.integers(0, 2**32, tile.box.shape, dtype="uint32"),
        }
        write_tile(root, tile, arrays)
    return root


def headers(sci, con, dq):
    hdus = fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(values, name=name) for name, values in
                         (("SCI", sci), ("CON", con), ("DQ", dq)))])  # fmt: skip
    hdus[0].header["FILTER"] = "F200W"
    hdus["SCI"].header["BUNIT"] = "MJy/sr"
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(5))], name="HDRTAB"))
    return hdus


@pytest.mark.parametrize(
    ("shape", "side", "planes", "rows"),
    [((1, 1), 64, 1, 1), ((7, 3), 64, 2, 5), ((33, 65), 32, 3, 32), ((65, 31), 32, 1, 7), ((64, 45), 32, 2, 1000)],
)
def test_every_byte_is_astropys(tmp_path, shape, side, planes, rows):
    root = stored(tmp_path / "g", shape, side, planes)
    hdus = headers(root["sci"][:], root["con"][:].view("int32"), root["dq"][:])
    stream_fits(tmp_path / "ours.fits", hdus, {own: root[name] for name, own in NAMES.items()}, rows)
    hdus.writeto(tmp_path / "astropys.fits")
    ours = (tmp_path / "ours.fits").read_bytes()
    assert len(ours) % BLOCK == 0
    assert ours == (tmp_path / "astropys.fits").read_bytes()


def test_a_header_may_come_from_arrays_that_hold_nothing(tmp_path):
    root = stored(tmp_path / "g", (33, 65), 32, 2)
    shapes = {"sci": ((33, 65), "float32"), "con": ((2, 33, 65), "int32"), "dq": ((33, 65), "uint32")}
    with empty_arrays(tmp_path, shapes) as empty:
        hdus = headers(empty["sci"], empty["con"], empty["dq"])
        stream_fits(tmp_path / "f.fits", hdus, {own: root[name] for name, own in NAMES.items()}, 10)
        del hdus
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.fits", "g"]
    with fits.open(tmp_path / "f.fits") as found:
        assert (found["SCI"].header["NAXIS1"], found["SCI"].header["NAXIS2"]) == (65, 33)
        assert [found["CON"].header[f"NAXIS{axis}"] for axis in (1, 2, 3)] == [65, 33, 2]
        np.testing.assert_array_equal(found["SCI"].data, root["sci"][:])
        np.testing.assert_array_equal(found["CON"].data.astype("int32").view("uint32"), root["con"][:])
        np.testing.assert_array_equal(found["DQ"].data, root["dq"][:])


def test_tiles_that_were_never_written_are_fill_values_in_the_file(tmp_path):
    root = create(tmp_path / "g", (40, 50), 32, ["sci", "con"], planes=1)
    first = next(tiles((40, 50), 32))
    sci = np.ones(first.box.shape, "float32")
    write_tile(root, first, {"sci": sci, "con": np.ones((1, *first.box.shape), "uint32")})
    hdus = headers(root["sci"][:], root["con"][:].view("int32"), np.zeros((1, 1), "uint32"))
    stream_fits(tmp_path / "f.fits", hdus, {"SCI": root["sci"], "CON": root["con"]}, 9)
    with fits.open(tmp_path / "f.fits") as found:
        outside = np.ones((40, 50), bool)
        outside[first.box.slices] = False
        assert np.isnan(found["SCI"].data[outside]).all() and (found["SCI"].data[~outside] == 1).all()
        assert (found["CON"].data[0] == ~outside).all()


@pytest.mark.parametrize(("ny", "rows"), [(1, 1), (10, 3), (10, 10), (10, 99)])
def test_bands_cover_every_row_once(ny, rows):
    found = list(bands((ny, 7), rows))
    assert [y for box in found for y in range(box.y0, box.y1)] == list(range(ny))
    assert all((box.x0, box.x1) == (0, 7) and box.shape[0] <= rows for box in found)
    assert found[-1].inside(Box(0, 0, 7, ny))


def test_empty_arrays_go_also_when_something_fails(tmp_path):
    with pytest.raises(ValueError, match="in between"), empty_arrays(tmp_path, {"a": ((3, 4), "float32")}):
        raise ValueError("in between")
    assert list(tmp_path.iterdir()) == []
