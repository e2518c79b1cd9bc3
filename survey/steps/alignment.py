"""Watch tweakreg: which exposures it did not align, and why.

The pipeline tells it only in its log. Its header keyword S_TWKREG is COMPLETE for every exposure of a mosaic as soon as
one was aligned, and tweakreg gives up without an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.models import TWEAKREG, Notice, Task, TaskRecord

MAX_NAMES = 6  # of exposures in a message
NO_SKY = "no sky level was found where they overlap others"
_ALIGNED = ("SUCCESS", "REFERENCE")
_TOO_FEW = "not enough matches"


@dataclass(frozen=True)
class Attempt:
    """One of the two fits of tweakreg: of exposures to each other, or of all of them to a catalogue."""

    minobj: int | None  # least number of matches
    error: str = ""  # why all of it was given up
    statuses: tuple[str, ...] = ()  # of each exposure: 'SUCCESS', 'REFERENCE', 'FAILED: not enough matches'


@dataclass
class Watched:
    """What tweakreg tried; an attempt that was not made is None."""

    ran: bool = False
    relative: Attempt | None = None
    absolute: Attempt | None = None
    catalog: str = ""  # reference catalogue of the second attempt

    def notices(self, names: Sequence[str]) -> tuple[Notice, ...]:
        """What was not aligned.

        Parameters
        ----------
        names : exposures in the order in which tweakreg got them
        """
        if not self.ran:
            return (skipped("it was not run", names),)
        if self.relative is None and self.absolute is None:
            why = "the exposures were taken at the same time, and there is no reference catalogue (abs_refcat)"
            return (skipped(why, names),)
        found: list[Notice] = []
        if self.absolute is not None:
            catalog = Path(self.catalog).name
            found += _failures(self.absolute, names, f"the catalogue {catalog}", f"abs_minobj = {self.absolute.minobj}")
        if self.relative is not None:
            found += _failures(self.relative, names, "other exposures", f"minobj = {self.relative.minobj}")
        return tuple(found)


def skipped(reason: str, names: Sequence[str]) -> Notice:
    """The notice for exposures that tweakreg was not to align, or had no reason to."""
    return Notice(TWEAKREG, False, reason, tuple(names))


def _failures(attempt: Attempt, names: Sequence[str], others: str, minobj: str) -> list[Notice]:
    if attempt.error:
        return [Notice(TWEAKREG, True, f"the alignment to {others} was given up: {attempt.error}", tuple(names))]
    reasons: dict[str, list[str]] = {}
    for name, status in zip(names, attempt.statuses, strict=True):
        if status not in _ALIGNED:
            cause = status.removeprefix("FAILED: ") or "no fit"
            text = f"too few sources match those of {others} ({minobj})" if cause == _TOO_FEW else cause
            reasons.setdefault(text, []).append(name)
    return [Notice(TWEAKREG, True, reason, tuple(members)) for reason, members in reasons.items()]


@contextlib.contextmanager
def watched(then: Callable[[Watched], None] | None = None) -> Iterator[Watched]:
    """Watch tweakreg as long as the context lasts, in this process; what it computes stays the same.

    Parameters
    ----------
    then : called when tweakreg has ended; an error that it raises ends the pipeline
    """
    import stcal.tweakreg.tweakreg as fits
    from jwst.tweakreg import TweakRegStep

    found = Watched()
    process, relative, absolute = TweakRegStep.process, fits.relative_align, fits.absolute_align

    def watched_process(step: Any, *arguments: Any, **keywords: Any) -> Any:
        found.ran = True
        result = process(step, *arguments, **keywords)
        if then is not None:
            then(found)
        return result

    def keep_relative(attempt: Attempt, _arguments: Sequence[Any]) -> None:
        found.relative = attempt

    def keep_absolute(attempt: Attempt, arguments: Sequence[Any]) -> None:
        found.absolute, found.catalog = attempt, str(arguments[1])

    TweakRegStep.process = watched_process
    fits.relative_align = _kept(relative, "minobj", keep_relative)
    fits.absolute_align = _kept(absolute, "abs_minobj", keep_absolute)
    try:
        yield found
    finally:
        TweakRegStep.process, fits.relative_align, fits.absolute_align = process, relative, absolute


def _kept(align: Callable[..., Any], minobj: str, keep: Callable[[Attempt, Sequence[Any]], None]) -> Callable[..., Any]:
    """A function of stcal that aligns a list of correctors, with ``keep`` called with what came of it."""
    from stcal.tweakreg.tweakreg import TweakregError

    def call(*arguments: Any, **keywords: Any) -> Any:
        least = keywords.get(minobj)
        try:
            correctors = align(*arguments, **keywords)
        except TweakregError as error:
            keep(Attempt(least, " ".join(str(error).split()).rstrip(".")), arguments)
            raise
        statuses = tuple(str(item.meta.get("fit_info", {}).get("status", "")) for item in correctors)
        keep(Attempt(least, statuses=statuses), arguments)
        return correctors

    return call


def check(notices: Sequence[Notice], total: int) -> None:
    """Stop the task of a mosaic of which members are not aligned.

    Raises
    ------
    TaskError
        Of class 'never', with the notices.
    """
    failed = [item for item in notices if item.failed and item.step == TWEAKREG]
    if failed:
        lost = {name: item.reason for item in reversed(failed) for name in item.members}
        raise TaskError(refusal(lost, total), notices=tuple(notices))


def refusal_of(task: Task, record: TaskRecord) -> str:
    """Why the mosaic of a complete alignment is not made: exposures are not aligned, and the task requires it; or ''.

    The record is of a run that did not require it: otherwise the task would have failed.
    """
    if not task.must_align or not record.not_aligned:
        return ""
    return refusal(record.not_aligned, int(record.measurements.get("members") or 0))


def refusal(lost: Mapping[str, str], total: int) -> str:
    """Why a mosaic is not made, and what to do.

    Parameters
    ----------
    lost : exposures that were not aligned -> why
    total : number of members
    """
    return (
        f"tweakreg did not align {len(lost)} of {total} exposures: {by_reason(lost)}. The mosaic is not made "
        "(mosaic.require_alignment). Change parameters of tweakreg; or write 'require_alignment: false' to leave "
        "these exposures where their pointing puts them, or 'tweakreg: {skip: true}' to align none."
    )


def by_reason(lost: Mapping[str, str]) -> str:
    """Exposures that share a reason, then the reason: 'a, b: too few sources; c: empty source catalog'."""
    reasons: dict[str, list[str]] = {}
    for name, reason in sorted(lost.items()):
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"{named(names)}: {reason}" for reason, names in reasons.items())


def named(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
