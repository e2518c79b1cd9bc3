"""Which tasks of a plan are run: all of them, or those up to the last step that the user wants."""

from __future__ import annotations

from collections.abc import Container

from survey.errors import ConfigError
from survey.models import Plan, Task
from survey.steps.registry import LAST_OF_FIRST_PASS, mosaic_steps, row_named


def steps_until(made: Plan, until: str | None) -> tuple[str, ...]:
    """Names of a plan's steps in order, up to ``until``; all of them when it is None. Steps after an alignment are
    among them, also when their tasks are not known yet.

    In two passes the first is one entry, by the name of its last step, before the source mask. `is_selected` tells
    which tasks belong to the names.

    Raises
    ------
    ConfigError
        The plan has no such step.
    """
    planned = dict.fromkeys(task.step for task in made if not task.first_pass)
    engine = next((row_named(name).engine for name in planned if row_named(name).engine), "")
    added = mosaic_steps(engine) if engine else ()
    names = [name for name in planned if name not in added]
    mask = next((name for name in names if row_named(name).masks), None)
    if mask is not None:
        names.insert(names.index(mask), LAST_OF_FIRST_PASS)
    names += added
    if until is None:
        return tuple(names)
    if until not in names:
        raise ConfigError(f"--until {until}: the plan has no such step; its steps are {', '.join(names)}.")
    return tuple(names[: names.index(until) + 1])


def keys_from(made: Plan, step: str) -> tuple[str, ...]:
    """Keys of the tasks of a step and of all later steps, of both passes."""
    names = [name for name in steps_until(made, None) if name != LAST_OF_FIRST_PASS]
    later = names[names.index(step) :] if step in names else []
    return tuple(task.key for task in made if task.step in later)


def is_selected(task: Task, names: Container[str]) -> bool:
    """Whether a task belongs to steps that `steps_until` named."""
    return (LAST_OF_FIRST_PASS if task.first_pass else task.step) in names
