"""The pipeline's Image3 taken apart: one function per task of a tiled mosaic, the pipeline's pixels to the bit."""

__all__: list[str] = []  # entered through the registry of steps alone
