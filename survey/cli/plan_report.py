"""`survey plan`: the plan as a document of JSON types, and as text with one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from survey.cli.run_report import notice_lines, notices_document
from survey.cli.tables import (
    AGAIN,
    DONE,
    FAILED,
    SKIPPED,
    TO_RUN,
    Block,
    count,
    left_out_lines,
    step_label,
    steps_table,
)
from survey.config.model import SurveyConfig
from survey.dashboard.state import first_line
from survey.models import LOST, REMOVED, Exposure, Notice, Plan
from survey.planning import staleness
from survey.planning.disk import Room, total_gb
from survey.planning.grids import ALIGNMENT, CONFIG, FOOTPRINTS, Grid
from survey.planning.made_with import Differences
from survey.planning.staleness import State, causes, reach, summary
from survey.steps.costs import MOSAIC_BYTES
from survey.steps.registry import row_of

SHOWN = 12  # causes, failures and exposures in the text; the document has all
SOURCES = {
    CONFIG: "given by the config",
    ALIGNMENT: "known from the alignment",
    FOOTPRINTS: "predicted from footprints; the pipeline sets what the config leaves open when it aligns",
}
_WORDS = {staleness.DONE: DONE, staleness.STALE: AGAIN, staleness.FAILED: FAILED}


@dataclass(frozen=True)
class Planned:
    """A plan and what is known of it."""

    config: SurveyConfig
    plan: Plan
    states: Sequence[State]
    room: Room | None = None
    grids: Mapping[str, Grid | None] = field(default_factory=dict)  # by product
    source: str = "archive"  # of the exposures: 'archive', 'folder' or 'workspace'
    warnings: Sequence[str] = ()  # of grids that lose exposures, and of pointings that may be wrong
    notices: Mapping[str, Sequence[Notice]] = field(default_factory=dict)  # of the last run, by product
    differences: Differences = field(default_factory=Differences)  # between finished products


def plan_document(made: Planned) -> dict[str, Any]:
    plan, found = made.plan, made.states
    waiting = [item.task for item in found if item.state != staleness.DONE]
    associations = [_mosaic(made, item.product, item.filter, item.members) for item in plan.associations]
    return {
        "context": plan.context,
        "exposures_from": made.source,
        "exposures": [
            {
                "name": item.name,
                "filter": item.filter,
                "detector": item.detector,
                "observation": item.observation,
                "size": item.size,
                "fetched": item.is_held,
                "absent": item.absent,
                "fault": item.fault,
                "pointing": item.pointing,
                "footprint": item.footprint,
            }
            for item in plan.exposures
        ],
        "left_out": {item.name: item.excluded for item in plan.left_out},
        "associations": associations,
        "warnings": list(made.warnings),
        "tasks": [
            {
                "key": item.task.key,
                "step": item.task.step,
                "filter": item.task.filter,
                "state": item.state,
                "why": list(item.reasons),
                "digest": item.task.digest,
                "memory_gb": item.task.memory_gb,
                "cpu_seconds": item.task.cpu_seconds,
            }
            for item in found
        ],
        "table": _table(made),
        "summary": summary(found),
        "causes": causes(found),
        "reach": reach(found),
        **made.differences.to_json(),
        "to_run": len(waiting),
        "cpu_hours": round(sum(task.cpu_seconds for task in waiting) / 3600, 3),
        "peak_gb": max((task.memory_gb for task in waiting), default=0.0),
        "raw_gb": round(sum(item.size or 0 for item in plan.exposures) / 1e9, 3),
        "products_gb": round(total_gb(plan.exposures) + sum(item.get("mosaic_gb", 0.0) for item in associations), 3),
        "notices": notices_document(made.notices),
        "catalogs_to_fetch": _catalogs_to_fetch(plan),
        "disk": {} if made.room is None else {key: round(value, 3) for key, value in asdict(made.room).items()},
    }


def _catalogs_to_fetch(made: Plan) -> list[str]:
    """Online reference catalogues that the workspace lacks."""
    files = {(name, task.digests.get(name, "")) for task in made if row_of(task).aligns for name in task.files}
    return sorted(name for name, sha256 in files if not sha256)


def _table(made: Planned) -> dict[str, dict[str, dict[str, int]]]:
    """Numbers of tasks by step, filter and word. A task that failed after one of its inputs did was skipped."""
    failed = {item.task.key for item in made.states if item.state == staleness.FAILED}
    rows = []
    for item in made.states:
        word = _WORDS.get(item.state, TO_RUN)
        if word == FAILED and failed.intersection(item.task.inputs):
            word = SKIPPED
        rows.append((step_label(item.task.step, item.task.subject), item.task.filter, word))
    return count(rows, [step.name for step in made.config.steps])


def _mosaic(made: Planned, product: str, name: str, members: Sequence[str]) -> dict[str, Any]:
    grid = made.grids.get(product)
    return {
        "product": product,
        "filter": name,
        "members": list(members),
        "grid": None if grid is None else grid.to_json(),
        **_tiles(made.plan, product),
    }


def _tiles(made: Plan, product: str) -> dict[str, Any]:
    """Tiles of a mosaic and how many members touch them; nothing for a mosaic that has none."""
    tiles = [task for task in made if task.mosaic == product and row_of(task).makes_tiles]
    boxes = [task.tile.box for task in tiles if task.tile is not None]
    if not boxes:
        return {}
    members = [len(task.settings["members"]) for task in tiles]
    return {
        "tiles": len(tiles),
        "tile_pixels": tiles[0].settings["side"],
        "extent": [max(box.x1 for box in boxes), max(box.y1 for box in boxes)],
        "overlaps": sum(members),
        "most_members": max(members),
        "laid_out": not any(task.unknown for task in tiles),
        "mosaic_gb": round(sum(box.pixels for box in boxes) * MOSAIC_BYTES / 1e9, 3),
    }


def plan_blocks(made: Planned) -> list[Block]:
    """Head, table, mosaics with their grids, failures, causes, totals."""
    document, plan = plan_document(made), made.plan
    fetched = sum(item.is_held for item in plan.exposures)
    head = (
        f"{made.config.survey}: {made.config.program_text}, {_counted(len(plan.exposures), 'exposure')} "
        f"({fetched} fetched, {document['raw_gb']:.2f} GB raw), context {plan.context}"
    )
    blocks: list[Block] = [head, ""]
    if document["table"]:
        blocks += [steps_table(document["table"]), ""]
    blocks += [f"mosaic {item['product']}: {_mosaic_text(item)}" for item in document["associations"]]
    later = _later_lines(made)
    blocks += [*later, *_grid_lines(made)]
    blocks += [f"left out {item.name}: {item.fault}" for item in plan.exposures if item.fault]
    blocks += left_out_lines(document["left_out"])
    blocks += _raw_lines(made)
    blocks += _reason_lines(made.states)
    blocks += [f"to fetch before the first task: {name}" for name in document["catalogs_to_fetch"]]
    blocks += notice_lines(document["notices"])
    blocks += made.differences.lines()
    least = "at least " if later else ""
    costs = f": {document['cpu_hours']:.2f} CPU-hours, largest task {document['peak_gb']:.1f} GB of memory"
    blocks.append(
        f"{least}{document['to_run']} of {least}{len(made.states)} tasks to run{costs if document['to_run'] else ''}, "
        f"about {document['products_gb']:.1f} GB of products"
    )
    if made.room is not None:
        short = "; this will not fit" if made.room.is_too_small else "; this may not fit" if made.room.is_tight else ""
        blocks.append(f"disk: {made.room}{short}")
    return blocks


def _raw_lines(made: Planned) -> list[str]:
    """Raw files that are not there, and whether a run fetches them again."""
    read = {name for item in made.states if item.state != staleness.DONE for name in item.task.files}
    lost = [item for item in made.plan.exposures if item.absent == LOST]
    removed = [item for item in made.plan.exposures if item.absent == REMOVED]
    again = [item for item in removed if f"raw/{item.file}" in read]
    lines = []
    if lost:
        lines.append(
            f"raw files of {_counted(len(lost), 'exposure')} are missing or were changed since they were verified: "
            f"a run fetches them again ({_gb(lost)})"
        )
    if removed:
        use = f"{len(again)} of them are fetched again, since tasks read them ({_gb(again)})" if again else "not needed"
        lines.append(f"raw files of {_counted(len(removed), 'exposure')} were removed by survey tidy: {use}")
    return lines


def _gb(exposures: Sequence[Exposure]) -> str:
    return f"{sum(item.size or 0 for item in exposures) / 1e9:.2f} GB"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _mosaic_text(item: Mapping[str, Any]) -> str:
    text = _counted(len(item["members"]), "exposure")
    if "tiles" not in item:
        return text
    nx, ny = item["extent"]
    guess = "" if item["laid_out"] else " (from footprints)"
    return (
        f"{text}, {_counted(item['tiles'], 'tile')} of {item['tile_pixels']} pixels within {nx} x {ny}{guess}, "
        f"{_counted(item['overlaps'], 'overlap')}, {_counted(item['most_members'], 'exposure')} a tile at most"
    )


def _later_lines(made: Planned) -> list[str]:
    """Mosaics whose tasks after the alignment are not planned: the layout of their tiles is not known."""
    aligned = {task.mosaic: task.step for task in made.plan if row_of(task).lays_out}
    planned = {task.mosaic for task in made.plan if row_of(task).needs_layout}
    later = [product for product in aligned if product not in planned]
    if not later:
        return []
    step = aligned[later[0]]
    fetched = all(item.sha256 is not None for item in made.plan.exposures)
    when = f"once '{step}' has run" if fetched else "after 'survey fetch', since the archive gives no footprints"
    return [f"tasks after '{step}' of {', '.join(later)}: planned {when}"]


def _grid_lines(made: Planned) -> list[str]:
    """The grid of each mosaic; one line for all mosaics that share it."""
    shared: dict[str, list[str]] = {}
    for product, grid in made.grids.items():
        shared.setdefault(_grid_text(grid), []).append(product)
    lines = []
    for text, products in shared.items():
        which = "of all mosaics" if len(products) > 1 == len(shared) else f"of {', '.join(products)}"
        lines.append(f"grid {which}: {text}")
    return [*lines, *(f"warning: {text}" for text in made.warnings)]


def _grid_text(grid: Grid | None) -> str:
    if grid is None:
        return "not known before raw files are fetched: neither the config nor the archive's rows give it"
    wcs = grid.wcs
    return (
        f"{wcs.shape[0]} x {wcs.shape[1]} pixels of {wcs.pixel_scale_arcsec:.4g} arcsec, "
        f"crval {wcs.crval_deg[0]:.6f} {wcs.crval_deg[1]:.6f} deg, crpix {wcs.crpix[0]:g} {wcs.crpix[1]:g} (0-based), "
        f"rotation {wcs.rotation_deg:g} deg ({SOURCES[grid.source]})"
    )


def _reason_lines(found: Sequence[State]) -> list[str]:
    """Why tasks run: failures of earlier runs, then other causes; each with what it reaches, the farthest first.

    Tasks that were skipped after a failure are not listed.
    """
    reached = reach([_without_names(item) for item in found])
    reached = dict(sorted(reached.items(), key=lambda row: -row[1]["tasks"]))
    keys = {item.task.key for item in found if item.state == staleness.FAILED}
    first = [item for item in found if item.task.key in keys and not keys.intersection(item.task.inputs)]
    failed = [f"failed {item.task.key}: {_reached(item.reasons[0], reached)}" for item in first]
    failures = {item.reasons[0] for item in first}
    causes = [f"  {_reached(reason, reached)}" for reason in reached if reason not in failures]
    lines = _shortened(failed, "failures")
    return [*lines, "to run because:", *_shortened(causes, "  causes")] if causes else lines


def _shortened(lines: Sequence[str], what: str) -> list[str]:
    more = len(lines) - SHOWN
    indent = what.removesuffix(what.strip())
    extra = [f"{indent}... and {more} more {what.strip()}; --json lists them all"] if more > 0 else []
    return [*lines[:SHOWN], *extra]


def _without_names(item: State) -> State:
    """A state that waits for its raw file, with a reason that does not name the file: one line for all of them."""
    waits = [reason.startswith("raw/") and reason.endswith(" is not there yet") for reason in item.reasons]
    return replace(item, reasons=("raw files are not fetched yet",)) if any(waits) else item


def _reached(reason: str, reach_of: Mapping[str, Mapping[str, int]]) -> str:
    """A cause and what it makes run: 'flat b replaced a: 16 exposures, 1 mosaic (70 tasks)'."""
    text = first_line(reason).rstrip(".")
    counts = reach_of.get(reason)
    if counts is None:  # the task waits for another one in any case
        return text
    named = [f"{counts[name]} {name.removesuffix('s') if counts[name] == 1 else name}"
             for name in ("exposures", "mosaics") if counts[name]]  # fmt: skip
    tasks = f"{counts['tasks']} task{'s' if counts['tasks'] != 1 else ''}"
    return f"{text}: {', '.join(named)} ({tasks})" if named else f"{text}: {tasks}"
