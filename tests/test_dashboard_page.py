"""The survey page's markup, tiles and figures: escaped, complete, and nothing from elsewhere."""

from __future__ import annotations

import html
import re
import time

import pytest
from browser import browser, found

from survey.dashboard.document import run_document
from survey.dashboard.markup import OTHER, color_of, failures_table, headline, matrix
from survey.dashboard.page import MAX_CELLS, Page, spans_of, standalone, steps_line, tiles_of
from survey.dashboard.report import joined
from survey.dashboard.state import RunState
from survey.steps.registry import REGISTRY

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"


def document(name="egs", error="ValueError: bad", tiles=((0, 0), (1, 0))):
    facts = {"run": "r1", "survey": name, "program": 1345, "context": name, "began": 1000.0, "exposures": 2,
             "last_step": "image2", "totals": [["detector1", name, 2, 2.0], ["image2", name, 2, 2.0]],
             "products": []}  # fmt: skip
    state = RunState.begin(facts)
    state.lay_out({"product": name, "filter": name, "totals": [], "shape": [200, 100], "side": 100,
                   "step": "drizzle", "tiles": [[ix, iy, f"{ix}{iy}"] for ix, iy in tiles]})  # fmt: skip
    state.update([
        ["detector1", name, "", "done", 1.0, 1.0, 2.0, "", "", 1005.0],
        ["detector1", name, name, "failed", 1.0, 0.0, 2.0, error, error, 1006.0],
        ["image2", name, name, "skipped", 0.0, 0.0, 1.0, f"not run, because {error}", "", 1006.0],
        [name, name, name, "done", 1.0, 1.0, 2.0, "", "", 1007.0],
    ])  # fmt: skip
    return run_document(state, 1010.0, {})


@pytest.mark.parametrize("part", [headline, matrix, failures_table])
def test_names_and_errors_are_text_in_the_markup(part):
    text = part(document(EVIL, EVIL))
    assert "<script" not in text and "<img" not in text
    assert html.escape(EVIL) in text


def test_a_page_that_stands_alone_asks_nobody_and_holds_no_markup_of_records():
    text = standalone(document(EVIL, EVIL))
    assert "<script>alert" not in text and "<img src=x" not in text
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+", text) == []
    assert "egs" in standalone(document())


def test_every_step_has_a_colour_of_its_own():
    together = [color_of(name) for name, step in REGISTRY.items() if step.engine != "stock"]
    assert len(set(together)) == len(together) and OTHER not in together
    assert color_of("of another version") == OTHER


def test_what_is_not_there_is_said():
    assert "No survey has run here yet" in headline({"runs": []})
    assert "none" in failures_table({"failures": [], "skipped_because": [], "failures_not_listed": 0})
    page = Page()
    page.show({"runs": []})
    assert "tiles appear" in tiles_of([], 1.4)[1]["text"][0]


def test_a_page_shows_one_document_and_then_another():
    page = Page()
    page.show(document())
    assert page.tiles.data["state"] == ["waiting", "waiting"] and page.labels.data["text"] == ["egs  0 of 2 tiles"]
    assert "1 failed" in page.matrix.text and "ValueError: bad" in page.failures.text
    assert page.memory.data["x"] == [2.0, 2.0] and page.spans.data["filter"] == ["egs", "egs"]
    page.show(document(tiles=((0, 0),)))
    assert page.tiles.data["state"] == ["waiting"]


def test_tiles_keep_their_shape_and_do_not_overlap():
    mosaic = {"filter": "F", "shape": [500, 300], "side": 200, "done": 0, "total": 6,
              "tiles": [[ix, iy, "done"] for iy in range(2) for ix in range(3)]}  # fmt: skip
    rects, labels = tiles_of([mosaic] * 5, 1.4)
    assert len(rects["x"]) == 30 and len(labels["text"]) == 5
    assert rects["w"][0] / rects["h"][0] == pytest.approx(1.0)
    assert rects["w"][2] / rects["w"][0] == pytest.approx(0.5)  # 100 of 200 pixels: the last column
    boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2)
             for x, y, w, h in zip(*(rects[name] for name in "xywh"), strict=True)]  # fmt: skip
    for number, a in enumerate(boxes):
        for b in boxes[:number]:
            assert min(a[2], b[2]) - max(a[0], b[0]) < 1e-9 or min(a[3], b[3]) - max(a[1], b[1]) < 1e-9


def test_many_tiles_are_drawn_as_blocks_and_a_failure_shows():
    tiles = [[ix, iy, "failed" if (ix, iy) == (77, 33) else "done"] for iy in range(130) for ix in range(130)]
    mosaic = {"filter": "F", "shape": [13_000, 13_000], "side": 100, "done": 0, "total": len(tiles), "tiles": tiles}
    rects, _ = tiles_of([mosaic], 1.4)
    assert len(rects["x"]) <= 1.1 * MAX_CELLS
    assert rects["state"].count("failed") == 1


def test_lines_and_spans():
    assert steps_line([1.0, 3.0], [5.0, 7.0]) == ([0.0, 1.0, 1.0, 3.0], [5.0, 5.0, 7.0, 7.0])
    rows = document()["steps"]
    found, ticks = spans_of(rows, 60.0)
    assert found["right"][0] == pytest.approx(5.0 / 60) and list(ticks.values()) == ["egs"]


def test_a_report_is_two_documents_in_one_without_source_folders():
    page = '<p title="a & b">page</p>'
    text = joined(page, "at /home/me/.venv/lib/python3.11/site-packages/survey/execute.py line 3, /data/run_1/x.pyx")
    assert html.escape(page) in text
    assert "at execute.py line 3, x.pyx" in text
    assert "/home/me" not in text and "/data" not in text


@pytest.mark.slow
@pytest.mark.skipif(found() is None, reason="no browser: install Debian's chromium (apt-get install chromium)")
def test_a_browser_takes_names_and_errors_for_text(tmp_path):
    evil = "<script>window.harmed = true</script><img src=x onerror='window.harmed = true'>"
    (tmp_path / "page.html").write_text(standalone(document(evil, evil)))
    with browser() as page:
        page.visit((tmp_path / "page.html").as_uri())
        text = ""
        for _ in range(100):
            text = page.text()
            if "Failures" in text:
                break
            time.sleep(0.2)
        harmed = page.evaluate("window.harmed === true")
    assert evil in text and not harmed and page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "about:"))] == []
