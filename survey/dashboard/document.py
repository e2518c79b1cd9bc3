"""The state of a run as a document of JSON types: what the page, scripts and Prometheus get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from survey.dashboard.state import REUSED, WORDS, Cell, Mosaic, RunState
from survey.models import FAILED, SKIPPED
from survey.planning.staleness import DONE

Running = Mapping[tuple[str, str], Sequence[str]]  # step and filter -> subjects of the tasks that run


def run_document(state: RunState, now: float, running: Running) -> dict[str, Any]:
    """The whole state of a run.

    Parameters
    ----------
    now : time as of time.time() [s]; ignored after the run's end
    running : tasks that run, of all runs of the scheduler
    """
    now = state.ended or now
    running = {key: subjects for key, subjects in running.items() if key in state.cells and not state.ended}
    cells = state.cells.values()
    return {
        "run": state.run,
        "survey": state.survey,
        "program": state.program,
        "context": state.context,
        "began": state.began,
        "now": now,
        "ended": state.ended is not None,
        "outcome": state.outcome,
        "elapsed_seconds": round(now - state.began, 1),
        "seconds_left": state.seconds_left(now),
        "not_laid_out": sorted(state.guessed),
        "tasks": {
            "total": sum(max(cell.total, cell.decided) for cell in cells),
            **{word: sum(cell.counts[word] for cell in cells) for word in WORDS},
            "running": sum(len(subjects) for subjects in running.values()),
        },
        "exposures": _exposures(state, now),
        "steps": [
            _step(state, place, cell, len(running.get(place, ())))
            for place, cell in state.cells.items()
            if cell.total > 0 or cell.decided
        ],
        "failures": list(state.failures),
        "failures_not_listed": state.unlisted,
        "skipped_because": [{"cause": cause, "tasks": count} for cause, count in state.causes.items()],
        "memory": _memory(state),
        "mosaics": [_mosaic(product, mosaic, running) for product, mosaic in state.mosaics.items()],
    }


def _exposures(state: RunState, now: float) -> dict[str, Any]:
    """Progress of the exposures, by the last step of their chain; the curve ends with the last exposure."""
    chain = [cell for (step, _), cell in state.cells.items() if step == state.last_step]
    complete = bool(chain) and not any(cell.left for cell in chain)
    ends, rates = state.pace.rates((state.last_exposure or now if complete else now) - state.began)
    return {
        "total": state.exposures,
        "done": sum(cell.counts[DONE] + cell.counts[REUSED] for cell in chain),
        "lost": sum(cell.counts[FAILED] + cell.counts[SKIPPED] for cell in chain),
        "per_hour": round(state.exposures_per_hour(now), 1),
        "ends_seconds": [round(value, 2) for value in ends],
        "rates_per_hour": [round(value, 2) for value in rates],
    }


def _step(state: RunState, place: tuple[str, str], cell: Cell, running: int) -> dict[str, Any]:
    step, name = place
    return {
        "step": step,
        "filter": name,
        "total": max(cell.total, cell.decided),
        **cell.counts,
        "running": running,
        "mean_seconds": round(cell.seconds / max(cell.counts[DONE], 1), 2),
        "start_seconds": None if cell.start is None else round(cell.start - state.began, 2),
        "stop_seconds": None if cell.stop is None else round(cell.stop - state.began, 2),
    }


def _memory(state: RunState) -> dict[str, Any]:
    return {
        step: {
            "tasks": sample.seen,
            "over": sample.over,
            "measured_gb": sample.measured_gb,
            "predicted_gb": sample.predicted_gb,
            "points_gb": [list(point) for point in sample.points],
        }
        for step, sample in state.memory.items()
    }


def _mosaic(product: str, mosaic: Mosaic, running: Running) -> dict[str, Any]:
    under_way = {mosaic.subjects.get(subject) for subject in running.get((mosaic.step, mosaic.filter), ())}
    return {
        "product": product,
        "filter": mosaic.filter,
        "shape": list(mosaic.shape),
        "side": mosaic.side,
        "total": mosaic.total,
        "done": mosaic.done,
        "tiles": [
            [*tile, word or ("running" if tile in under_way else "waiting")] for tile, word in mosaic.tiles.items()
        ],
    }
