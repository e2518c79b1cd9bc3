"""Moved to `survey.cluster.kubernetes_preload`; kept for one release, for manifests that preload it by this name."""

from survey.cluster.kubernetes_preload import dask_setup as dask_setup
