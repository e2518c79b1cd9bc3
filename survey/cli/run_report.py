"""The result of `survey run` and `survey mosaic` as a document of JSON types, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from survey.config.model import SurveyConfig
from survey.models import TWEAKREG, Notice
from survey.reduction.outcome import Run
from survey.steps.alignment import named


def run_document(config: SurveyConfig, done: Run) -> dict[str, Any]:
    root = config.folders.root
    mosaics = [item for item in done.products if item.startswith("mosaics/") and item.endswith("_i2d.fits")]
    return {
        "workspace": str(root),
        "tasks": len(done.records),
        "ran": len(done.ran),
        "reused": len(done.reused),
        "failed": {record.key: record.error for record in done.failed},
        "missing": dict(done.missing),
        "left_out": dict(done.left_out),
        "warnings": list(done.warnings),
        "mosaics": [str(root / item) for item in mosaics],
        "incomplete": {record.subject: list(record.missing) for record in done.incomplete_mosaics},
        "not_aligned": done.not_aligned,
        "notices": notices_document(done.notices),
    }


def notices_document(notices: Mapping[str, Sequence[Notice]]) -> dict[str, list[dict[str, Any]]]:
    """What steps did not do, by mosaic, as JSON types."""
    return {product: [asdict(item) for item in items] for product, items in notices.items()}


def notice_lines(document: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The same as lines of text: steps that failed, and mosaics that tweakreg was not to align."""
    return [_notice_line(product, item) for product, items in document.items() for item in items]


def _notice_line(product: str, item: Mapping[str, Any]) -> str:
    names = item["members"]
    what = "not aligned by tweakreg" if item["step"] == TWEAKREG else f"not treated by {item['step']}"
    if not item["failed"]:
        return f"{product}: {what}: {item['reason']}"
    return f"{product}: {what}: {named(names)}: {item['reason']}"


def run_text(document: Mapping[str, Any]) -> str:
    lines = [
        f"{document['tasks']} tasks: {document['ran']} run, {document['reused']} already done, "
        f"{len(document['failed'])} failed or skipped",
        *document["mosaics"],
    ]
    return "\n".join(lines)
