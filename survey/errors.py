"""Everything that survey raises on purpose.

SurveyError                       exit code 1
    ConfigError                   2    the config, the command line or an input file is wrong; every fault named
        ProductNameError          2    a name that the archive's grammar does not know
        WorkersError              2    workers that do not have what the client has
    ServiceError                  3    an archive, a reference server or a cluster
        ServiceUnreachableError   3    no answer, or nothing but 5xx
        AccessRefusedError        3    401 or 403
        ClusterError              3    a cluster that brings no worker, or is gone
    DownloadError                 1    single files that could not be had; the others are kept
    ReferencesError               1    reference files that are missing or damaged
    WorkspaceBusyError            4    another run holds the workspace
    DiskFullError                 5    no space left on the workspace's file system
    TaskError                     1    one task failed; carries its class of failure
    InterruptedRunError           130  stopped by the user; a rerun continues

A message names the thing, what was found, what was expected, and the next action.
"""

from __future__ import annotations

from collections.abc import Iterable


class SurveyError(Exception):
    """Root of the tree; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class ConfigError(SurveyError):
    """Wrong usage or config. ``faults`` holds every fault found, in order."""

    exit_code = 2

    def __init__(self, faults: str | Iterable[str]):
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class ProductNameError(ConfigError):
    """A file or product name that does not follow the archive's grammar."""


class WorkersError(ConfigError):
    """Workers whose versions, file systems or memory are not what the run needs."""


class ServiceError(SurveyError):
    """An archive, a reference server or a cluster failed as a whole."""

    exit_code = 3


class ServiceUnreachableError(ServiceError):
    """No answer within the limit, or nothing but server errors."""


class AccessRefusedError(ServiceError):
    """The server answered 401 or 403."""


class ClusterError(ServiceError):
    """A cluster brings no worker: jobs that never start, end at once, or cannot be submitted; or it is gone."""


class DownloadError(SurveyError):
    """Some files could not be had. ``missing`` maps each name to its cause."""

    def __init__(self, missing: dict[str, str]):
        self.missing = dict(missing)
        lines = [f"{name}: {cause}" for name, cause in sorted(self.missing.items())]
        super().__init__(f"{len(lines)} file(s) could not be fetched:\n" + "\n".join(lines))

    def __reduce__(self):
        return type(self), (self.missing,)


class ReferencesError(SurveyError):
    """Reference files or mappings are missing, damaged or not to be had."""


class WorkspaceBusyError(SurveyError):
    """Another run holds the workspace."""

    exit_code = 4


class DiskFullError(SurveyError):
    """The workspace's file system has no space left."""

    exit_code = 5


class TaskError(SurveyError):
    """A task failed.

    ``retry`` is the class of failure: 'again' (as it is: I/O, lost worker), 'memory' (once, with more memory) or
    'never' (the data or the settings are wrong). ``used_gb`` is the memory that its process was seen to hold.
    """

    def __init__(self, message: str, retry: str = "never", used_gb: float = 0.0):
        super().__init__(message)
        self.retry = retry
        self.used_gb = used_gb

    def __reduce__(self):
        return type(self), (str(self), self.retry, self.used_gb)


class InterruptedRunError(SurveyError):
    """The user stopped the run; what is committed stays, and a rerun continues."""

    exit_code = 130
