"""Write a WCS to an ASDF file and read it back without changing a bit.

ASDF stores the angles of rotations in degrees, whereas models hold radians. Converting them forth and back can change
the last bit: 1e-9 pixels, and a different mosaic. So the file also holds degrees that convert to exactly these radians.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.mosaics.sky_plane import LinearWcs

ULPS = 4  # search range for the degrees; conversions are off by one


def write_trees(path: Path, trees: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write trees, each with a WCS under 'wcs' and other values that ASDF can store."""
    import asdf

    asdf.AsdfFile({key: {**tree, "angles": _degrees(tree["wcs"])} for key, tree in trees.items()}).write_to(path)
    return path


def read_trees(path: Path | str) -> dict[str, dict[str, Any]]:
    """Read a file of `write_trees` into memory; a WCS at its top, as other software writes it, is the tree ''.

    Raises
    ------
    TaskError
        The file cannot be read, or holds no WCS.
    """
    import asdf

    try:
        with asdf.open(path, lazy_load=False, memmap=False) as file:
            found = {key: dict(tree) for key, tree in file.tree.items() if isinstance(tree, Mapping) and "wcs" in tree}
            if "wcs" in file.tree:
                found[""] = {"wcs": file.tree["wcs"]}
            if not found:
                raise KeyError("wcs")
            for tree in found.values():
                _set_degrees(tree["wcs"], tree.get("angles", []))
            return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TaskError(f"{Path(path).name}: cannot be read, or holds no WCS ({error}).") from error


def _converted(wcs: Any) -> Iterator[Any]:
    """Parameters of a WCS that are stored in another unit than their value has, in the order of the models."""
    for step in wcs.pipeline:
        transform = step.transform
        if transform is None:
            continue
        models = transform.traverse_postorder() if hasattr(transform, "traverse_postorder") else [transform]
        for model in models:
            if hasattr(model, "traverse_postorder"):  # a compound model, which has the parameters of its parts
                continue
            for name in model.param_names:
                parameter = getattr(model, name)
                if parameter._setter is not None:
                    yield parameter


def _degrees(wcs: Any) -> list[list[float]]:
    """For each of these parameters, values in degrees that convert to exactly the stored ones."""
    import numpy as np

    found = []
    for parameter in _converted(wcs):
        shown = np.atleast_1d(np.asarray(parameter.value, float)).ravel()
        held = np.atleast_1d(np.asarray(parameter._internal_value, float)).ravel()
        found.append([_preimage(degrees, radians) for degrees, radians in zip(shown, held, strict=True)])
    return found


def _preimage(degrees: float, radians: float) -> float:
    import numpy as np

    for direction in (np.inf, -np.inf):
        candidate = degrees
        for _ in range(ULPS):
            if np.deg2rad(candidate) == radians:
                return float(candidate)
            candidate = np.nextafter(candidate, direction)
    return float(degrees)


def _set_degrees(wcs: Any, angles: list[list[float]]) -> None:
    import numpy as np

    for parameter, values in zip(_converted(wcs), angles, strict=False):
        shape = np.shape(parameter.value)
        parameter.value = np.asarray(values, float).reshape(shape) if shape else float(values[0])


def linear_wcs(wcs: Any) -> LinearWcs | None:
    """The WCS of a grid of square pixels on a tangent plane; None for any other WCS."""
    import numpy as np

    transform = wcs.pipeline[0].transform
    if len(wcs.pipeline) != 2 or not all(hasattr(transform, name) for name in ("crpix", "crval", "cdelt", "pc")):
        return None
    matrix = np.asarray(transform.cdelt.value)[:, np.newaxis] * np.asarray(transform.pc.value)  # [deg per pixel]
    east, north = (float(value) for value in matrix[:, 1])  # of a step along y
    scale, angle = float(np.hypot(east, north)), float(np.arctan2(east, north))
    square = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if not np.allclose(matrix, square, rtol=0, atol=1e-6 * scale):
        return None
    ny, nx = wcs.array_shape
    (ra, dec), (x, y) = (np.asarray(item.value, float).tolist() for item in (transform.crval, transform.crpix))
    return LinearWcs((ra, dec), (x, y), 3600 * scale, float(np.degrees(angle)), (int(nx), int(ny)))
