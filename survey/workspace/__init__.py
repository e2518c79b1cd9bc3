"""The folder of a survey: paths of products, atomic writes, the lock of a run, records and provenance."""

# Modules that other packages may import.
__all__ = ["files", "folders", "paths", "products", "provenance", "records"]
