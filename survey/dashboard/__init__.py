"""The survey page of dask's dashboard: `feed` on the client sends updates to `plugin` on the scheduler, which keeps a
`state` and serves it as a `page`, as JSON and as metrics.
"""

# Modules that other packages may import.
__all__ = ["feed", "journal", "markup", "state"]
