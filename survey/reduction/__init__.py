"""The main job and what surrounds it: load a config, find and fetch exposures, plan, run, inspect."""

# Modules that other packages may import.
__all__ = ["inputs", "inspection", "job", "load", "offline", "options", "outcome", "suggest"]
