"""Masks of images in small files: one bit a pixel, compressed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from survey.errors import TaskError


def write_masks(path: Path, masks: Mapping[str, Any], origin: tuple[int, int] = (0, 0)) -> None:
    """Write masks of one shape; the same masks give the same bytes.

    Parameters
    ----------
    path : of the file, .npz
    masks : name -> ndarray (ny, nx), bool
    origin : x, y of the first pixel on a larger grid [pixels]
    """
    import numpy as np

    shape = next(iter(masks.values())).shape
    arrays: dict[str, Any] = {name: np.packbits(values) for name, values in masks.items()}
    np.savez_compressed(path, shape=np.array(shape), origin=np.array(origin), **arrays)


def read_masks(path: Path | str) -> tuple[dict[str, Any], tuple[int, int]]:
    """Read what `write_masks` wrote.

    Returns
    -------
    masks : name -> ndarray (ny, nx), bool
    origin : x, y of their first pixel on the larger grid [pixels]

    Raises
    ------
    TaskError
        The file is not one of `write_masks`.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            (ny, nx), (x, y) = file["shape"].tolist(), file["origin"].tolist()
            names = [name for name in file.files if name not in ("shape", "origin")]
            masks = {name: np.unpackbits(file[name], count=ny * nx).reshape(ny, nx).astype(bool) for name in names}
            return masks, (x, y)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TaskError(f"{Path(path).name}: is not a file of masks ({error}).") from error
