"""`survey explain`: the lineage of a product as a document of JSON types, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from survey.workspace.provenance import Lineage


def lineage_document(tree: Lineage, stale: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The tree with each task once, though several tasks of a mosaic depend on the same members."""
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
    """The tree, indented by depth, with settings, reference files and causes of staleness below each task."""
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
    """Settings as lines 'step.parameter = value'."""
    rows: list[str] = []
    for key, value in settings.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            rows += _flat(value, name)
        else:
            text = str(value)
            rows.append(f"{name} = {text if len(text) <= 80 else text[:77] + '...'}")
    return rows
