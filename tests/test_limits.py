"""What a task may take."""

from __future__ import annotations

import pytest

from survey.config.limits import Limits
from survey.config.model import SurveyConfig, read_config
from survey.errors import ConfigError


@pytest.mark.parametrize(
    ("hours", "expected", "seconds"),
    [
        (6.0, 1.0, 600.0),  # ten minutes at least
        (6.0, 20.0, 1200.0),  # sixty times the expectation
        (6.0, 3600.0, 6 * 3600.0),  # at most what the config says
        (6.0, 10 * 3600.0, 40 * 3600.0),  # but four times what is expected
        (0.01, 1.0, 36.0),  # a short limit is heeded
    ],
)
def test_wall_clock(hours, expected, seconds):
    assert Limits(task_hours=hours).seconds(expected) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("asked", "largest", "limit"),
    [
        (0.5, 0.0, 2.0),  # 2 GB at least
        (4.0, 0.0, 12.0),
        (4.0, 8.0, 10.0),  # no more than a quarter above what the largest worker has
        (0.5, 1.0, 1.25),
        (4.0, 4.0, 5.0),
        (4.0, 100.0, 12.0),
    ],
)
def test_memory(asked, largest, limit):
    assert Limits().memory_gb(asked, largest) == pytest.approx(limit)


def test_another_try_asks_for_more_than_was_used():
    assert Limits.more_memory(1.0, 0.0) == 2.0
    assert Limits.more_memory(1.0, 1.2) == 2.0
    assert Limits.more_memory(1.0, 3.1) == pytest.approx(4.65)


def test_the_config_sets_them_and_names_what_is_wrong(tmp_path):
    path = tmp_path / "c.yaml"
    text = f"survey: t\nprogram: 1\nworkspace: {tmp_path}\nreferences: {{context: jwst_0001.pmap, cache: {tmp_path}}}\n"
    path.write_text(text)
    assert read_config(path).limits == Limits()
    path.write_text(text + "limits: {task_hours: 0.5, memory_factor: 2.0, workers_minutes: 1}\n")
    config = read_config(path)
    assert isinstance(config, SurveyConfig)
    assert config.limits == Limits(task_hours=0.5, memory_factor=2.0, workers_minutes=1)
    path.write_text(text + "limits: {task_hour: 0, memory_factor: 0.5}\n")
    with pytest.raises(ConfigError) as raised:
        read_config(path)
    assert "task_hours" in str(raised.value)  # the nearest known key
    assert "memory_factor" in str(raised.value)
