"""Digests: known answers, what must not change them and what must."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survey.digest import canonical_json, digest, file_sha1, file_sha256, tree_sha256

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def test_known_answer():
    text = '{"a":[1,2.5,null,true],"b":"\\u00e5"}'
    assert canonical_json({"b": "\u00e5", "a": (1.0, 2.5, None, True)}) == text
    assert digest({"b": "\u00e5", "a": [1, 2.5, None, True]}) == hashlib.sha256(text.encode()).hexdigest()
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # sha256 of '{}'


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(), _JSON, max_size=5))
def test_key_order_does_not_count(value):
    assert digest(dict(reversed(value.items()))) == digest(value)


def test_what_differs_differs():
    values = [None, True, 1, 0, "1", "", [], {}, [[]], [1], 1.5, {"a": 1}, {"a": None}, {"b": 1}, -1, "true"]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(4) == digest(4.0)


@pytest.mark.parametrize("bad", [object(), {1: 2}, b"x", {"a": {2}}])
def test_other_types_are_refused(bad):
    with pytest.raises(TypeError):
        digest(bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [-float("inf")]])
def test_numbers_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        digest(bad)


def test_hashes_of_files(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_sha1(path) == "a9993e364706816aba3e25717850c26c9cd0d89d"  # FIPS 180's own example
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name, content in {"zarr.json": "{}", "sci/zarr.json": "[]", "sci/c/0/0": "pixels"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_hash_of_a_tree(tree):
    rows = [("sci/c/0/0", b"pixels"), ("sci/zarr.json", b"[]"), ("zarr.json", b"{}")]
    text = "".join(f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in rows)
    assert tree_sha256(tree) == (hashlib.sha256(text.encode()).hexdigest(), 10)


def test_a_copy_of_a_tree_is_equal(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "zarr.json", (0, 0))
    (tmp_path / "copy" / "empty").mkdir()
    assert tree_sha256(tmp_path / "copy") == tree_sha256(tree)


@pytest.mark.parametrize("change", ["content", "name", "more", "less"])
def test_any_change_of_a_tree_shows(tree, change):
    before = tree_sha256(tree)
    if change == "content":
        (tree / "sci" / "c" / "0" / "0").write_text("pixelz")
    elif change == "name":
        (tree / "sci" / "c" / "0" / "0").rename(tree / "sci" / "c" / "0" / "1")
    elif change == "more":
        (tree / "new").write_text("")
    else:
        (tree / "zarr.json").unlink()
    assert tree_sha256(tree) != before


def test_links_and_missing_trees_are_refused(tree):
    (tree / "link").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="must not hold links"):
        tree_sha256(tree)
    with pytest.raises(FileNotFoundError):
        tree_sha256(tree / "none")
