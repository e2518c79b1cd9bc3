"""What commands show: documents of JSON types, and the same as text."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from survey.config.model import SurveyConfig
from survey.dashboard.journal import run_state
from survey.dashboard.markup import clock
from survey.models import COMPLETE, FAILED, SKIPPED, Plan, TaskRecord
from survey.planning.disk import MOSAIC_BYTES, Room
from survey.planning.planner import total_gb
from survey.planning.staleness import DONE, State, causes, reach, summary
from survey.reduction.outcome import Run
from survey.workspace.folders import Workspace
from survey.workspace.provenance import Lineage

SHOWN = 12


def plan_document(made: Plan, found: Sequence[State], room: Room | None = None) -> dict[str, Any]:
    waiting = [item.task for item in found if item.state != DONE]
    associations = [
        {"product": item.product, "filter": item.filter, "members": list(item.members), **_tiles(made, item.product)}
        for item in made.associations
    ]
    return {
        "context": made.context,
        "exposures": [
            {
                "name": item.name,
                "filter": item.filter,
                "detector": item.detector,
                "observation": item.observation,
                "size": item.size,
                "fetched": item.sha256 is not None,
                "fault": item.fault,
                "footprint": item.footprint,
            }
            for item in made.exposures
        ],
        "associations": associations,
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
        "summary": summary(found),
        "causes": causes(found),
        "reach": reach(found),
        "to_run": len(waiting),
        "cpu_hours": round(sum(task.cpu_seconds for task in waiting) / 3600, 3),
        "peak_gb": max((task.memory_gb for task in waiting), default=0.0),
        "raw_gb": round(sum(item.size or 0 for item in made.exposures) / 1e9, 3),
        "products_gb": round(total_gb(made.exposures) + sum(item.get("mosaic_gb", 0.0) for item in associations), 3),
        "disk": {} if room is None else {key: round(value, 3) for key, value in asdict(room).items()},
    }


def _tiles(made: Plan, product: str) -> dict[str, Any]:
    """Tiles of a mosaic and how many members touch them; nothing for a mosaic that has none."""
    tiles = [task for task in made if task.step == "drizzle" and task.subject.startswith(f"{product}_x")]
    if not tiles:
        return {}
    shape = [max(task.settings["box"][corner] for task in tiles) for corner in (2, 3)]
    members = [len(task.settings["members"]) for task in tiles]
    return {
        "tiles": len(tiles),
        "tile_pixels": tiles[0].settings["side"],
        "extent": shape,
        "overlaps": sum(members),
        "most_members": max(members),
        "laid_out": not any(task.unknown for task in tiles),
        "mosaic_gb": round(sum(_box_pixels(task.settings["box"]) for task in tiles) * MOSAIC_BYTES / 1e9, 3),
    }


def _box_pixels(box: Sequence[int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _mosaic_text(item: Mapping[str, Any]) -> str:
    text = f"{len(item['members'])} exposures"
    if "tiles" not in item:
        return text
    nx, ny = item["extent"]
    guess = "" if item["laid_out"] else " (from footprints)"
    return (
        f"{text}, {item['tiles']} tiles of {item['tile_pixels']} pixels within {nx} x {ny}{guess}, "
        f"{item['overlaps']} overlaps, {item['most_members']} exposures a tile at most"
    )


def plan_text(config: SurveyConfig, made: Plan, found: Sequence[State], room: Room | None = None) -> str:
    document = plan_document(made, found)
    fetched = sum(item.sha256 is not None for item in made.exposures)
    lines = [
        f"{config.survey}: program {config.program}, {len(made.exposures)} exposures "
        f"({fetched} fetched, {document['raw_gb']:.2f} GB raw), context {made.context}",
        *(f"  {_counts(name, counts)}" for name, counts in document["summary"].items()),
        *(f"  mosaic {item['product']}: {_mosaic_text(item)}" for item in document["associations"]),
    ]
    lines += [f"  left out {item.name}: {item.fault}" for item in made.exposures if item.fault]
    for reason, counts in list(document["reach"].items())[:SHOWN]:
        lines.append(f"  {reason}: {_reached(counts)}")
    if len(document["reach"]) > SHOWN:
        lines.append(f"  ... and {len(document['reach']) - SHOWN} more causes; --json lists them all")
    lines.append(
        f"{document['to_run']} of {len(found)} tasks to run: {document['cpu_hours']:.2f} CPU-hours, largest task "
        f"{document['peak_gb']:.1f} GB of memory, about {document['products_gb']:.1f} GB of products"
    )
    if room is not None:
        short = "; this will not fit" if room.is_too_small else "; this may not fit" if room.is_tight else ""
        lines.append(f"disk: {room}{short}")
    return "\n".join(lines)


def _reached(counts: Mapping[str, int]) -> str:
    """What a cause makes run again: '16 exposures, 1 mosaic (70 tasks)'."""
    named = [f"{counts[name]} {name.removesuffix('s') if counts[name] == 1 else name}"
             for name in ("exposures", "mosaics") if counts[name]]  # fmt: skip
    tasks = f"{counts['tasks']} task{'s' if counts['tasks'] != 1 else ''}"
    return f"{', '.join(named)} ({tasks})" if named else tasks


def run_document(config: SurveyConfig, done: Run) -> dict[str, Any]:
    root = Workspace(config.workspace).root
    mosaics = [item for item in done.products if item.startswith("mosaics/") and item.endswith("_i2d.fits")]
    return {
        "workspace": str(root),
        "tasks": len(done.records),
        "ran": len(done.ran),
        "reused": len(done.reused),
        "failed": {record.key: record.error for record in done.failed},
        "missing": dict(done.missing),
        "mosaics": [str(root / item) for item in mosaics],
        "incomplete": {record.subject: list(record.missing) for record in done.incomplete_mosaics},
    }


def run_text(document: Mapping[str, Any]) -> str:
    lines = [
        f"{document['tasks']} tasks: {document['ran']} run, {document['reused']} already done, "
        f"{len(document['failed'])} failed or skipped",
        *document["mosaics"],
    ]
    return "\n".join(lines)


def status_document(config: SurveyConfig, records: Sequence[TaskRecord]) -> dict[str, Any]:
    """Counts by step and filter. A task that runs now has no record yet, but its folder: '.<step>.<subject>.<id>'."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        word = "done" if record.status == COMPLETE else record.status
        counts.setdefault(f"{record.step} {record.filter}", Counter())[word] += 1
    running = sorted(_running(config))
    return {
        "run": _under_way(config, records),
        "steps": {name: dict(row) for name, row in sorted(counts.items())},
        "running": running,
        "failed": {record.key: record.error for record in records if record.status == FAILED},
        "skipped": {record.key: record.error for record in records if record.status == SKIPPED},
        "seconds": {name: round(value, 1) for name, value in _mean_seconds(records).items()},
    }


