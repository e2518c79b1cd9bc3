"""Draw the figures of the page on the tiled engine: ``python docs/figures/draw.py [WORKSPACE]``.

``corners.png`` and ``outlines.png`` are computed by drizzle itself, on small arrays that are made here. ``tiles.png``
needs the workspace of a finished demo, such as runs/egs-demo.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Polygon, Rectangle

HERE = Path(__file__).resolve().parent
BLUE, AMBER, GREY, RED = "#2c6fad", "#d98c1f", "#8a8f98", "#b8352a"
PRODUCT = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
TILE_PX = 512
plt.rcParams.update({"font.size": 9, "axes.titlesize": 9.5, "figure.dpi": 130, "axes.spines.top": False,
                     "axes.spines.right": False})  # fmt: skip


def outline_of(size: int, scale: float, turn_deg: float, corner: tuple[float, float]) -> np.ndarray:
    """Pixel map of a made-up exposure: (size, size, 2), where its pixels fall on the mosaic."""
    turn = np.deg2rad(turn_deg)
    y, x = np.mgrid[:size, :size].astype(float)
    bulge = 2e-4 * (x - size / 2) * (y - size / 2)  # of the distortion's kind
    moved_x = scale * (np.cos(turn) * x - np.sin(turn) * y) + bulge + corner[0]
    moved_y = scale * (np.sin(turn) * x + np.cos(turn) * y) - bulge + corner[1]
    return np.stack([moved_x, moved_y], axis=-1)


def drizzled(data: np.ndarray, pixmap: np.ndarray, shape: tuple[int, int], first: int = 0) -> np.ndarray:
    """One exposure drizzled alone, from its first row and column on, with the square kernel and pixfrac 1."""
    from drizzle.resample import Drizzle

    made = Drizzle(kernel="square", fillval="0.0", out_shape=shape, disable_ctx=True)
    made.add_image(data.astype(np.float32), exptime=1.0, pixmap=pixmap, pixfrac=1.0, xmin=first, ymin=first)
    return made.out_img


def draw_corners(folder: Path = HERE) -> Path:
    """Why a window's corners differ from the mosaic's, and that they no longer do."""
    from survey.steps.image3.corners import BEFORE, corners_of, exact_map

    start = (31500, 9000)
    pixmap = outline_of(96, 1.03, 14.0, (31530.3, 9030.7))
    whole = corners_of(np.ascontiguousarray(pixmap[..., 0])) - start[0]
    naive = corners_of(np.ascontiguousarray(pixmap[..., 0] - start[0]))
    moved = corners_of(np.ascontiguousarray(exact_map(pixmap, start)[..., 0]))
    inner = slice(BEFORE, BEFORE + whole.shape[0])
    differences = [1e12 * (naive - whole), 1e12 * (moved[inner, inner] - whole)]

    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.3), width_ratios=[1.0, 1.15, 1.15])
    _sketch_of_corners(axes[0])
    limit = max(1e-3, float(np.percentile(np.abs(differences[0]), 99.5)))
    titles = ["Window, counted from its own corner", "Window, with the corners kept"]
    for axis, values, title in zip(axes[1:], differences, titles, strict=True):
        image = axis.imshow(values, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="none")
        different = int((values != 0).sum())
        axis.set_title(f"{title}\n{different:,} of {values.size:,} corners differ")
        axis.set_xlabel("exposure pixel")
        figure.colorbar(image, ax=axis, shrink=0.85, label="difference in x [10$^{-12}$ pixel]")
    figure.tight_layout()
    return _saved(figure, folder / "corners.png")


def _sketch_of_corners(axis: Any) -> None:
    centres = np.array([[0, 0], [1, 0.12], [-0.12, 1], [0.88, 1.12]], float)
    for centre in centres:
        square = centre + np.array([[-0.5, -0.56], [0.5, -0.44], [0.38, 0.56], [-0.62, 0.44]])
        axis.add_patch(Polygon(square, facecolor="none", edgecolor=GREY))
    axis.plot(*centres.T, "o", color=BLUE)
    mean = centres.mean(axis=0)
    axis.plot(*mean, "s", color=AMBER)
    for centre in centres:
        axis.plot([centre[0], mean[0]], [centre[1], mean[1]], color=BLUE, linewidth=0.8)
    axis.text(0.45, -0.95, "corner: mean of four centres, rounded", color=AMBER, ha="center")
    axis.set(xlim=(-0.9, 1.8), ylim=(-1.2, 1.9), aspect="equal", title="Pixels of an exposure on the mosaic\n")
    axis.axis("off")


def draw_outlines(folder: Path = HERE) -> Path:
    """What drizzle clips at the border of its output, and that `place` keeps it from clipping."""
    from survey.mosaics.grid import Box
    from survey.steps.image3.corners import BEFORE
    from survey.steps.image3.resampling import place

    size, edge = 150, 70
    pixmap = outline_of(110, 1.0, 19.0, (44.0, 8.0))
    data = np.random.default_rng(7).normal(10.0, 3.0, (110, 110))
    whole = drizzled(data, pixmap, (size, size))
    cut = drizzled(data, pixmap - (edge, 0), (size, size - edge))
    used, window = Box(0, 0, 110, 110), Box(edge, 0, size, size)
    kernel = SimpleNamespace(kernel="square", pixfrac=1.0)
    kept, stored = place({"data": data}, pixmap, used, window, kernel, clipped=False)
    unclipped = drizzled(kept["data"], np.dstack(stored.pixel_to_world_values(0, 0)), window.shape, BEFORE)
    results = [cut != whole[:, edge:], unclipped != whole[:, edge:]]

    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.5))
    corners = pixmap[[0, 0, -1, -1], [0, -1, -1, 0]]
    for axis in axes:
        axis.add_patch(Polygon(corners, facecolor=GREY, edgecolor=GREY, alpha=0.25, linewidth=1.0))
        axis.set(xlim=(-6, size + 2), ylim=(-2, size + 2), aspect="equal", xlabel="mosaic x [pixels]")
    axes[0].set_title("The mosaic and one exposure\n")
    axes[0].add_patch(Rectangle((0, 0), size, size, facecolor="none", edgecolor=BLUE, linewidth=1.2))
    axes[0].add_patch(Rectangle((edge, 0), size - edge, size, facecolor="none", edgecolor=AMBER, linewidth=1.4))
    axes[0].text(edge + 3, size - 12, "tile", color=AMBER)
    axes[0].set_ylabel("mosaic y [pixels]")
    titles = ["Tile drizzled alone", "Tile with an unclipped outline"]
    for axis, different, title in zip(axes[1:], results, titles, strict=True):
        rows, columns = np.nonzero(different)
        axis.add_patch(Rectangle((edge, 0), size - edge, size, facecolor="none", edgecolor=AMBER, linewidth=1.4))
        axis.plot(columns + edge + 0.5, rows + 0.5, "s", color=RED, markersize=1.6, linestyle="none")
        reach = f", all within {int(columns.max()) + 1} of the edge" if len(columns) else ""
        axis.set_title(f"{title}\n{len(columns)} of {different.size:,} pixels differ{reach}")
    figure.tight_layout()
    return _saved(figure, folder / "outlines.png")


def draw_tiles(workspace: Path, folder: Path = HERE) -> Path:
    """The exposures of the demo's F200W mosaic on its grid, and which of them one tile reads."""
    from survey.mosaics.layouts import read_layout
    from survey.steps.image3.wcs_files import read_trees

    layout = read_layout(workspace, PRODUCT)
    if layout is None:
        sys.exit(f"{workspace}: no layout of {PRODUCT}; make the demo first.")
    (grid,) = [
        tree for key, tree in read_trees(workspace / "stage3" / f"{PRODUCT}_grid.asdf").items() if key == "final"
    ]
    ny, nx = layout.final_shape
    chosen, members = max(layout.final_tiles(TILE_PX).items(), key=lambda item: len(item[1]))
    figure, axis = plt.subplots(figsize=(6.4, 5.6))
    for index, member in enumerate(layout.members):
        wcs = next(iter(read_trees(workspace / "stage3" / f"{member.name}_a3001_wcs.asdf").values()))["wcs"]
        side = 320
        x, y = np.array([0, side, side, 0]) - 0.5, np.array([0, 0, side, side]) - 0.5
        corners = np.column_stack(grid["wcs"].invert(*wcs(x, y, with_bounding_box=False), with_bounding_box=False))
        read = index in members
        axis.add_patch(
            Polygon(corners, facecolor=BLUE if read else "none", alpha=0.13 if read else 1.0, edgecolor="none")
        )
        axis.add_patch(Polygon(corners, facecolor="none", edgecolor=BLUE if read else GREY, linewidth=1.0))
    for tile in layout.final_tiles(TILE_PX):
        width, height = tile.box.shape[1], tile.box.shape[0]
        axis.add_patch(Rectangle((tile.box.x0, tile.box.y0), width, height, facecolor="none", edgecolor="black",
                                 linewidth=0.8, linestyle=":"))  # fmt: skip
        axis.text(tile.box.x0 + 8, tile.box.y0 + 8, tile.name, fontsize=8)
    box, grown = chosen.box, chosen.box.grown(24)
    axis.add_patch(
        Rectangle((box.x0, box.y0), box.shape[1], box.shape[0], facecolor="none", edgecolor=AMBER, linewidth=2)
    )
    axis.add_patch(Rectangle((grown.x0, grown.y0), grown.shape[1], grown.shape[0], facecolor="none", edgecolor=AMBER,
                             linewidth=1, linestyle="--"))  # fmt: skip
    axis.set(xlim=(-40, nx + 40), ylim=(-40, ny + 40), aspect="equal", xlabel="mosaic x [pixels]",
             ylabel="mosaic y [pixels]")  # fmt: skip
    axis.set_title(f"F200W of the demo: {len(layout.members)} exposures; tile {chosen.name} reads {len(members)}")
    figure.tight_layout()
    return _saved(figure, folder / "tiles.png")


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130, metadata={"Software": ""})
    plt.close(figure)
    return path


if __name__ == "__main__":
    print(draw_corners())
    print(draw_outlines())
    if len(sys.argv) > 1:
        print(draw_tiles(Path(sys.argv[1])))
