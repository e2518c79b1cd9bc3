"""The environment of the processes that survey starts: which variables are set, kept and left out, and where they look.

A variable of the user's shell can change pixels: ``STPIPE_DISABLE_CRDS_STEPPARS`` switches parameter reference files
off, ``STRICT_VALIDATION`` makes a step fail, ``~/.astropy`` changes constants. So a process gets the variables of a
list and no others, a home folder of its own, and no module from the current folder. What may still change the last bit
of a pixel (the type of processor that a numerical library works for) is kept and recorded with each task.
"""

from __future__ import annotations

import contextlib
import os
import platform
import site
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

# What a process needs to run on a machine, and that changes no pixel.
KEPT = (
    *("PATH", "USER", "LOGNAME", "USERNAME", "HOSTNAME", "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "SYSTEMROOT"),
)
# Which code and which instructions of the processor are used: kept, and recorded.
RECORDED = (
    *("PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "GLIBC_TUNABLES", "SURVEY_PRELOAD"),
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES"),
)
# For processes that ask a server.
NETWORK = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)
# The same everywhere: text, time zone, order of sets, no module from the current folder, no window for figures.
FIXED = {
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONUTF8": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONSAFEPATH": "1",
    "MPLBACKEND": "Agg",
}
PACKAGE = Path(__file__).resolve().parent.parent
# Options of Python itself; "error" in PYTHONWARNINGS makes an exception of any warning of a library.
PYTHON_OPTIONS = ("PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONSTARTUP")


def isolated(environment: Mapping[str, str], keep: Iterable[str] = ()) -> dict[str, str]:
    """Variables for a process that this one starts.

    Parameters
    ----------
    environment : of this process
    keep : names of further variables that it needs, such as `NETWORK`

    Returns
    -------
    variables : those of `KEPT`, `RECORDED` and ``keep``, then those of `FIXED`. PYTHONPATH holds absolute
        folders only (an empty or relative one means the current folder), and ends with that of this package.
    """
    wanted = {*KEPT, *RECORDED, *keep}
    found = {name: value for name, value in environment.items() if name in wanted}
    found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*python_path(environment), str(PACKAGE)]))
    if "PYTHONNOUSERSITE" not in found:  # packages of `pip install --user` lie below the real home folder
        found["PYTHONUSERBASE"] = environment.get("PYTHONUSERBASE") or site.getuserbase()
    return found | FIXED


def python_path(environment: Mapping[str, str]) -> list[str]:
    """Absolute folders of PYTHONPATH; an empty or relative one means the current folder and is left out."""
    return [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(folder)]


def leave_out_current_folder() -> None:
    """Import no more modules from the current folder in this process, and raise no warning as an error.

    For a process of the command `survey`, before it imports any package: a script in the user's folder may have the
    name of one. Folders that PYTHONPATH names in full are kept.
    """
    named = python_path(os.environ)
    here = os.path.realpath(os.curdir)
    kept = [
        folder for folder in sys.path if os.path.isabs(folder) and (folder in named or os.path.realpath(folder) != here)
    ]
    if here == str(PACKAGE) and len(kept) < len(sys.path):  # in a source tree: survey itself, after all other packages
        kept.append(here)
    sys.path[:] = kept
    warnings.filters[:] = [item for item in warnings.filters if item[0] != "error"]  # type: ignore[index]
    sys.warnoptions.clear()  # which multiprocessing passes on


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """Remove from this process' environment, while it starts workers, what changes how Python or dask work.

    Workers inherit the rest: they need what modules, containers and batch systems set, and compute nothing themselves.
    """
    own = [name for name in os.environ if name.startswith("DASK_") or name in PYTHON_OPTIONS]
    folders = python_path(os.environ)
    changed = {**dict.fromkeys(own), "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(folders) or None}
    before = {name: os.environ.get(name) for name in changed}
    _set(changed)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    """Set environment variables of this process, and remove those that are None."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def own_home(folder: Path | str) -> None:
    """Give this process, and those that it starts, an empty home folder, and make it the current one.

    So no settings of a user are read: those of astropy, matplotlib, dask, CRDS and the pipeline lie below the home
    folder, and some also in the current one.
    """
    home = os.path.abspath(folder)
    os.environ["HOME"] = home
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        os.environ.pop(name, None)
    os.chdir(home)


def in_effect(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of a process that can still change a last bit, for its records."""
    return {name: environment[name] for name in sorted(RECORDED) if name in environment}


@cache
def machine() -> dict[str, str]:
    """Processor, its vector units as numpy uses them, linear algebra libraries, Python, C library, start-up modules.

    The last are sitecustomize and usercustomize, where there are any: they may change anything in a process.
    """
    import numpy
    import threadpoolctl

    vectors = numpy.show_config(mode="dicts")["SIMD Extensions"]
    libraries = {
        f"{item.get('internal_api', '')} {item.get('version') or ''} {item.get('architecture') or ''}".strip()
        for item in threadpoolctl.threadpool_info()
    }
    found = {
        "processor": _processor(),
        "vector units": " ".join([*vectors.get("baseline", ()), *vectors.get("found", ())]),
        "libraries": ", ".join(sorted(libraries)),
        "system": " ".join(["Python", platform.python_version(), *filter(None, platform.libc_ver())]),
    }
    modules = (sys.modules.get(name) for name in ("sitecustomize", "usercustomize"))
    files = [str(module.__file__) for module in modules if module is not None and module.__file__]
    return found | ({"start-up modules": ", ".join(files)} if files else {})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else f"{os.uname().machine} {sys.platform}"
