"""Memory estimates, corrected by what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stub_steps import exposure

from survey.execution.task import blank_record
from survey.models import COMPLETE, FAILED, Task
from survey.planning.memory import ENOUGH, FACTORS, LEAST_GB, SAFETY, Memory, learn


def task(number: int, step: str = "sky") -> Task:
    name = exposure(number).name
    return Task(f"{step}/{name}", step, name, "F200W", {}, memory_gb=2.0, estimate_gb=2.0)


def measured(number: int, peak_gb: float, status: str = COMPLETE):
    return replace(blank_record(task(number)), status=status, peak_memory_gb=peak_gb)


def test_without_records_estimates_stand():
    assert learn([]).corrected(task(1)) == 2.0
    assert Memory().corrected(replace(task(1), memory_gb=0.01)) == LEAST_GB


def test_a_task_that_ran_asks_for_what_it_took():
    assert learn([measured(1, 3.0)]).corrected(task(1)) == pytest.approx(3.0 * SAFETY)
    assert learn([measured(1, 3.0, FAILED)]).corrected(task(1)) == 2.0


def test_the_others_of_a_step_follow_its_largest_ratio_once_enough_ran():
    few = [measured(number, 1.0) for number in range(1, ENOUGH)]
    assert learn(few).corrected(task(9)) == 2.0
    memory = learn([*few, measured(ENOUGH, 1.5)])
    assert memory.corrected(task(9)) == pytest.approx(2.0 * SAFETY * 0.75)
    assert memory.corrected(task(9, "pixmap")) == 2.0


@pytest.mark.parametrize(("peak_gb", "factor"), [(0.001, FACTORS[0]), (1000.0, FACTORS[1])])
def test_odd_measurements_are_bounded(peak_gb, factor):
    memory = learn([measured(number, peak_gb) for number in range(ENOUGH)])
    assert memory.corrected(task(9)) == pytest.approx(2.0 * factor)
