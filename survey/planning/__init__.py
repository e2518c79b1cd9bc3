"""From a config and exposures to a plan: tasks with digests, memory and disk, and why each would run. Pure."""

# Modules that other packages may import.
__all__ = [
    "disk",
    "grids",
    "made_with",
    "memory",
    "mosaic_list",
    "passes",
    "placement",
    "planner",
    "pointing",
    "recipe",
    "selection",
    "staleness",
    "supplied",
    "tiled",
]
