"""Numbers in JSON and back with their type.

numpy computes float32 pixels with a Python float in single precision and with its own float64 in double: code that
keeps a number of the pipeline's for a later task keeps which of the two it was.
"""

from __future__ import annotations

from typing import Any

Typed = list[Any]  # value, name of the numpy type or 'float'


def typed(value: Any) -> Typed | None:
    """A float, or None, as JSON types."""
    if value is None:
        return None
    kind = getattr(value, "dtype", None)
    return [float(value), "float" if kind is None else str(kind)]


def untyped(found: Typed | None) -> Any:
    """What `typed` was given."""
    if found is None:
        return None
    value, kind = found
    if kind == "float":
        return float(value)
    import numpy as np

    return np.dtype(kind).type(value)
