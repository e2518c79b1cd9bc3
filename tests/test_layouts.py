"""Layouts in a workspace: what is there is read, what is none is passed over."""

from __future__ import annotations

import json

import pytest

from survey.mosaics.grid import Box
from survey.mosaics.layouts import Layout, Member, read_layout, read_layouts

LAYOUT = Layout((9, 8), (9, 8), True, (Member("a", 0, Box(0, 0, 8, 9), None),), "d")


def write(root, product, text):
    (root / "stage3").mkdir(exist_ok=True)
    (root / "stage3" / f"{product}_layout.json").write_text(text)


def test_a_layout_is_read_by_its_product(tmp_path):
    write(tmp_path, "p", json.dumps(LAYOUT.to_json()))
    assert read_layout(tmp_path, "p") == LAYOUT
    assert read_layouts(tmp_path, ["p", "q"]) == {"p": LAYOUT}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"members": [{"name": "a"}]}'])
def test_what_is_no_layout_is_none(tmp_path, text):
    write(tmp_path, "p", text)
    assert read_layout(tmp_path, "p") is None


def test_a_layout_that_lacks_a_part_is_none(tmp_path):
    whole = LAYOUT.to_json()
    for name in whole:
        write(tmp_path, "p", json.dumps({key: value for key, value in whole.items() if key != name}))
        assert read_layout(tmp_path, "p") is None, name


@pytest.mark.parametrize("odd", ["a", 1.5, True, None, [1], 10**12, -(10**12)])
@pytest.mark.parametrize("part", ["x0", "y1", "outlier_shape", "final_shape"])
def test_a_layout_of_odd_edges_is_none(tmp_path, part, odd):
    data = json.loads(json.dumps(LAYOUT.to_json()))
    (data if part in data else data["members"][0]["outlier"])[part] = [odd, 8] if part in data else odd
    write(tmp_path, "p", json.dumps(data))
    assert read_layout(tmp_path, "p") is None


def test_without_a_workspace_there_is_none(tmp_path):
    assert read_layout(tmp_path, "p") is None and read_layouts(tmp_path, []) == {}
