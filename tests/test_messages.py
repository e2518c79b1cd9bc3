"""Values from outside in messages."""

from __future__ import annotations

import pytest

from survey.messages import MAX_SHOWN, did_you_mean, nearest, shown, unquoted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "'a b'"),
        ("José", "'José'"),
        ("\x1b[2J\n", "'\\x1b[2J\\n'"),
        ("\u202egnp", "'\\u202egnp'"),  # turns the direction of writing
        (b"\xff", "b'\\xff'"),
        (1.5, "1.5"),
        (None, "None"),
        ({"a": ["x", 2]}, "{'a': ['x', 2]}"),
    ],
)
def test_a_value_is_written_as_python_does(value, text):
    assert shown(value) == text


def test_a_letter_that_looks_like_an_ascii_one_can_be_seen():
    assert shown("r\u0430te") == "'r\u0430te'"
    assert shown("r\u0430te", ascii_only=True) == "'r\\u0430te'"
    assert len(shown("\u0430" * 1000, ascii_only=True)) == MAX_SHOWN


@pytest.mark.parametrize("value", ["x" * 10**7, ["x" * 100] * 10**5, 10**400, {str(n): "y" * 50 for n in range(99)}])
def test_a_value_is_short(value):
    assert len(shown(value)) <= MAX_SHOWN
    assert "..." in shown(value)


def test_a_long_text_keeps_its_start_and_its_end():
    text = shown("start" + "x" * 1000 + "end")
    assert text.startswith("'startxx") and text.endswith("xxend'")


def test_a_deep_value_is_no_recursion_error():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "[[[[[[[...]]]]]]]"


@pytest.mark.parametrize(
    ("name", "text"), [("jump", "jump"), ("with space", "with space"), ("a\nb", "'a\\nb'"), (3, "3"), (None, "None")]
)
def test_a_plain_name_has_no_quotes(name, text):
    assert unquoted(name) == text
    assert unquoted("x" * 500) == shown("x" * 500)


def test_the_known_name_that_is_closest():
    assert did_you_mean("F20W", ["F200W", "F444W"]) == "; did you mean 'F200W'?"
    assert did_you_mean("zzz", ["F200W"]) == ""
    assert nearest("F20W", ["F200W", "F444W"]) == "; did you mean 'F200W'?"
    assert nearest("zzz", [str(number) for number in range(10, 40)]) == (
        "; known: 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21."
    )
