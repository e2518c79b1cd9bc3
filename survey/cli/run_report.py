"""The result of `survey run` and `survey mosaic` as a document of JSON types, and as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from survey.config.model import SurveyConfig
from survey.reduction.outcome import Run


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
    }


def run_text(document: Mapping[str, Any]) -> str:
    lines = [
        f"{document['tasks']} tasks: {document['ran']} run, {document['reused']} already done, "
        f"{len(document['failed'])} failed or skipped",
        *document["mosaics"],
    ]
    return "\n".join(lines)
