"""The tree of errors: its exit codes, and the way from a child process to its parent."""

from __future__ import annotations

import pickle
import re

import pytest

from survey import errors


def _classes():
    return [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.SurveyError)]


def test_the_picture_in_the_docstring_is_true():
    drawn = dict(re.findall(r"^ *(\w+Error) +(?:exit code )?(\d+)", errors.__doc__, re.MULTILINE))
    assert {item.__name__: item.exit_code for item in _classes()} == {name: int(code) for name, code in drawn.items()}


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError(["first fault", "second fault"]),
        errors.ProductNameError("odd"),
        errors.DownloadError({"b": "404", "a": "reset"}),
        errors.TaskError("killed", retry="memory"),
        errors.ServiceUnreachableError("silent"),
        errors.DiskFullError("full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_messages_hold_every_fault():
    assert errors.ConfigError(["one", "two"]).faults == ["one", "two"]
    assert errors.ConfigError("one").faults == ["one"]
    error = errors.DownloadError({"b": "404", "a": "reset"})
    assert str(error).splitlines() == ["2 file(s) could not be fetched:", "a: reset", "b: 404"]
