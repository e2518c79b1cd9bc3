"""The state of one run, built up from small updates: plain data of bounded size, without dask.

It holds counts per step and filter, the tiles of mosaics, and a bounded sample of everything else, however many tasks a
run has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from survey.execution.failures import root_cause
from survey.models import COMPLETE, FAILED, SKIPPED, TaskRecord
from survey.planning.staleness import DONE

REUSED = "reused"  # done by an earlier run
WORDS = (DONE, REUSED, FAILED, SKIPPED)  # how a task ended
MAX_FAILURES = 200  # that are listed; further ones are counted
MAX_CAUSES = 50  # of skipped tasks
MAX_POINTS = 200  # of memory, per step
MAX_BINS = 48  # of the rate of exposures
MAX_TILES = 20_000  # of all mosaics; of further mosaics only the number of tiles is kept
ERROR_CHARACTERS = 300

Place = tuple[str, int, int]  # product of a mosaic, column and row of its tile


class Update(NamedTuple):
    """What the page needs of a record, in short values of JSON types."""

    step: str
    filter: str
    subject: str  # of failed and skipped tasks only, since subjects are long
    word: str  # one of `WORDS`
    seconds: float
    peak_gb: float
    predicted_gb: float
    error: str
    error_class: str
    now: float  # time.time() at its end [s]
    tile: Place | None = None  # tile of a mosaic that the task drizzles


def update_of(record: TaskRecord, reused: bool, now: float, tile: Place | None = None) -> Update:
    """The update of a record.

    Parameters
    ----------
    reused : whether the task was done by an earlier run
    now : time.time() at its end [s]
    tile : tile of a mosaic that the task drizzles
    """
    word = (REUSED if reused else DONE) if record.status == COMPLETE else record.status
    return Update(
        record.step, record.filter, record.subject if word in (FAILED, SKIPPED) else "", word,
        round(record.seconds, 2), round(record.peak_memory_gb, 3), round(record.memory_gb, 3),
        first_line(record.error), record.error_class, round(now, 2), tile,
    )  # fmt: skip


def first_line(error: str) -> str:
    """The first line of an error, shortened for a table."""
    line = error.strip().splitlines()[0] if error.strip() else ""
    return line if len(line) <= ERROR_CHARACTERS else f"{line[: ERROR_CHARACTERS - 3]}..."


@dataclass
class Cell:
    """Tasks of one step and filter."""

    total: int = 0
    estimate_seconds: float = 0.0  # planned CPU time of all of them
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WORDS, 0))
    seconds: float = 0.0  # of those that ran
    start: float | None = None  # when the first one started
    stop: float | None = None  # when the last one ended

    @property
    def decided(self) -> int:
        return sum(self.counts.values())

    @property
    def left(self) -> int:
        return max(self.total - self.decided, 0)


@dataclass
class Sample:
    """Predicted and measured memory of a step's tasks [GB]: every n-th task, evenly over the run, and the maxima."""

    points: list[tuple[float, float]] = field(default_factory=list)
    stride: int = 1
    seen: int = 0
    over: int = 0  # took more than predicted
    measured_gb: float = 0.0  # the largest
    predicted_gb: float = 0.0

    def add(self, predicted: float, measured: float) -> None:
        if self.seen % self.stride == 0:
            self.points.append((predicted, measured))
        self.seen += 1
        self.over += measured > predicted
        self.measured_gb = max(self.measured_gb, measured)
        self.predicted_gb = max(self.predicted_gb, predicted)
        if len(self.points) > MAX_POINTS:
            self.points, self.stride = self.points[::2], 2 * self.stride


