"""What an HTTP reply says of itself: when to come back, and how its body is packed.

Bodies are unpacked here in pieces, up to a limit: a megabyte of gzip can hold a gigabyte.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator

_PIECE_BYTES = 1 << 20
PACKED = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # Content-Encoding -> zlib's wbits


class PackedBodyError(ValueError):
    """A packed body that is damaged, cut short, or larger than allowed when unpacked."""


def retry_after_seconds(value: str | None) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 when it says nothing readable."""
    from email.utils import parsedate_to_datetime

    text = (value or "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError, OSError):
        return 0.0


def packing(value: str | None) -> str:
    """The Content-Encoding of a reply in lower case, '' for a body that is sent as it is."""
    encoding = (value or "").strip().lower()
    return "" if encoding == "identity" else encoding


def unpacked(blocks: Iterable[bytes], encoding: str, limit_bytes: int) -> Iterator[bytes]:
    """Unpack a body that arrives in blocks.

    Parameters
    ----------
    encoding : a key of `PACKED`
    limit_bytes : of the unpacked body

    Raises
    ------
    PackedBodyError
        The body is no such stream, ends early, or is larger.
    """
    inflater = zlib.decompressobj(PACKED[encoding])
    size = 0
    for block in blocks:
        while block:
            try:
                piece = inflater.decompress(block, _PIECE_BYTES)
            except zlib.error as error:
                raise PackedBodyError(f"its {encoding} packing is damaged ({error}).") from error
            size += len(piece)
            if size > limit_bytes:
                raise PackedBodyError(f"its {encoding} packing holds more than {limit_bytes} bytes.")
            if piece:
                yield piece
            if inflater.eof:
                return
            block = inflater.unconsumed_tail
    if not inflater.eof:
        raise PackedBodyError(f"its {encoding} packing is cut short after {size} bytes.")
