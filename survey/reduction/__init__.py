"""Reduce a survey: load a config, find and fetch exposures, plan, run, and inspect the result."""

# Modules that other packages may import.
__all__ = [
    "catalogs",
    "inputs",
    "inspection",
    "job",
    "load",
    "offline",
    "options",
    "outcome",
    "placement",
    "suggest",
    "tidy",
]
