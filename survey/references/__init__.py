"""CRDS reference files: pin a context, fetch and verify it and the best references once, before any task starts.

Every look-up by the crds library happens in a child process (`lookup`, called by `child`); every file is fetched and
verified here (`cache`, `downloads`). Workers get a read-only cache, an explicit context and no server.
"""

from survey.references.child import worker_environment
from survey.references.record import References, changed
from survey.references.sync import PIPELINES, best_references, operational_context, pin, recall, reference_types, sync

__all__ = [
    "PIPELINES",
    "References",
    "best_references",
    "changed",
    "operational_context",
    "pin",
    "recall",
    "reference_types",
    "sync",
    "worker_environment",
]
