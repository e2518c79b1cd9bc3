"""The pipeline's Image3 taken apart: one function per task of a tiled mosaic, the pipeline's pixels to the bit."""

# The planner names the same files; everything else is entered through the registry of steps.
__all__ = ["files"]