def _under_way(config: SurveyConfig, records: Sequence[TaskRecord]) -> dict[str, Any]:
    """How far the run is that goes on, at which pace, and who runs it; nothing when nobody does."""
    workspace = Workspace(config.workspace)
    holder = workspace.holder
    state = run_state(workspace.root, records) if holder else None
    if state is None:
        return {"holder": holder} if holder else {}
    now = time.time()
    return {
        "holder": holder,
        "tasks": sum(max(cell.total, cell.decided) for cell in state.cells.values()),
        "left": sum(cell.left for cell in state.cells.values()),
        "exposures_per_hour": round(state.exposures_per_hour(now), 1),
        "elapsed_seconds": round(now - state.began, 1),
        "seconds_left": state.seconds_left(now),
        "not_laid_out": sorted(state.guessed),
    }


def _under_way_text(run: Mapping[str, Any]) -> str:
    if "tasks" not in run:
        return f"in use by {run['holder']}"
    left = "-" if run["seconds_left"] is None else clock(run["seconds_left"])
    least = " at least" if run["not_laid_out"] else ""
    return (
        f"run by {run['holder']}: {run['tasks'] - run['left']} of {run['tasks']} tasks, "
        f"{run['exposures_per_hour']:.0f} exposures an hour, {left} left{least}"
    )