@dataclass
class Pace:
    """Number of exposures that ended in each time bin; bins widen as the run continues."""

    width: float = 1.0  # of a bin [s]
    bins: list[int] = field(default_factory=list)

    def add(self, offset_seconds: float) -> None:
        index = int(max(offset_seconds, 0.0) / self.width)
        while index >= MAX_BINS:
            self.width *= 2
            self.bins = [sum(self.bins[at : at + 2]) for at in range(0, len(self.bins), 2)]
            index //= 2
        self.bins += [0] * (index + 1 - len(self.bins))
        self.bins[index] += 1

    def rates(self, until_seconds: float) -> tuple[list[float], list[float]]:
        """Ends of the bins [s] and exposures per hour in each; the current bin counts up to now."""
        count = min(int(max(until_seconds, 0.0) / self.width) + 1, 2 * MAX_BINS)
        counts = [*self.bins, *[0] * (count - len(self.bins))]
        last = max(until_seconds - (len(counts) - 1) * self.width, 0.5 * self.width)
        widths = [*[self.width] * (len(counts) - 1), min(last, self.width)]
        ends = [self.width * number + width for number, width in enumerate(widths)]
        return ends, [3600 * made / width for made, width in zip(counts, widths, strict=True)]


@dataclass
class Mosaic:
    """A mosaic and the state of its tiles."""

    filter: str
    step: str  # that drizzles the tiles
    shape: tuple[int, int]  # (nx, ny) [pixels]
    side: int
    tiles: dict[tuple[int, int], str]  # (column, row) -> '' or one of WORDS; empty when there are too many to show
    subjects: dict[str, tuple[int, int]]  # of these tiles' tasks
    total: int
    done: int = 0


