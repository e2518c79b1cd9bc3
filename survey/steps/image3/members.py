"""Descriptions of exposures for the alignment: header, WCS and shape, without pixels, in a small ASDF file.

A skeleton is a datamodel made from a description. The pipeline's steps can use it like the exposure, except its pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.mosaics.grid import Box
from survey.steps.image3.wcs_files import read_trees, write_trees

# Set by the library of the pipeline, or the name of another file.
_NOT_OURS = ("meta.tweakreg_catalog", "meta.model_type", "meta.date")


@dataclass
class Description:
    """An exposure without pixels."""

    meta: dict[str, Any]  # flat: 'meta.exposure.type' -> value, JSON types
    wcs: Any  # gwcs.WCS
    shape: tuple[int, int]  # (ny, nx)


def describe(model: Any) -> Description:
    """The description of an open datamodel.

    Raises
    ------
    TaskError
        The model has no WCS.
    """
    if getattr(model.meta, "wcs", None) is None:
        raise TaskError(f"{model.meta.filename}: has no WCS; was assign_wcs skipped in image2?")
    flat = model.to_flat_dict(include_arrays=False)
    meta = {
        key: value
        for key, value in flat.items()
        if key.startswith("meta.")
        and key not in _NOT_OURS
        and not key.startswith("meta.wcs.")
        and isinstance(value, (str, int, float, bool))
    }
    return Description(meta, model.meta.wcs, tuple(model.data.shape))


def skeleton(found: Description) -> Any:
    """An ImageModel made from a description. Its data is a broadcast zero, which takes no memory."""
    import numpy as np
    from stdatamodels.jwst.datamodels import ImageModel

    model = ImageModel()
    apply_meta(model, found.meta)
    model.meta.wcs = found.wcs
    model.data = np.broadcast_to(np.zeros((), np.float32), found.shape)
    return model


def apply_meta(model: Any, meta: Mapping[str, Any]) -> None:
    """Set header values that differ; keys that are not in the schema of the model are ignored."""
    here = model.to_flat_dict(include_arrays=False)
    for key, value in meta.items():
        if here.get(key) != value:
            try:
                model[key] = value
            except (KeyError, AttributeError):
                continue


def write_description(path: Path, found: Description) -> Path:
    # The header as text: reading hundreds of YAML keys takes half a second.
    tree = {"meta": json.dumps(found.meta), "wcs": found.wcs, "shape": [int(side) for side in found.shape]}
    return write_trees(path, {"exposure": tree})


def read_description(path: Path | str) -> Description:
    """Read what `write_description` wrote.

    Raises
    ------
    TaskError
        The file is not a description.
    """
    tree = read_trees(path).get("exposure")
    if tree is None:
        raise TaskError(f"{Path(path).name}: not the description of an exposure.")
    return Description(json.loads(tree["meta"]), tree["wcs"], (int(tree["shape"][0]), int(tree["shape"][1])))


def read_alignment(path: Path) -> Description:
    """The WCS of an exposure from an ASDF file with a gwcs, or a FITS file of the pipeline, with header values.

    The shape of the exposure is not read.

    Raises
    ------
    TaskError
        The file cannot be read, or holds no WCS.
    """
    if path.suffix != ".fits":
        tree = next(iter(read_trees(path).values()))
        return Description(json.loads(tree.get("meta", "{}")), tree["wcs"], (0, 0))
    from stdatamodels.jwst import datamodels

    try:
        with datamodels.open(path) as model:
            found = describe(model)
    except (OSError, ValueError, TypeError) as error:
        raise TaskError(f"{path.name}: cannot be read as a datamodel of the pipeline ({error}).") from error
    return Description(found.meta, found.wcs, (0, 0))


def used_pixels(found: Description) -> Box:
    """Pixels of an exposure inside the bounding box of its WCS, which drizzle uses."""
    from stcal.resample.utils import resample_range

    xmin, xmax, ymin, ymax = resample_range(found.shape, found.wcs.bounding_box)
    return Box(int(xmin), int(ymin), int(xmax) + 1, int(ymax) + 1)


def library(skeletons: Iterable[Any], association: Mapping[str, Any]) -> Any:
    """A library of the pipeline with skeletons, as it would open the association: with the groups that it gives."""
    from jwst.datamodels import ModelLibrary

    models = list(skeletons)
    for model, member in zip(models, association["products"][0]["members"], strict=True):
        if "group_id" in member:
            model.meta.group_id = member["group_id"]
        for key, name in (("table_name", "table_name"), ("asn_pool", "pool_name")):
            if key in association:
                setattr(model.meta.asn, name, association[key])
    return ModelLibrary(models)