def status_text(document: Mapping[str, Any]) -> str:
    lines = [_under_way_text(document["run"])] if document["run"] else []
    lines += [_counts(name, row) for name, row in document["steps"].items()]
    lines += [f"running {name}" for name in document["running"]]
    lines += [f"{word} {name}: {error}" for word in (FAILED, SKIPPED) for name, error in document[word].items()]
    lines += [f"{step}: {clock(seconds)} a task" for step, seconds in document["seconds"].items()]
    return "\n".join(lines) or "nothing was run yet"


def lineage_document(tree: Lineage, stale: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The tree, each task once: a mosaic's association and its drizzle stand on the same members."""
    nodes: dict[str, Any] = {}
    for _, node in tree.walk():
        record = node.record
        if record is None:
            nodes.setdefault(node.name, {"file": node.name, "sha256": node.digest})
            continue
        nodes.setdefault(
            node.name,
            {
                "step": record.step,
                "digest": record.digest,
                "inputs": dict(record.inputs),
                "settings": dict(record.settings),
                "resolved": dict(record.resolved),
                "references": {
                    kind: {"file": name, "sha1": record.sha1.get(name, "")} for kind, name in record.references.items()
                },
                "context": record.context,
                "versions": dict(record.versions),
                "products": [item.path for item in record.products],
                "missing": list(record.missing),
                "started": record.started,
                "host": record.host,
                "stale": list(stale.get(node.name, ())),
            },
        )
    return {
        "product": tree.name,
        "nodes": nodes,
        "raw": list(tree.raw_files()),
        "stale": {k: list(v) for k, v in stale.items()},
    }


def lineage_text(tree: Lineage, stale: Mapping[str, Sequence[str]]) -> str:
    lines: list[str] = []
    seen: set[str] = set()
    for depth, node in tree.walk():
        indent = "  " * depth
        record = node.record
        if record is None:
            lines.append(f"{indent}{node.name}  sha256 {node.digest[:12]}")
            continue
        if node.name in seen:
            continue
        seen.add(node.name)
        versions = " ".join(f"{name} {value}" for name, value in sorted(record.versions.items()))
        lines.append(f"{indent}{node.name}  digest {record.digest[:12]}  {record.context}  {versions}")
        lines += [f"{indent}  set {name}" for name in _flat(record.settings)]
        lines += [f"{indent}  {kind}: {name}" for kind, name in sorted(record.references.items())]
        lines += [f"{indent}  missing {name}" for name in record.missing]
        lines += [f"{indent}  STALE: {reason}" for reason in stale.get(node.name, ())]
    lines.append("stale: " + (", ".join(sorted(stale)) if stale else "nothing"))
    return "\n".join(lines)


def _flat(settings: Mapping[str, Any], path: str = "") -> list[str]:
    rows: list[str] = []
    for key, value in settings.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            rows += _flat(value, name)
        else:
            text = str(value)
            rows.append(f"{name} = {text if len(text) <= 80 else text[:77] + '...'}")
    return rows


def _counts(name: str, counts: Mapping[str, int]) -> str:
    return f"{name:<24} " + ", ".join(f"{count} {word}" for word, count in counts.items())


def _running(config: SurveyConfig) -> list[str]:
    workspace = Workspace(config.workspace)
    found = []
    for path in workspace.leftovers() if workspace.holder else ():
        _, step, *subject, _ = path.name.split(".")
        if subject:
            found.append(f"{step}/{'.'.join(subject)}")
    return found


def _mean_seconds(records: Sequence[TaskRecord]) -> dict[str, float]:
    rows: dict[str, list[float]] = {}
    for record in records:
        if record.status == COMPLETE:
            rows.setdefault(record.step, []).append(record.seconds)
    return {step: sum(values) / len(values) for step, values in rows.items()}
