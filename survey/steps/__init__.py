"""The registry of steps, and the functions that child processes run for them."""

# Modules that other packages may import.
__all__ = ["alignment", "base", "costs", "foreign", "image3", "parameter_files", "reference_catalog", "registry"]
