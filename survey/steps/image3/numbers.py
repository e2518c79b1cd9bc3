"""Store numbers in JSON with their type.

numpy computes float32 pixels with a Python float in single precision, but with a numpy float64 in double precision. So
a number that a later task uses keeps its type.
"""

from __future__ import annotations

from typing import Any

Typed = list[Any]  # value, name of the numpy type or 'float'


def typed(value: Any) -> Typed | None:
    """A number, or None, as JSON types."""
    if value is None:
        return None
    kind = getattr(value, "dtype", None)
    return [float(value), "float" if kind is None else str(kind)]


def untyped(found: Typed | None) -> Any:
    """The number that was given to `typed`, with its type."""
    if found is None:
        return None
    value, kind = found
    if kind == "float":
        return float(value)
    import numpy as np

    return np.dtype(kind).type(value)
