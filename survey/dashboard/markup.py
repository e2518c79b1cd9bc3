"""The page's tables as HTML. All text from records and configs is escaped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from survey.steps.registry import REGISTRY

OTHER = "#6c757d"  # of a step that the registry does not have
MAX_SHOWN = 60  # failures in the table; the JSON has more
CSS = """
:host { font-family: Helvetica, Arial, sans-serif; color: #343a40; font-size: 14px; }
h1, h2 { color: #343a40; }
.bk-clearfix { width: 100%; }
h1 { font-size: 20px; font-weight: 600; margin: 6px 0 2px; }
h2 { font-size: 14px; font-weight: 600; margin: 10px 0 6px; }
.sub { color: #868e96; margin-bottom: 10px; }
.cards { display: flex; gap: 12px; flex-wrap: wrap; }
.card { background: #fff; border: 1px solid #e4e7ea; border-radius: 6px; padding: 8px 16px; min-width: 116px; }
.card b { display: block; font-size: 22px; font-weight: 600; line-height: 1.3; white-space: nowrap; }
.card span { color: #868e96; font-size: 12px; }
.bad b { color: #c0392b; }
.whole { height: 8px; background: #e9ecef; border-radius: 4px; margin: 12px 0 4px; display: flex; overflow: hidden; }
.whole i, .bar i { display: block; height: 100%; }
table { border-collapse: collapse; background: #fff; }
th { text-align: left; font-weight: 600; color: #868e96; font-size: 12px; }
th, td { padding: 3px 10px 3px 6px; border-bottom: 1px solid #eef0f2; white-space: nowrap; }
td.text { white-space: normal; overflow-wrap: anywhere; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px; }
.bar { height: 5px; width: 104px; margin-top: 2px; background: #e9ecef; border-radius: 3px; display: flex;
  overflow: hidden; }
.count { font-variant-numeric: tabular-nums; }
.now { color: #b7791f; } .lost { color: #c0392b; font-weight: 600; } .dim { color: #868e96; }
"""


def color_of(step: str) -> str:
    return REGISTRY[step].color if step in REGISTRY else OTHER


def headline(document: Mapping[str, Any]) -> str:
    """The run's name, its most important figures, and a bar of all tasks."""
    if "run" not in document:
        return "<h1>No survey has run here yet</h1><div class='sub'>The page shows the next run.</div>"
    tasks, exposures = document["tasks"], document["exposures"]
    decided = tasks["done"] + tasks["reused"] + tasks["failed"] + tasks["skipped"]
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(document["began"]))
    word = document["outcome"] if document["ended"] else "running"
    left = document["seconds_left"]
    took = clock(document["elapsed_seconds"])
    if document["ended"]:
        time_card = ("", took, "took")
    else:
        least = "at least, " if document["not_laid_out"] else ""  # tiles are known after the alignment
        time_card = ("", "-" if left is None else clock(left), f"left {least}after {took}")
    lost = tasks["failed"] + tasks["skipped"]
    before = f", {tasks['reused']} of them done before" if tasks["reused"] else ""
    cards = [
        ("", f"{decided} of {tasks['total']}", f"tasks{before}"),
        ("", f"{exposures['done']} of {exposures['total']}", "exposures calibrated"),
        ("", f"{exposures['per_hour']:,.0f}", "exposures an hour"),
        time_card,
        ("", str(tasks["running"]), "tasks under way"),
        ("bad" if lost else "", f"{tasks['failed']} + {tasks['skipped']}", "failed + skipped after them"),
    ]  # fmt: skip
    shown = "".join(
        f"<div class='card {kind}'><b>{escape(value)}</b><span>{escape(words)}</span></div>"
        for kind, value, words in cards
    )
    parts = [(tasks["done"], "#4c9f70"), (tasks["reused"], "#9fceb3"), (tasks["failed"], "#c0392b"),
             (tasks["skipped"], "#b7bcc2"), (tasks["running"], "#f2c14e")]  # fmt: skip
    return (
        f"<h1>{escape(document['survey'])}</h1><div class='sub'>{_program_text(document['program'])}, context "
        f"{escape(document['context'])}, {escape(word)}, began {began}</div><div class='cards'>{shown}</div>"
        f"{_bar(parts, tasks['total'], 'whole')}"
    )


def _program_text(program: int | Sequence[int]) -> str:
    return f"program {program}" if isinstance(program, int) else f"programs {', '.join(map(str, program))}"


def matrix(document: Mapping[str, Any]) -> str:
    """Table of counts: a row for each step, a column for each filter."""
    rows = document["steps"]
    steps = sorted(dict.fromkeys(row["step"] for row in rows), key=_order)
    filters = sorted(dict.fromkeys(row["filter"] for row in rows))
    cells = {(row["step"], row["filter"]): row for row in rows}
    head = "".join(f"<th>{escape(name or 'any filter')}</th>" for name in filters)
    lines = []
    for step in steps:
        found = [cells.get((step, name)) for name in filters]
        times = [row for row in found if row and row["done"]]
        seconds = sum(row["mean_seconds"] * row["done"] for row in times) / max(sum(row["done"] for row in times), 1)
        mean = f"{seconds:.1f} s" if times else ""
        lines.append(
            f"<tr><td><span class='dot' style='background:{color_of(step)}'></span>{escape(step)}</td>"
            + "".join(f"<td>{_cell(row, color_of(step)) if row else ''}</td>" for row in found)
            + f"<td class='dim count'>{mean}</td></tr>"
        )
    return f"<h2>Steps and filters</h2><table><tr><th>step</th>{head}<th>a task takes</th></tr>{''.join(lines)}</table>"


def failures_table(document: Mapping[str, Any]) -> str:
    """Table of failures with their causes, and of the causes of skipped tasks."""
    failures: Sequence[Mapping[str, str]] = document["failures"]
    if not failures and not document["skipped_because"]:
        return "<h2>Failures</h2><div class='dim'>none</div>"
    lines = [
        f"<tr><td><span class='dot' style='background:{color_of(item['step'])}'></span>{escape(item['key'])}</td>"
        f"<td>{escape(item['filter'])}</td><td class='text'>{escape(item['error'])}</td>"
        f"<td class='dim'>{escape(item['class'])}</td></tr>"
        for item in failures[:MAX_SHOWN]
    ]
    more = len(failures) - len(lines) + document["failures_not_listed"]
    causes = [
        f"<tr><td class='count'>{item['tasks']}</td><td class='text'>{escape(item['cause'])}</td></tr>"
        for item in document["skipped_because"]
    ]
    text = "<h2>Failures</h2><table><tr><th>task</th><th>filter</th><th>cause</th><th>class</th></tr>"
    text += "".join(lines) + "</table>" + (f"<div class='dim'>and {more} more</div>" if more else "")
    if causes:
        text += "<h2>Skipped</h2><table><tr><th>tasks</th><th>because</th></tr>" + "".join(causes) + "</table>"
    return text


def span_text(row: Mapping[str, Any]) -> str:
    """Tooltip of a step's time span, as plain text."""
    return f"{clock(row['start_seconds'])} to {clock(row['stop_seconds'])}, {row['done']} tasks"


def _cell(row: Mapping[str, Any], color: str) -> str:
    good = row["done"] + row["reused"]
    text = f"<span class='count'>{good}/{row['total']}</span>"
    text += f" <span class='now'>+{row['running']}</span>" if row["running"] else ""
    text += f" <span class='lost'>{row['failed']} failed</span>" if row["failed"] else ""
    text += f" <span class='dim'>{row['skipped']} skipped</span>" if row["skipped"] else ""
    return text + _bar(
        [(good, color), (row["failed"], "#c0392b"), (row["skipped"], "#b7bcc2"), (row["running"], "#f2c14e")],
        row["total"], "bar",
    )  # fmt: skip


def _bar(parts: Sequence[tuple[int, str]], total: int, kind: str) -> str:
    drawn = "".join(
        f"<i style='width:{100 * count / max(total, 1):.2f}%;background:{color}'></i>"
        for count, color in parts
        if count
    )
    return f"<div class='{kind}'>{drawn}</div>"


def _order(step: str) -> tuple[int, str]:
    """The registry has its rows in the order of the pipeline."""
    return (list(REGISTRY).index(step) if step in REGISTRY else len(REGISTRY), step)


def clock(seconds: float) -> str:
    """A duration in a suitable unit: 42 s, 3 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
