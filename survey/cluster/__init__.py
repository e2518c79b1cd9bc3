"""Where a survey runs: local workers, batch jobs, Kubernetes, or a dask scheduler at an address."""

# Modules that other packages may import.
__all__ = [
    "addresses",
    "capacity",
    "connect",
    "dask_settings",
    "deploy",
    "deploy_file",
    "kubernetes_preload",
    "preview",
    "tls",
]
