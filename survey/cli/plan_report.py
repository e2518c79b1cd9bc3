"""`survey plan`: the plan as a document of JSON types, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from survey.cli.console import counts_text
from survey.config.model import SurveyConfig
from survey.models import Plan
from survey.planning.disk import MOSAIC_BYTES, Room
from survey.planning.planner import total_gb
from survey.planning.staleness import DONE, State, causes, reach, summary

SHOWN = 12  # causes in the text; the document has all


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
        *(f"  {counts_text(name, counts)}" for name, counts in document["summary"].items()),
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
