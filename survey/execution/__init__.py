"""Run one task: in a child process, with a time and a memory limit, published atomically, recorded last."""

# Modules that other packages may import.
__all__ = ["environment", "failures", "task"]
