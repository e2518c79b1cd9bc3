"""Values from outside in messages: escaped, shortened, and with the known name that is closest."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

MAX_SHOWN = 120  # characters of a value in a message

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = MAX_SHOWN


def shown(value: Any, *, ascii_only: bool = False) -> str:
    """A value as Python writes it: text in quotes with control characters escaped, bounded in length and depth.

    ``ascii_only`` escapes all other letters as well, so that one that looks like an ASCII letter can be seen.
    """
    text = _REPR.repr(value)
    if ascii_only:
        text = text.encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def unquoted(value: Any) -> str:
    """A name or setting without quotes, if it is printable and short; else as `shown` writes it."""
    text = str(value)
    return text if text.isprintable() and len(text) <= MAX_SHOWN else shown(text)


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """``; did you mean 'F200W'?`` for a value that resembles a known one, '' for one that does not."""
    close = difflib.get_close_matches(str(value)[:MAX_SHOWN], known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def nearest(name: object, known: Iterable[str]) -> str:
    """The known name that an unknown one resembles, or the first twelve of those that are known; ends a sentence."""
    known = sorted(known)
    return did_you_mean(name, known) or f"; known: {', '.join(known[:12])}."
