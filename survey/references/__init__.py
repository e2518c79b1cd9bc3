"""CRDS reference files: pin a context, then fetch and verify it and the best references before any task starts.

The crds library is used in a child process alone (`lookup`, started by `child`); files are fetched and verified by this
package (`cache`). Workers get a read-only cache, an explicit context and no server.
"""

from survey.references import catalogs
from survey.references.child import worker_environment
from survey.references.record import References
from survey.references.sync import PLACEHOLDER, operational_context, pin, recall, reference_types, sync

# Functions and classes that other packages may import.
__all__ = [
    "PLACEHOLDER",
    "References",
    "catalogs",
    "operational_context",
    "pin",
    "recall",
    "reference_types",
    "sync",
    "worker_environment",
]
