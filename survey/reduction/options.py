"""Options of a run: where its tasks run, the last step, and functions that are called meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survey.models import Plan, TaskRecord

if TYPE_CHECKING:
    from dask.distributed import Client

Say = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in total
Watch = Callable[[TaskRecord, bool], None]  # a task's record, and whether an earlier run made it


def silent(_text: str) -> None:
    """Print nothing."""


@dataclass(frozen=True)
class RunOptions:
    """Where the tasks of a run are executed, and which step is the last."""

    client: Client | None = None  # any dask Client; default: the one of `cluster`
    cluster: str | None = None  # 'local' (default), a scheduler's address, or a deploy file
    tls: Path | None = None  # folder of certificates for a tls:// address; see `survey.cluster.tls`
    insecure: bool = False  # accept a scheduler that is neither on loopback nor behind TLS
    until: str | None = None  # last step to run; default: the last one
    remake: str | None = None  # first step to run again where it is done, with all later ones; default: none
    report: bool = False  # keep the survey page and dask's performance report as reports/dashboard.html


@dataclass(frozen=True)
class Callbacks:
    """Functions that a run calls meanwhile."""

    watch: Callable[[Plan], Watch] | None = None  # with the plan; its result is called with each task's record
    progress: Progress | None = None  # as a file is downloaded
    say: Say = silent  # with each message, a line of text


def combined(
    options: RunOptions | None, callbacks: Callbacks | None, keywords: Mapping[str, Any]
) -> tuple[RunOptions, Callbacks]:
    """Options and callbacks in which keyword arguments replace the fields of their names.

    Raises
    ------
    TypeError
        A keyword is a field of neither.
    """
    names = {item.name for item in fields(Callbacks)}
    functions = {name: value for name, value in keywords.items() if name in names}
    others = {name: value for name, value in keywords.items() if name not in names}
    unknown = others.keys() - {item.name for item in fields(RunOptions)}
    if unknown:
        raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
    return replace(options or RunOptions(), **others), replace(callbacks or Callbacks(), **functions)