@dataclass
class RunState:
    """Progress of one run."""

    run: str
    survey: str
    program: int | list[int]  # several if the survey combines programs
    context: str
    began: float  # time.time() [s]
    exposures: int  # in the plan
    last_step: str  # of an exposure's chain; after it, the exposure is calibrated
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    unlisted: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    memory: dict[str, Sample] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    mosaics: dict[str, Mosaic] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)  # products whose tasks after the alignment are predicted
    first: float | None = None  # when the first task started
    last_exposure: float | None = None
    ended: float | None = None
    outcome: str = ""

    @classmethod
    def begin(cls, facts: Mapping[str, Any]) -> RunState:
        """The state at the start of a run, from the facts that `survey.dashboard.feed.Feed.begin` sends."""
        state = cls(
            run=str(facts["run"]),
            survey=str(facts["survey"]),
            program=programs if isinstance(programs := facts["program"], int) else [int(item) for item in programs],
            context=str(facts["context"]),
            began=float(facts["began"]),
            exposures=int(facts["exposures"]),
            last_step=str(facts["last_step"]),
        )
        state.add_totals(facts["totals"])
        state.guessed = {str(product) for product in facts["products"]}
        return state

    def add_totals(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add tasks, or with negative numbers remove them.

        Parameters
        ----------
        rows : step, filter, number of tasks, planned CPU time [s]
        """
        for step, name, count, seconds in rows:
            cell = self.cells.setdefault((str(step), str(name)), Cell())
            cell.total += int(count)
            cell.estimate_seconds += float(seconds)

    def lay_out(self, facts: Mapping[str, Any]) -> None:
        """Replace the predicted tasks of a mosaic by those of its layout, and add its tiles."""
        self.add_totals(facts["totals"])
        self.guessed.discard(str(facts["product"]))
        tiles = {str(subject): (int(ix), int(iy)) for ix, iy, subject in facts["tiles"]}
        room = MAX_TILES - sum(len(mosaic.tiles) for mosaic in self.mosaics.values())
        if tiles:
            shown = tiles if len(tiles) <= room else {}
            self.mosaics[str(facts["product"])] = Mosaic(
                str(facts["filter"]), str(facts["step"]), (int(facts["shape"][0]), int(facts["shape"][1])),
                int(facts["side"]), dict.fromkeys(shown.values(), ""), shown, len(tiles),
            )  # fmt: skip

    def update(self, updates: Iterable[Sequence[Any]]) -> None:
        """Count finished tasks; each update has the values of an `Update`."""
        for new in (Update(*values) for values in updates):
            cell = self.cells.setdefault((new.step, new.filter), Cell())
            cell.counts[new.word] += 1
            if new.word == DONE:
                self._ran(cell, new.seconds, new.now)
                if new.peak_gb > 0:
                    self.memory.setdefault(new.step, Sample()).add(new.predicted_gb, new.peak_gb)
            elif new.word == FAILED:
                self._fail(new)
            elif new.word == SKIPPED:
                self._skip(root_cause(new.error))
            if new.step == self.last_step and new.word == DONE:
                self.last_exposure = new.now
                self.pace.add(new.now - self.began)
            if new.tile is not None:
                self._fill(new.tile, new.word)

    def end(self, now: float, outcome: str) -> None:
        self.ended, self.outcome = now, outcome

    def _ran(self, cell: Cell, seconds: float, now: float) -> None:
        start = max(now - seconds, self.began)
        cell.seconds += seconds
        cell.start = start if cell.start is None else min(cell.start, start)
        cell.stop = now if cell.stop is None else max(cell.stop, now)
        self.first = start if self.first is None else min(self.first, start)

    def _fail(self, new: Update) -> None:
        if len(self.failures) >= MAX_FAILURES:
            self.unlisted += 1
            return
        key = f"{new.step}/{new.subject}"
        error = new.error.removeprefix(f"{key}: ")
        self.failures.append(
            {"key": key, "step": new.step, "filter": new.filter, "error": error, "class": new.error_class}
        )

    def _skip(self, cause: str) -> None:
        known = cause in self.causes or len(self.causes) < MAX_CAUSES
        self.causes[cause if known else "other causes"] = self.causes.get(cause if known else "other causes", 0) + 1

    def _fill(self, tile: Place, word: str) -> None:
        product, ix, iy = tile
        mosaic = self.mosaics.get(product)
        if mosaic is None:
            return
        mosaic.done += word in (DONE, REUSED)
        if (ix, iy) in mosaic.tiles:
            mosaic.tiles[ix, iy] = word

    def seconds_left(self, now: float) -> float | None:
        """Estimated time to the end of the run, at the rate so far; None before any task has run."""
        if not any(cell.left for cell in self.cells.values()):
            return 0.0
        ran = sum(cell.seconds for cell in self.cells.values())
        if self.first is None or ran <= 0 or self.ended is not None:
            return None
        return (now - self.first) * self._work_left() / ran

    def _work_left(self) -> float:
        """Seconds of all remaining tasks.

        A task takes the mean time of its step, or, where none of the step has run, its planned time multiplied by the
        ratio of measured to planned time of the tasks that have run.
        """
        steps: dict[str, list[float]] = {}
        ran = planned = 0.0
        for (step, _), cell in self.cells.items():
            done = cell.counts[DONE]
            row = steps.setdefault(step, [0.0, 0.0])
            row[0], row[1] = row[0] + cell.seconds, row[1] + done
            ran, planned = ran + cell.seconds, planned + done * cell.estimate_seconds / max(cell.total, 1)
        factor = ran / planned if planned > 0 else 1.0
        left = 0.0
        for (step, _), cell in self.cells.items():
            seconds, count = steps[step]
            mean = seconds / count if count else factor * cell.estimate_seconds / max(cell.total, 1)
            left += cell.left * mean
        return left

    def exposures_per_hour(self, now: float) -> float:
        """Mean rate since the start of the first task, until now or until the last exposure ended."""
        done = sum(cell.counts[DONE] for (step, _), cell in self.cells.items() if step == self.last_step)
        if not done or self.first is None or self.last_exposure is None:
            return 0.0
        left = any(cell.left for (step, _), cell in self.cells.items() if step == self.last_step)
        until = now if left and self.ended is None else self.last_exposure
        return 3600 * done / max(until - self.first, 1e-3)
