"""Foreign FITS files: what they declare is bounded by what they hold, before anything is allocated."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import asdf
import numpy as np
import pytest
from astropy.io import fits
from observatory import write_raw

from survey.archive.headers import DamagedFileError
from survey.archive.local import find_exposures, read_exposure
from survey.archive.structure import check_structure, read_hdus
from survey.errors import SurveyError

NAME = "jw01345001001_02101_00001_nrcb1"


def header(*cards: str) -> bytes:
    text = "".join(card.ljust(80) for card in (*cards, "END"))
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


def card(name: str, value: object) -> str:
    return f"{name:8}= {value:>20}"


PRIMARY = header(card("SIMPLE", "T"), card("BITPIX", 8), card("NAXIS", 0), card("EXTEND", "T"))
HUGE = {
    "petabyte image": (card("BITPIX", -64), card("NAXIS", 2), card("NAXIS1", 12_000_000), card("NAXIS2", 12_000_000)),
    "overflow of 64 bits": (
        card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 2**32), card("NAXIS2", 2**32 + 1), card("PCOUNT", 0)
    ),
    "huge PCOUNT": (card("BITPIX", 8), card("NAXIS", 1), card("NAXIS1", 1), card("PCOUNT", 10**17)),
    "huge GCOUNT": (card("BITPIX", 8), card("NAXIS", 1), card("NAXIS1", 1), card("PCOUNT", 0), card("GCOUNT", 10**17)),
    "no group": (
        card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 10**8), card("NAXIS2", 10**8), card("GCOUNT", 0)
    ),
    "one empty axis": (card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 10**14), card("NAXIS2", 0)),
    "a thousand axes": (card("BITPIX", 8), card("NAXIS", 1000)),
    "axis of too many digits": (card("BITPIX", 8), card("NAXIS", 1), card("NAXIS1", "9" * 20)),
    "negative axis": (card("BITPIX", 8), card("NAXIS", 1), card("NAXIS1", -8)),
    "no such BITPIX": (card("BITPIX", 7), card("NAXIS", 0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["no group", "one empty axis"])
def test_size_that_counts_as_nothing_is_refused_by_itself(tmp_path, kind):
    path = tmp_path / "x.fits"
    path.write_bytes(PRIMARY + header("XTENSION= 'IMAGE   '", *HUGE[kind]))
    with pytest.raises(DamagedFileError, match="elements"):
        read_hdus(path)


@pytest.mark.parametrize("value", ["'asdf    '", "    'ASDF'", "'ASDF'"])
def test_packed_tree_is_refused_however_its_name_is_written(tmp_path, value):
    block = b"\xd3BLK" + (48).to_bytes(2, "big") + bytes(4) + b"zlib" + (8).to_bytes(8, "big") * 2
    block += (50_000_000).to_bytes(8, "big") + bytes(16)
    cards = (card("BITPIX", 8), card("NAXIS", 1), card("NAXIS1", len(block)), f"EXTNAME = {value}")
    path = tmp_path / "x.fits"
    path.write_bytes(PRIMARY + header("XTENSION= 'IMAGE   '", *cards) + block.ljust(2880, b"\0"))
    with pytest.raises(DamagedFileError, match="ASDF block"):
        read_hdus(path)


@pytest.mark.parametrize("kind", HUGE)
def test_header_that_declares_more_than_the_file_holds(tmp_path, kind):
    path = tmp_path / f"{NAME}_uncal.fits"
    path.write_bytes(PRIMARY + header("XTENSION= 'IMAGE   '", *HUGE[kind]) + bytes(2880))
    with pytest.raises(DamagedFileError):
        read_exposure(path)


def test_header_without_end_is_read_no_further_than_its_bound(tmp_path):
    path = tmp_path / "endless.fits"
    with open(path, "wb") as stream:
        stream.write(PRIMARY[:-2880] + header(card("SIMPLE", "T"))[:80])
        stream.write(b" " * 40_000_000)
    with pytest.raises(DamagedFileError, match=r"without END|no FITS"):
        read_hdus(path)


def test_compressed_image_is_refused(tmp_path):
    """A kilobyte of it can declare a petabyte of pixels."""
    path = tmp_path / f"{NAME}_uncal.fits"
    image = fits.CompImageHDU(np.zeros((64, 64), "i2"), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
    content = path.read_bytes()
    for axis in (b"ZNAXIS1", b"ZNAXIS2"):
        content = content.replace(axis + b" =                   64", axis + b" =            900000000")
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="compressed"):
        read_hdus(path)


def tree(data: np.ndarray, compression: str | None) -> bytes:
    buffer = io.BytesIO()
    asdf.AsdfFile({"data": data}).write_to(buffer, all_array_compression=compression)
    return buffer.getvalue()


def with_tree(path, content: bytes):
    rows = np.array([(np.frombuffer(content, "u1"),)], dtype=[("ASDF_METADATA", "u1", (len(content),))])
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(rows, name="ASDF")]).writeto(path, overwrite=True)
    return path


def test_tree_that_unpacks_is_refused(tmp_path):
    data = np.zeros(1_000_000)
    assert len(read_hdus(with_tree(tmp_path / "a.fits", tree(data[:1000], None)))) == 2
    with pytest.raises(DamagedFileError, match="compressed"):
        read_hdus(with_tree(tmp_path / "b.fits", tree(data, "zlib")))
    plain = bytearray(tree(data[:1000], None))
    at = plain.index(b"\xd3BLK")
    plain[at + 30 : at + 38] = (10**15).to_bytes(8, "big")
    with pytest.raises(DamagedFileError, match="larger than"):
        read_hdus(with_tree(tmp_path / "c.fits", bytes(plain)))


def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / f"{NAME}_uncal.fits")
    with pytest.raises(DamagedFileError, match="not a regular file"):
        check_structure(tmp_path / f"{NAME}_uncal.fits")
    with pytest.raises(SurveyError, match="is not a file"):
        find_exposures(tmp_path)


def test_packed_file_is_no_fits_file(tmp_path):
    """Readers unpack gzip by its first bytes, whatever the name: it never gets so far."""
    import gzip

    path = tmp_path / f"{NAME}_uncal.fits"
    path.write_bytes(gzip.compress(write_raw(path, NAME, "NRCB1", "F200W")))
    with pytest.raises(DamagedFileError, match="no FITS header"):
        read_exposure(path)


def test_petabyte_is_refused_in_little_memory(tmp_path):
    """In a process that may not have 1 GB."""
    path = tmp_path / f"{NAME}_uncal.fits"
    path.write_bytes(PRIMARY + header("XTENSION= 'IMAGE   '", *HUGE["petabyte image"]))
    script = (
        "import resource, sys\n"
        "from survey.archive.headers import DamagedFileError\n"
        "from survey.archive.structure import check_structure\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        "try:\n"
        "    check_structure(sys.argv[1])\n"
        "except DamagedFileError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert "HDU 1 ends at byte 1152000000005760" in done.stdout, done.stderr
