"""The pipeline's Image3 in parts: a function for each task of a tiled mosaic, with bitwise the same pixels."""

# The planner uses the same names of files; other modules are used only through the registry of steps.
__all__ = ["files"]
