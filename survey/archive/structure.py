"""Is this file a whole FITS file? Its headers say how long it must be, and checksums, if any, what is in it.

Needs nothing but numpy: headers are walked with bounded sizes, pixels are read only to verify a checksum that is there.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

BLOCK = 2880  # bytes; every part of a FITS file is padded to it
CARD = 80
MAX_HEADER_BLOCKS = 4000  # 11.5 MB; the longest headers of JWST products have about 150 blocks
MAX_HDUS = 1000
MAX_TREE_BYTES = 256 * 1024 * 1024  # of an ASDF extension; the longest of JWST products has about 1 MB
_MAX_AXES = 999
_MAX_ELEMENTS = 2**40  # readers multiply axes before they look at the data
_ASDF_BLOCK = b"\xd3BLK"
_SUM_BYTES = 8 * 1024 * 1024
_INTEGER = re.compile(rb"= +([+-]?\d{1,18}) *(?:/.*)?", re.DOTALL)
_LOGICAL = re.compile(rb"= +([TF]) *(?:/.*)?", re.DOTALL)
_QUOTED = re.compile(rb"= *'((?:[^']|'')*)'", re.DOTALL)


class DamagedFileError(ValueError):
    """A file that is not a whole, sound FITS file; says what is wrong with it."""


@dataclass(frozen=True)
class Hdu:
    """One header and the extent of its data, in bytes from the file's start."""

    header: bytes
    header_start: int
    data_start: int
    data_bytes: int  # without padding
    end: int  # with padding

    def integer(self, keyword: str) -> int | None:
        """Value of an integer card, None when there is none."""
        found = self._match(keyword, _INTEGER)
        return int(found) if found is not None else None

    def text(self, keyword: str) -> str | None:
        """Value of a string card, trailing blanks dropped; None when there is none."""
        found = self._match(keyword, _QUOTED)
        return None if found is None else found.replace(b"''", b"'").decode("ascii", "replace").rstrip()

    def card(self, keyword: str) -> bytes:
        """The first card of a keyword with the CONTINUE cards that follow it, b'' when there is none."""
        start = _find(self.header, keyword.encode().ljust(8))
        if start < 0:
            return b""
        end = start + CARD
        while self.header.startswith(b"CONTINUE", end):
            end += CARD
        return self.header[start:end]

    def _match(self, keyword: str, pattern: re.Pattern[bytes]) -> bytes | None:
        found = pattern.match(self.card(keyword)[8:CARD])
        return found[1] if found else None


def _find(header: bytes, key: bytes) -> int:
    """Offset of the card that begins with these 8 bytes, -1 when there is none."""
    start = header.find(key)
    while start >= 0 and start % CARD:
        start = header.find(key, start + 1)
    return start


def check_structure(path: Path | str) -> tuple[Hdu, ...]:
    """Check that headers, declared sizes and checksums of a FITS file fit its bytes.

    Returns
    -------
    Its HDUs, so that the caller needs not read the headers again.

    Raises
    ------
    DamagedFileError
        No FITS file, cut short, too long, or a CHECKSUM or DATASUM does not fit.
    OSError
        The file cannot be read.
    """
    hdus = read_hdus(path)
    with open(path, "rb") as stream:
        for number, hdu in enumerate(hdus):
            _check_sums(stream, hdu, number)
    return hdus


