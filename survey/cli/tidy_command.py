"""`survey tidy`: remove raw and rate files to make room."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from survey.cli.console import emit
from survey.cli.options import config_options

if TYPE_CHECKING:
    from survey.config.model import SurveyConfig
    from survey.reduction.tidy import Removal

SHOWN = 12  # exposures in the text; the document has all


@click.command()
@config_options
@click.option(
    "--keep",
    required=True,
    type=click.Choice(["cal", "rate"]),
    help="The first products to keep: 'cal' removes raw and rate files, 'rate' raw files only.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
def tidy(config: Path, workspace: Path | None, as_json: bool, keep: str, dry_run: bool) -> None:
    """Remove raw files, or raw and rate files, of finished exposures to make room.

    Mosaics can still be made from the cal files, and made again. Files that a task has to read are kept. If a task
    needs a removed file later, a run fetches or makes it again. 'survey fetch' brings all raw files back.

    Example: survey tidy configs/demo.yaml --keep cal --dry-run
    """
    from survey.reduction.load import load_config
    from survey.reduction.tidy import removable, remove

    loaded = load_config(config, workspace=workspace)
    if dry_run:
        removal = removable(loaded, keep)
    else:
        with loaded.folders.lock():
            removal = removable(loaded, keep)
            remove(loaded, removal)
    emit(tidy_document(removal, dry_run), as_json, lambda: tidy_text(loaded, removal, dry_run))


def tidy_document(removal: Removal, dry_run: bool) -> dict[str, Any]:
    """What is removed and what is kept, as JSON types."""
    return {
        "keep": removal.keep,
        "dry_run": dry_run,
        "files": {item.path: item.bytes for item in removal.files},
        "gb": round(removal.gb, 6),
        "kept": dict(removal.needed),
        "linked": removal.linked,
    }


def tidy_text(config: SurveyConfig, removal: Removal, dry_run: bool) -> str:
    """Numbers and sizes by folder, what can no longer be made without raw files, and what is kept."""
    verb = "would be removed" if dry_run else "removed"
    numbers, sizes = Counter[str](), Counter[str]()
    for item in removal.files:
        numbers[item.path.partition("/")[0]] += 1
        sizes[item.path.partition("/")[0]] += item.bytes
    lines = [f"{name}/: {numbers[name]} files, {sizes[name] / 1e9:.2f} GB {verb}" for name in numbers]
    lines += _consequences(config, removal)
    if removal.linked:
        lines.append(f"raw/: {removal.linked} links to {config.archive.local}, which take no room, are kept")
    causes = Counter(removal.needed.values())
    lines += [f"kept for {number} exposures: {why}" for why, number in causes.items()]
    if not removal.files:
        lines.append("nothing to remove")
    return "\n".join(lines)


def _consequences(config: SurveyConfig, removal: Removal) -> list[str]:
    """What needs the removed files: it can only be made again after raw files are fetched."""
    raw = [item for item in removal.files if not item.task]
    lines = []
    if removal.keep == "cal" and removal.files:
        steps = ", ".join(dict.fromkeys(item.task.partition("/")[0] for item in removal.files if item.task))
        again = "their raw files are fetched again" if config.archive.local is None else "they are made again"
        lines.append(
            f"mosaics can be made again from the cal files; a change of {steps or 'a step'} or of a later step of the "
            f"exposures needs files that are gone: {again} first"
        )
    if raw:
        gb = sum(item.bytes for item in raw) / 1e9
        lines.append(
            f"raw files can be fetched again from {config.archive.server} ({gb:.2f} GB), as long as it has them"
        )
    return lines
