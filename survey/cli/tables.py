"""Tables of steps and filters: drawn by rich on a terminal, plain text otherwise, with the same words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from survey.cli.console import emit, shown
from survey.names import FIRST_PASS
from survey.nircam import FILTERS
from survey.steps.registry import REGISTRY

# States of tasks, in the order in which a cell counts them, and the colour of each on a terminal.
DONE, RUNNING, TO_RUN, AGAIN, FAILED, SKIPPED = "done", "running", "to run", "to run again", "failed", "skipped"
COLORS = {DONE: "green", RUNNING: "cyan", TO_RUN: "", AGAIN: "yellow", FAILED: "red", SKIPPED: "magenta"}
IN_FIRST_PASS = " (pass 1)"  # after the name of a step in a table

MAX_NAMES = 12  # of exposures in a line

Cell = tuple[tuple[str, str], ...]  # parts of (text, colour), joined by commas
Counts = Mapping[str, Mapping[str, Mapping[str, int]]]  # step -> filter -> word -> number of tasks


@dataclass(frozen=True)
class Table:
    """Rows of cells below a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def plain(self) -> str:
        """Text with aligned columns; each row is one line."""
        lines = [list(self.header)]
        lines += [[shown(", ".join(text for text, _ in cell)) for cell in row] for row in self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        padded = ("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join(line.rstrip() for line in padded)

    def draw(self) -> None:
        """Draw the table on the terminal; cells wrap where the terminal is too narrow."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in self.header:
            table.add_column(Text(name))
        for row in self.rows:
            table.add_row(*(Text(", ").join(Text(shown(text), style=color) for text, color in cell) for cell in row))
        Console(file=sys.stdout, highlight=False).print(table)


Block = str | Table


def steps_table(counts: Counts, times: Mapping[str, str] | None = None) -> Table:
    """A row for each step, a column for each filter.

    Parameters
    ----------
    counts : steps in the order of the rows
    times : how long a task of each step takes, as a last column
    """
    names = sort_filters(name for row in counts.values() for name in row)
    rows = []
    for step, row in counts.items():
        cells = [tuple((f"{row[name][word]} {word}", color) for word, color in COLORS.items() if row[name].get(word))
                 if name in row else () for name in names]  # fmt: skip
        last = () if times is None else (((times.get(step, ""), ""),),)
        rows.append((((step, ""),), *cells, *last))
    header = ("step", *(name or "any filter" for name in names), *(() if times is None else ("mean time",)))
    return Table(header, tuple(rows))


def count(tasks: Iterable[tuple[str, str, str]], chain: Sequence[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Count tasks, given as (step, filter, word), in the order of the pipeline's steps."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for step, name, word in tasks:
        cell = found.setdefault(step, {}).setdefault(name, {})
        cell[word] = cell.get(word, 0) + 1
    return {step: found[step] for step in sort_steps(found, chain)}


def sort_steps(names: Iterable[str], chain: Sequence[str]) -> list[str]:
    """Names of steps in the order of the pipeline.

    Parameters
    ----------
    names : in any order
    chain : the config's steps of an exposure, in its order
    """
    known = list(REGISTRY)
    masks = [index for index, name in enumerate(chain) if name in REGISTRY and REGISTRY[name].masks]

    def place(name: str) -> tuple[int, int, str]:
        if name in chain:
            return 0, chain.index(name), name
        if name not in REGISTRY:  # of another version of this software
            return 3, 0, name
        return (2 if REGISTRY[name].per_mosaic else 1), known.index(name), name

    def with_pass(name: str) -> tuple[bool, bool, tuple[int, int, str]]:
        """Steps before the source mask, the first pass, then the others."""
        step = name.removesuffix(IN_FIRST_PASS)
        shared = step == name and step in chain and bool(masks) and chain.index(step) < masks[0]
        return not shared, step == name, place(step)

    return sorted(set(names), key=with_pass)


def step_label(step: str, subject: str) -> str:
    """Name of a step in a table; that of a first pass says so."""
    return f"{step}{IN_FIRST_PASS}" if FIRST_PASS in subject else step


def sort_filters(names: Iterable[str]) -> list[str]:
    """Names of filters by wavelength; names that NIRCam does not have follow."""
    known = {name: place for place, name in enumerate(FILTERS)}
    return sorted(set(names), key=lambda name: (known.get(name, len(known)), name))


def left_out_lines(causes: Mapping[str, str]) -> list[str]:
    """Exposures that are left out; one line for all that have one cause."""
    names: dict[str, list[str]] = {}
    for name, cause in sorted(causes.items()):
        names.setdefault(cause, []).append(name)
    lines = []
    for cause, found in names.items():
        more = f" and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
        lines.append(f"left out {', '.join(found[:MAX_NAMES])}{more}: {cause}")
    return lines


def text_of(blocks: Iterable[Block]) -> str:
    """Blocks as plain text."""
    return "\n".join(block.plain() if isinstance(block, Table) else block for block in blocks)


def emit_blocks(document: Any, as_json: bool, blocks: Callable[[], Sequence[Block]]) -> None:
    """Print the JSON document or the blocks on standard output; on a terminal, tables are drawn."""
    if as_json or not sys.stdout.isatty():
        emit(document, as_json, lambda: text_of(blocks()))
        return
    for block in blocks():
        if isinstance(block, Table):
            block.draw()
        else:
            click.echo(shown(block))