def read_hdus(path: Path | str) -> tuple[Hdu, ...]:
    """Walk the headers of a file, whose declared sizes must add up to its length; errors as in `check_structure`.

    What unpacks to more than the file holds is refused: JWST products have no compressed images or trees.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DamagedFileError("is no regular file.")  # a pipe would be waited for without end
    with open(path, "rb") as stream:
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
        header = _read_header(stream, start, number)
        data_start = start + len(header)
        data_bytes = _declared_bytes(Hdu(header, start, data_start, 0, data_start), number)
        end = data_start + -(-data_bytes // BLOCK) * BLOCK
        if end > size:
            raise DamagedFileError(f"HDU {number} ends at byte {end} by its header, but the file has {size} bytes.")
        yield Hdu(header, start, data_start, data_bytes, end)
        if end == size:
            return
        start = end
    raise DamagedFileError(f"has more than {MAX_HDUS} HDUs.")


def _read_header(stream: BinaryIO, start: int, number: int) -> bytes:
    stream.seek(start)
    blocks: list[bytes] = []
    while len(blocks) < MAX_HEADER_BLOCKS:
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise DamagedFileError(f"ends within the header of HDU {number} (byte {start + len(blocks) * BLOCK}).")
        if not blocks and not block.startswith(b"SIMPLE  =" if number == 0 else b"XTENSION="):
            raise DamagedFileError(f"has no FITS header at byte {start}: found {ascii(block[:16])}.")
        if not block.isascii():
            raise DamagedFileError(f"has bytes that are no text in the header of HDU {number}.")
        blocks.append(block)
        if any(block[at : at + CARD].rstrip() == b"END" for at in range(0, BLOCK, CARD)):
            return b"".join(blocks)
    raise DamagedFileError(f"has a header without END in HDU {number}, or one of over {MAX_HEADER_BLOCKS} blocks.")


def _declared_bytes(hdu: Hdu, number: int) -> int:
    """Data bytes by BITPIX, NAXISn, PCOUNT and GCOUNT (FITS standard 4.0, equations 1 and 2)."""
    if number == 0 and hdu._match("SIMPLE", _LOGICAL) != b"T":
        raise DamagedFileError("does not say SIMPLE = T.")
    bitpix, axes = hdu.integer("BITPIX"), hdu.integer("NAXIS")
    if bitpix not in (8, 16, 32, 64, -32, -64) or axes is None or not 0 <= axes <= _MAX_AXES:
        raise DamagedFileError(f"HDU {number} says BITPIX = {bitpix}, NAXIS = {axes}, which no FITS file may.")
    if axes == 0:
        return 0
    elements = extent = 1
    for axis in range(1, axes + 1):
        length = hdu.integer(f"NAXIS{axis}")
        if length is None or length < 0:
            raise DamagedFileError(f"HDU {number} says NAXIS{axis} = {length}, which no FITS file may.")
        elements *= length
        extent *= length or 1
    extra, groups = hdu.integer("PCOUNT") or 0, hdu.integer("GCOUNT")
    if extra < 0 or groups not in (None, 1) or (not elements and extent > _MAX_ELEMENTS):
        raise DamagedFileError(
            f"HDU {number} says PCOUNT = {extra}, GCOUNT = {groups}, {extent} elements; no image may."
        )
    return abs(bitpix) // 8 * (extra + elements)


def _check_unpacked(stream: BinaryIO, hdu: Hdu, number: int) -> None:
    """Refuse an HDU that a reader would unpack: its declared size is not bounded by the file's."""
    if hdu._match("ZIMAGE", _LOGICAL) == b"T" or hdu._match("ZTABLE", _LOGICAL) == b"T":
        raise DamagedFileError(f"HDU {number} is compressed (ZIMAGE or ZTABLE), which no JWST product is.")
    if (hdu.text("EXTNAME") or "").strip().upper() != "ASDF":  # readers ignore case
        return
    if hdu.data_bytes > MAX_TREE_BYTES:
        raise DamagedFileError(f"HDU {number} holds an ASDF tree of {hdu.data_bytes} bytes.")
    stream.seek(hdu.data_start)
    tree = stream.read(hdu.data_bytes)
    at = tree.find(_ASDF_BLOCK)
    while at >= 0:  # a block: magic, 2 bytes header size, 4 flags, 4 compression, 8 allocated, 8 used, 8 unpacked size
        packing, used, unpacked = tree[at + 10 : at + 14], tree[at + 22 : at + 30], tree[at + 30 : at + 38]
        if packing.strip(b"\0") or int.from_bytes(unpacked, "big") > len(tree) or used != unpacked:
            raise DamagedFileError(f"HDU {number} holds an ASDF block that is compressed or larger than the tree.")
        at = tree.find(_ASDF_BLOCK, at + len(_ASDF_BLOCK))


def _check_sums(stream: BinaryIO, hdu: Hdu, number: int) -> None:
    """Compare DATASUM and CHECKSUM, where a header has them, with the bytes (FITS standard 4.0, appendix J)."""
    datasum, checksum = hdu.text("DATASUM"), hdu.text("CHECKSUM")
    if not (datasum and datasum.isdecimal()) and not checksum:
        return
    data = _ones_complement(stream, hdu.data_start, hdu.end)
    if datasum and datasum.isdecimal() and int(datasum) != data:
        raise DamagedFileError(f"the data of HDU {number} sum to {data}, but its DATASUM is {datasum}.")
    if checksum:
        whole = _folded(_ones_complement(stream, hdu.header_start, hdu.data_start) + data)
        if whole not in (0, 0xFFFFFFFF):
            raise DamagedFileError(f"HDU {number} does not fit its CHECKSUM.")


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
