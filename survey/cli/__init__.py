"""The command `survey`: arguments, progress and printed reports."""

# Modules that other packages may import.
__all__ = ["console", "main"]
