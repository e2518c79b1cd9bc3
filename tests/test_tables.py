"""Tables of the command line: order of rows and columns, and the same words on a terminal and in a pipe."""

from __future__ import annotations

import io
import json
import re

import pytest

from survey.cli import tables
from survey.cli.tables import Table, count, emit_blocks, sort_filters, sort_steps, steps_table, text_of

TASKS = [
    ("drizzle", "F444W", "to run"),
    ("image2", "F200W", "done"),
    ("detector1", "F444W", "failed"),
    ("detector1", "F200W", "done"),
    ("detector1", "F200W", "done"),
    ("detector1", "F200W", "failed"),
    ("sources", "F200W", "skipped"),
]
CHAIN = ["detector1", "image2"]


def test_steps_are_in_the_pipelines_order():
    names = ["drizzle", "align", "sources", "association", "image2", "subtract_striping", "detector1", "later"]
    order = ["detector1", "subtract_striping", "image2", "sources", "association", "align", "drizzle", "later"]
    assert sort_steps(names, ["detector1", "subtract_striping", "image2"]) == order
    assert sort_steps(["image2", "detector1"], ["detector1", "image2"]) == ["detector1", "image2"]


def test_filters_are_sorted_by_wavelength():
    assert sort_filters(["F444W", "", "F070W", "F1000W", "F200W"]) == ["F070W", "F200W", "F444W", "", "F1000W"]


def test_cells_count_each_word():
    counts = count(TASKS, CHAIN)
    assert list(counts) == ["detector1", "image2", "sources", "drizzle"]
    assert counts["detector1"] == {"F200W": {"done": 2, "failed": 1}, "F444W": {"failed": 1}}
    assert steps_table(counts, {"image2": "3 s"}).plain().splitlines() == [
        "step       F200W             F444W     mean time",
        "detector1  2 done, 1 failed  1 failed",
        "image2     1 done                      3 s",
        "sources    1 skipped",
        "drizzle                      1 to run",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [200, 40])
def test_a_terminal_shows_the_words_of_the_plain_text(monkeypatch, columns):
    blocks = ["head", steps_table(count(TASKS, CHAIN)), "[red]end[/red]"]
    out = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(tables.sys, "stdout", out)
    emit_blocks({}, False, lambda: blocks)
    text = re.sub("\x1b\\[[0-9;]*m", "", out.getvalue())  # colours
    assert sorted(word for word in text.split() if set(word) != {"─"}) == sorted(text_of(blocks).split())
    assert max(map(len, text.splitlines())) <= columns


def test_a_terminal_gets_one_json_document_too(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(tables.sys, "stdout", out)
    emit_blocks({"a": 1}, True, lambda: ["head"])
    assert json.loads(out.getvalue()) == {"a": 1}


def test_foreign_words_do_not_steer_the_terminal():
    table = Table(("step",), (((("a\x1b[2Jb", ""),),),))
    assert table.plain().splitlines()[1] == "a?[2Jb"
