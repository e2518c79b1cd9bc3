"""Check that a FITS file is complete: its length against its headers, its content against checksums where it has them.

Headers are read within bounds, and pixels only where a checksum is to be verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from survey.archive.headers import BLOCK, DamagedFileError, Header, open_regular, read_header

MAX_HDUS = 1000
MAX_TREE_BYTES = 256 * 1024 * 1024  # of an ASDF extension; the longest of JWST products has about 1 MB
_MAX_AXES = 999
_MAX_ELEMENTS = 2**40  # readers multiply axes before they look at the data
_ASDF_BLOCK = b"\xd3BLK"
_SUM_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Hdu:
    """One header and the extent of its data."""

    header: Header
    data_bytes: int  # without padding

    @property
    def end(self) -> int:
        """Offset of the next HDU [bytes]."""
        return self.header.end - (-self.data_bytes // BLOCK) * BLOCK


def check_structure(path: Path | str) -> tuple[Hdu, ...]:
    """Check that headers, declared sizes and checksums of a FITS file match its bytes.

    Returns
    -------
    hdus : so that the headers need not be read again

    Raises
    ------
    DamagedFileError
        Not a FITS file, truncated, too long, or a CHECKSUM or DATASUM does not match.
    OSError
        The file cannot be read.
    """
    hdus = read_hdus(path)
    with open_regular(path) as stream:
        for number, hdu in enumerate(hdus):
            _check_sums(stream, hdu, number)
    return hdus


def read_hdus(path: Path | str) -> tuple[Hdu, ...]:
    """Read the headers of a file, whose declared sizes must add up to its length; errors as in `check_structure`.

    Compressed images and trees, which may unpack to any size, are refused: JWST products have none.
    """
    with open_regular(path) as stream:
        size = stream.seek(0, 2)
        hdus = tuple(_walk(stream, size))
        for number, hdu in enumerate(hdus):
            _check_unpacked(stream, hdu, number)
        return hdus


def _walk(stream: BinaryIO, size: int) -> Iterator[Hdu]:
    if size == 0:
        raise DamagedFileError("is empty, expected a FITS file.")
    start = 0
    for number in range(MAX_HDUS):
        header = read_header(stream, start, number)
        hdu = Hdu(header, _declared_bytes(header, number))
        if hdu.end > size:
            raise DamagedFileError(f"HDU {number} ends at byte {hdu.end} by its header, but the file has {size} bytes.")
        yield hdu
        if hdu.end == size:
            return
        start = hdu.end
    raise DamagedFileError(f"has more than {MAX_HDUS} HDUs.")


def _declared_bytes(header: Header, number: int) -> int:
    """Data bytes by BITPIX, NAXISn, PCOUNT and GCOUNT (FITS standard 4.0, equations 1 and 2).

    astropy's ``Header.data_size`` computes the same, and checks none of the values.
    """
    if number == 0 and not header.logical("SIMPLE"):
        raise DamagedFileError("has no SIMPLE = T.")
    bitpix, axes = header.integer("BITPIX"), header.integer("NAXIS")
    if bitpix not in (8, 16, 32, 64, -32, -64) or axes is None or not 0 <= axes <= _MAX_AXES:
        raise DamagedFileError(
            f"HDU {number} has BITPIX = {bitpix}, NAXIS = {axes}, which the FITS standard does not allow."
        )
    if axes == 0:
        return 0
    elements = extent = 1
    for axis in range(1, axes + 1):
        length = header.integer(f"NAXIS{axis}")
        if length is None or length < 0:
            raise DamagedFileError(f"HDU {number} has NAXIS{axis} = {length}, which FITS does not allow.")
        elements *= length
        extent *= length or 1
    extra, groups = header.integer("PCOUNT") or 0, header.integer("GCOUNT")
    if extra < 0 or groups not in (None, 1) or (not elements and extent > _MAX_ELEMENTS):
        raise DamagedFileError(
            f"HDU {number} has PCOUNT = {extra}, GCOUNT = {groups} and axes of {extent} elements, which no image has."
        )
    return abs(bitpix) // 8 * (extra + elements)


def _check_unpacked(stream: BinaryIO, hdu: Hdu, number: int) -> None:
    """Refuse an HDU that a reader would unpack: its size is not bounded by the file's."""
    header = hdu.header
    if header.logical("ZIMAGE") or header.logical("ZTABLE"):
        raise DamagedFileError(f"HDU {number} is compressed (ZIMAGE or ZTABLE), which no JWST product is.")
    if not header.is_extension("ASDF"):
        return
    if hdu.data_bytes > MAX_TREE_BYTES:
        raise DamagedFileError(f"HDU {number} holds an ASDF tree of {hdu.data_bytes} bytes.")
    stream.seek(header.end)
    tree = stream.read(hdu.data_bytes)
    at = tree.find(_ASDF_BLOCK)
    while at >= 0:  # a block: magic, 2 bytes header size, 4 flags, 4 compression, 8 allocated, 8 used, 8 unpacked size
        packing, used, unpacked = tree[at + 10 : at + 14], tree[at + 22 : at + 30], tree[at + 30 : at + 38]
        if packing.strip(b"\0") or int.from_bytes(unpacked, "big") > len(tree) or used != unpacked:
            raise DamagedFileError(f"HDU {number} holds an ASDF block that is compressed or larger than the tree.")
        at = tree.find(_ASDF_BLOCK, at + len(_ASDF_BLOCK))


def _check_sums(stream: BinaryIO, hdu: Hdu, number: int) -> None:
    """Compare DATASUM and CHECKSUM, where a header has them, with the bytes (FITS standard 4.0, appendix J).

    In blocks, where astropy's ``verify_checksum`` reads the data as a whole.
    """
    header = hdu.header
    datasum, checksum = header.text("DATASUM"), header.text("CHECKSUM")
    if not (datasum and datasum.isdecimal()) and not checksum:
        return
    data = _ones_complement(stream, header.end, hdu.end)
    if datasum and datasum.isdecimal() and int(datasum) != data:
        raise DamagedFileError(f"the data of HDU {number} have the sum {data}, but DATASUM is {datasum}.")
    if checksum:
        whole = _folded(_ones_complement(stream, header.start, header.end) + data)
        if whole not in (0, 0xFFFFFFFF):
            raise DamagedFileError(f"HDU {number} does not match its CHECKSUM.")


def _ones_complement(stream: BinaryIO, start: int, end: int) -> int:
    """32-bit ones' complement sum of bytes [start, end), a multiple of 4."""
    stream.seek(start)
    total, left = 0, end - start
    while left > 0:
        block = stream.read(min(_SUM_BYTES, left))
        if not block:
            break
        total += int(np.frombuffer(block, dtype=">u4").sum(dtype=np.uint64))
        left -= len(block)
    return _folded(total)


def _folded(total: int) -> int:
    while total > 0xFFFFFFFF:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total
