"""The page: the document of a run drawn with bokeh, in dask's dashboard or as one HTML file.

Text from records and configs is escaped where it goes into HTML; elsewhere bokeh draws it as text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bokeh.embed import file_html
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, DataRange1d, Div, FixedTicker, HoverTool, Range1d
from bokeh.plotting import figure
from bokeh.resources import INLINE

from survey.dashboard.markup import CSS, color_of, failures_table, headline, matrix, span_text

REFRESH_MILLISECONDS = 1000
LEAST_ROWS = 4  # of a filter on the axis of time spans, so that its name fits
MAX_CELLS = 4000  # rectangles of a mosaic; with more tiles, each one is a block of tiles
TILE_COLORS = {"waiting": "#e9ecef", "running": "#f2c14e", "done": "#4c9f70", "reused": "#9fceb3", "failed": "#c0392b",
               "skipped": "#b7bcc2"}  # fmt: skip
_GRID, _TEXT = "#e4e7ea", "#495057"
_HEIGHT = 420  # of the figure of all mosaics [pixels]
_FILLED, _TITLE = 0.92, 0.16  # length of a mosaic's longer side and height of its title, in units of its cell
_TEMPLATE = """{% extends "simple.html" %}
{% block extra_resources %}<style>html, body { background: #fafafa; }</style>
<script>document.title = "Survey";</script>{% endblock %}"""


class Page:
    """Figures and tables of a document; `show` updates them."""

    def __init__(self) -> None:
        self.headline = Div(stylesheets=[CSS], sizing_mode="stretch_width")
        self.matrix = Div(stylesheets=[CSS])
        self.failures = Div(stylesheets=[CSS], sizing_mode="stretch_width")
        self.tiles = ColumnDataSource({name: [] for name in ("x", "y", "w", "h", "color", "tile", "state")})
        self.labels = ColumnDataSource({name: [] for name in ("x", "y", "text")})
        self.pace = ColumnDataSource({"x": [], "y": []})
        self.memory = ColumnDataSource({name: [] for name in ("x", "y", "color", "step")})
        self.diagonal = ColumnDataSource({"x": [], "y": []})
        self.spans = ColumnDataSource({name: [] for name in ("y", "left", "right", "color", "step", "filter", "text")})
        self.mosaic_figure = self._mosaics()
        self.pace_figure = self._pace()
        self.memory_figure = self._memory()
        self.span_figure = self._spans()
        self.root = column(
            self.headline,
            row(self.matrix, self.mosaic_figure, sizing_mode="stretch_width"),
            row(self.pace_figure, self.memory_figure, self.span_figure, sizing_mode="stretch_width"),
            self.failures,
            sizing_mode="stretch_width",
            margin=(0, 8, 0, 8),
        )

    def show(self, document: Mapping[str, Any]) -> None:
        """Draw a document; one without a run is a message."""
        self.headline.text = headline(document)
        if "run" not in document:
            return
        self.matrix.text = matrix(document)
        self.failures.text = failures_table(document)
        self.tiles.data, self.labels.data = tiles_of(document["mosaics"], _aspect(document))
        self._show_pace(document)
        self._show_memory(document["memory"])
        self._show_spans(document)

    def _mosaics(self) -> Any:
        plot = _figure("Mosaics, tile by tile", height=_HEIGHT, match_aspect=True, x_range=DataRange1d(),
                       y_range=DataRange1d(range_padding=0.08))  # fmt: skip
        plot.min_width = 320
        plot.axis.visible = plot.grid.visible = False
        drawn = plot.rect("x", "y", "w", "h", source=self.tiles, fill_color="color", line_color="#fafafa", line_width=1)
        plot.text("x", "y", "text", source=self.labels, text_align="center", text_baseline="bottom", text_color=_TEXT,
                  text_font_size="12px")  # fmt: skip
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("tile", "@tile"), ("state", "@state")]))
        return plot

    def _pace(self) -> Any:
        plot = _figure("Exposures per hour", height=280, y_range=Range1d(0, 1))
        plot.xaxis.axis_label = "time since the start"
        plot.varea(x="x", y1=0, y2="y", source=self.pace, fill_color="#5b9bd5", fill_alpha=0.25)
        plot.line("x", "y", source=self.pace, line_color="#1f4e79", line_width=2)
        return plot

    def _show_pace(self, document: Mapping[str, Any]) -> None:
        ends, rates = document["exposures"]["ends_seconds"], document["exposures"]["rates_per_hour"]
        x, y = steps_line(ends, rates)
        scale, unit = _unit(ends[-1] if ends else 0.0)
        self.pace_figure.xaxis.axis_label = f"{unit} since the start"
        self.pace.data = {"x": [value / scale for value in x], "y": y}
        self.pace_figure.y_range.end = 1.15 * max([*rates, 1.0])

    def _memory(self) -> Any:
        plot = _figure("Memory: measured against predicted [GB]", height=280, x_axis_type="log", y_axis_type="log",
                       x_range=Range1d(0.1, 1), y_range=Range1d(0.1, 1))  # fmt: skip
        plot.xaxis.axis_label, plot.yaxis.axis_label = "predicted", "measured"
        plot.line("x", "y", source=self.diagonal, line_color="#adb5bd", line_dash="dashed")
        dots = plot.scatter("x", "y", source=self.memory, size=6, fill_color="color", fill_alpha=0.6, line_color=None)
        plot.add_tools(HoverTool(renderers=[dots], tooltips=[("step", "@step"), ("predicted", "@x{0.00} GB"),
                                                             ("measured", "@y{0.00} GB")]))  # fmt: skip
        return plot

    def _show_memory(self, memory: Mapping[str, Mapping[str, Any]]) -> None:
        rows = [(x, y, color_of(step), step) for step, found in memory.items() for x, y in found["points_gb"] if x > 0]
        self.memory.data = dict(zip(("x", "y", "color", "step"), _columns(rows, 4), strict=True))
        values = [value for x, y, *_ in rows for value in (x, y)] or [0.1, 1.0]
        low, high = min(values) / 1.5, max(values) * 1.5
        self.diagonal.data = {"x": [low, high], "y": [low, high]}
        for axis in (self.memory_figure.x_range, self.memory_figure.y_range):
            axis.start, axis.end = low, high

    def _spans(self) -> Any:
        plot = _figure("When each filter's steps ran", height=280, x_range=DataRange1d(start=0), y_range=Range1d(0, 1))
        plot.ygrid.visible = False
        bars = plot.hbar(y="y", left="left", right="right", height=0.8, source=self.spans, fill_color="color",
                         line_color=None)  # fmt: skip
        plot.add_tools(HoverTool(renderers=[bars], tooltips=[("filter", "@filter"), ("step", "@step"),
                                                             ("", "@text")]))  # fmt: skip
        return plot

    def _show_spans(self, document: Mapping[str, Any]) -> None:
        scale, unit = _unit(document["elapsed_seconds"])
        found, ticks = spans_of(document["steps"], scale)
        self.spans.data = found
        plot = self.span_figure
        plot.xaxis.axis_label = f"{unit} since the start"
        plot.yaxis.ticker = FixedTicker(ticks=list(ticks))
        plot.yaxis.major_label_overrides = ticks
        plot.y_range.start, plot.y_range.end = max([*found["y"], 0.0]) + 1.0, -1.0


def _aspect(document: Mapping[str, Any]) -> float:
    """Width over height of the space beside the table of steps, in a window of usual size."""
    filters = len({item["filter"] for item in document["steps"]})
    return max(1180 - 120 * filters, 320) / _HEIGHT


def tiles_of(mosaics: Sequence[Mapping[str, Any]], aspect: float) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Rectangles of the tiles of all mosaics, which are arranged in a grid, and their titles."""
    shapes = [tuple(max(value, 1) for value in mosaic["shape"]) for mosaic in mosaics]
    height = max((_FILLED * ny / max(nx, ny) for nx, ny in shapes), default=1.0) + _TITLE
    columns = min(
        range(1, len(mosaics) + 1), default=1, key=lambda number: _misfit(number, len(mosaics), height, aspect)
    )
    rects: list[tuple[Any, ...]] = []
    labels: list[tuple[Any, ...]] = []
    for number, (mosaic, (nx, ny)) in enumerate(zip(mosaics, shapes, strict=True)):
        x, y, scale = number % columns, -(number // columns) * height, _FILLED / max(nx, ny)
        for x0, y0, x1, y1, name, state, color in _blocks(mosaic, nx, ny):
            rects.append((x + ((x0 + x1) / 2 - nx / 2) * scale, y + ((y0 + y1) / 2 - ny) * scale,
                          (x1 - x0) * scale, (y1 - y0) * scale, color, name, state))  # fmt: skip
        labels.append((x, y + 0.02, f"{mosaic['filter']}  {mosaic['done']} of {mosaic['total']} tiles"))
    if not mosaics:
        labels.append((0.0, 0.0, "tiles appear once a mosaic is aligned"))
    names = ("x", "y", "w", "h", "color", "tile", "state")
    return (dict(zip(names, _columns(rects, 7), strict=True)),
            dict(zip(("x", "y", "text"), _columns(labels, 3), strict=True)))  # fmt: skip


def _misfit(columns: int, count: int, height: float, aspect: float) -> float:
    """Difference between the aspect ratio of a grid with so many columns and that of the figure."""
    return abs(math.log(columns / (math.ceil(count / columns) * height) / aspect))


def _blocks(mosaic: Mapping[str, Any], nx: int, ny: int) -> list[tuple[Any, ...]]:
    """Boxes of tiles [pixels] with name, state and colour; with too many tiles, of blocks of tiles."""
    side, tiles = mosaic["side"], mosaic["tiles"]
    step = 1
    while len(tiles) / step**2 > MAX_CELLS:
        step += 1
    groups: dict[tuple[int, int], list[tuple[int, int, str]]] = {}
    for ix, iy, state in tiles:
        groups.setdefault((ix // step, iy // step), []).append((ix, iy, state))
    blocks = []
    for members in groups.values():
        x0, y0 = min(ix for ix, _, _ in members) * side, min(iy for _, iy, _ in members) * side
        x1, y1 = (max(ix for ix, _, _ in members) + 1) * side, (max(iy for _, iy, _ in members) + 1) * side
        name = f"x{members[0][0]:03d}y{members[0][1]:03d}" + (f" and {len(members) - 1} more" if members[1:] else "")
        states = {state for _, _, state in members}
        state = next(word for word in ("failed", "skipped", "running", "waiting", "done", "reused") if word in states)
        blocks.append((x0, y0, min(x1, nx), min(y1, ny), name, state, TILE_COLORS[state]))
    return blocks


def steps_line(ends: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Corners of a step line: each value holds from the previous end to its own."""
    x, y, start = [], [], 0.0
    for end, value in zip(ends, values, strict=True):
        x += [start, end]
        y += [value, value]
        start = end
    return x, y


def spans_of(rows: Sequence[Mapping[str, Any]], scale: float) -> tuple[dict[str, list[Any]], dict[float, str]]:
    """A bar for each step and filter that has run, and the positions of the filters' names on the axis."""
    bars: list[tuple[Any, ...]] = []
    ticks: dict[float, str] = {}
    y = 0.0
    for name in sorted({item["filter"] for item in rows}):
        ran = sorted((item for item in rows if item["filter"] == name and item["start_seconds"] is not None),
                     key=lambda item: item["start_seconds"])  # fmt: skip
        if not ran:
            continue
        height = max(len(ran), LEAST_ROWS)
        ticks[y + (height - 1) / 2] = name or "any filter"
        y += (height - len(ran)) / 2
        for item in ran:
            bars.append((y, item["start_seconds"] / scale, item["stop_seconds"] / scale, color_of(item["step"]),
                         item["step"], name, span_text(item)))  # fmt: skip
            y += 1.0
        y += 1.0 + (height - len(ran)) / 2
    names = ("y", "left", "right", "color", "step", "filter", "text")
    return dict(zip(names, _columns(bars, len(names)), strict=True)), ticks


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    return [list(values) for values in zip(*rows, strict=True)] if rows else [[] for _ in range(count)]


def _unit(seconds: float) -> tuple[float, str]:
    """Unit of a time axis of this length: its size [s] and its name."""
    if seconds < 300:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def _figure(title: str, **settings: Any) -> Any:
    plot = figure(title=title, tools="pan,wheel_zoom,reset", toolbar_location=None, sizing_mode="stretch_width",
                  background_fill_color="#ffffff", border_fill_color="#fafafa", outline_line_color=_GRID,
                  **settings)  # fmt: skip
    plot.title.text_font_size, plot.title.text_color = "14px", "#343a40"
    plot.grid.grid_line_color = _GRID
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = "#adb5bd"
    plot.axis.minor_tick_line_color = None
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_color = plot.axis.major_label_text_color = _TEXT
    return plot


def live(document: Callable[[str], Mapping[str, Any]]) -> Callable[..., None]:
    """A page of dask's dashboard that is updated every second."""

    def survey_doc(_scheduler: Any, extra: Mapping[str, Any], doc: Any) -> None:
        from distributed.dashboard.components.scheduler import BOKEH_THEME, env

        wanted = doc.session_context.request.arguments.get("run", [b""])[0].decode("ascii", "replace")
        page = Page()
        page.show(document(wanted))
        doc.title = "Survey"
        doc.add_root(page.root)
        doc.template = env.from_string(_TEMPLATE)
        doc.template_variables.update(extra)
        doc.theme = BOKEH_THEME
        doc.add_periodic_callback(lambda: page.show(document(wanted)), REFRESH_MILLISECONDS)

    return survey_doc


def standalone(document: Mapping[str, Any]) -> str:
    """The page as one HTML file, scripts included."""
    page = Page()
    page.show(document)
    return file_html(page.root, INLINE, title=html.escape(f"Survey {document.get('survey', '')}"))
