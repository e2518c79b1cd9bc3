"""Run a plan on dask: submit tasks, retry them, gather mosaics, check workers, delete intermediate products."""

# Modules that other packages may import.
__all__ = ["cleanup", "run_plan", "worker_checks"]
