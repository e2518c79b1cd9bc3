"""The folder of a survey: where products lie, who may write there, the records of what was made."""

# Modules that other packages may import.
__all__ = ["files", "folders", "paths", "products", "provenance", "records"]
