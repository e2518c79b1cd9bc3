"""Draw the mosaics of a workspace side by side: ``python docs/picture.py runs/egs-demo`` -> reports/mosaics.png."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

LARGEST_SIDE_PX = 1500  # larger mosaics are thinned to this before they are read


def draw(workspace: Path) -> Path:
    """Write ``reports/mosaics.png``: every filter's sky in MJy/sr, stretched between its 1 and 99.5 percent levels."""
    store = workspace / "mosaics" / "mosaics.zarr"
    groups = sorted(folder.name for folder in store.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    figure, axes = plt.subplots(1, len(groups), figsize=(6 * len(groups), 6.2), squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        sci = xr.open_zarr(store, group=group, consolidated=False)["sci"]
        thin = max(1, -(-max(sci.shape) // LARGEST_SIDE_PX))
        image = sci[::thin, ::thin].values
        image[image == 0] = np.nan
        low, high = np.nanpercentile(image, [1, 99.5])
        axis.imshow(np.arcsinh((image - low) / (0.1 * (high - low))), origin="lower", cmap="gray", interpolation="none")
        axis.set_title(f"{group}, {sci.shape[1]} x {sci.shape[0]} pixels")
        axis.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93, wspace=0.03)
    path = workspace / "reports" / "mosaics.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "mosaics" / "mosaics.zarr").is_dir():
        sys.exit("usage: python docs/picture.py WORKSPACE   (a workspace with mosaics/mosaics.zarr)")
    print(draw(Path(sys.argv[1])))
