"""The survey page beside dask's own: `feed` on the client tells `plugin` on the scheduler, which keeps a `state` and
shows it as a `page`, as JSON and as metrics.
"""
