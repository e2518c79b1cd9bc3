"""Mosaics as data: output grids and tiles, zarr groups, FITS files and level-3 association files."""

# Modules that other packages may import.
__all__ = [
    "alignment_files", "arrays", "association_files", "coverage", "enclosing", "grid", "groups", "layouts",
    "predictions", "sky_plane", "tiles",
]  # fmt: skip
