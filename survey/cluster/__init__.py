"""Where a survey runs: local workers, batch jobs, Kubernetes, or any dask scheduler."""

# Modules that other packages may import.
__all__ = ["capacity", "connect", "deploy", "kubernetes_preload", "tls"]
