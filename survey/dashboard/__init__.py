"""The survey page beside dask's own: `feed` on the client updates `plugin` on the scheduler, which keeps a `state`
and shows it as a `page`, as JSON and as metrics.
"""

# Modules that other packages may import.
__all__ = ["feed", "journal", "markup", "state"]
