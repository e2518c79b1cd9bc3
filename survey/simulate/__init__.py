"""A simulated observatory: sky, detectors, reference files, and the servers that hand them out."""

# Modules that other packages may import.
__all__ = ["faults", "observatory", "scene", "server", "truth"]
