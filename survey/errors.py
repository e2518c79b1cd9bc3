"""The exceptions that survey raises on purpose, and the exit codes of the command line.

SurveyError                       exit code 1
    ConfigError                   2    the config, the command line or an input file is wrong; lists every fault
        ProductNameError          2    a name that does not follow the archive's naming scheme
        WorkersError              2    workers whose software or files differ from the client's
    NoExposuresError              1    the archive, or a folder, has no exposure that the config asks for
    ServiceError                  3    an archive, a reference server or a cluster failed
        ServiceUnreachableError   3    no answer, or only server errors (5xx)
        AccessRefusedError        3    401 or 403
        ClusterError              3    a cluster that starts no worker, or was lost
    DownloadError                 1    some files could not be downloaded; the others are kept
    ReferencesError               1    reference files that are missing or damaged
    WorkspaceBusyError            4    another run uses the workspace
    DiskFullError                 5    no space left on the file system of the workspace
    TaskError                     1    one task failed; holds its class of failure
    InterruptedRunError           130  stopped by the user; another run continues

A message names the file or exposure, what was found, what was expected, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from survey.models import Notice


class SurveyError(Exception):
    """Base class; ``exit_code`` is the exit code of the command line."""

    exit_code = 1


class ConfigError(SurveyError):
    """Wrong usage or config; ``faults`` lists every fault in the order found."""

    exit_code = 2

    def __init__(self, faults: str | Iterable[str]):
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class ProductNameError(ConfigError):
    """A file or product name that does not follow the archive's naming scheme."""


class WorkersError(ConfigError):
    """Workers whose package versions, file systems or memory do not fit the run."""


class NoExposuresError(SurveyError):
    """No exposure fits what the config asks for; ``has_imaging`` says whether the program has other imaging."""

    def __init__(self, message: str, has_imaging: bool = False):
        super().__init__(message)
        self.has_imaging = has_imaging


class ServiceError(SurveyError):
    """An archive, a reference server or a cluster failed as a whole."""

    exit_code = 3


class ServiceUnreachableError(ServiceError):
    """No answer within the time limit, or only server errors."""


class AccessRefusedError(ServiceError):
    """The server answered 401 or 403."""


class ClusterError(ServiceError):
    """A cluster starts no worker (jobs cannot be submitted, never start, or end at once), or was lost."""


class DownloadError(SurveyError):
    """Some files could not be downloaded; ``missing`` maps each name to its cause."""

    def __init__(self, missing: dict[str, str]):
        self.missing = dict(missing)
        lines = [f"{name}: {cause}" for name, cause in sorted(self.missing.items())]
        super().__init__(f"{len(lines)} file(s) could not be fetched:\n" + "\n".join(lines))

    def __reduce__(self):
        return type(self), (self.missing,)


class ReferencesError(SurveyError):
    """Reference files or mappings are missing, damaged or not available."""


class WorkspaceBusyError(SurveyError):
    """Another run uses the workspace."""

    exit_code = 4


class DiskFullError(SurveyError):
    """The workspace's file system has no space left."""

    exit_code = 5


class TaskError(SurveyError):
    """A task failed.

    Attributes
    ----------
    retry : class of failure: 'again' (unchanged, after an I/O error or a lost worker), 'memory' (once, with more
        memory) or 'never' (the data or the settings are wrong)
    used_gb : largest memory that its process was seen to use [GB]; 0 if unknown
    notices : what steps of Image3 did not do (`survey.models.Notice`), for the record
    """

    def __init__(self, message: str, retry: str = "never", used_gb: float = 0.0, notices: tuple[Notice, ...] = ()):
        super().__init__(message)
        self.retry = retry
        self.used_gb = used_gb
        self.notices = notices

    def __reduce__(self):
        return type(self), (str(self), self.retry, self.used_gb, self.notices)


class InterruptedRunError(SurveyError):
    """The user stopped the run; finished products are kept, and another run continues."""

    exit_code = 130
