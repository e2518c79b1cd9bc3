"""Which finished products were made with other versions, or on other machines, than the rest. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from survey.models import COMPLETE, Task, TaskRecord
from survey.planning.staleness import DONE, State

NOT_SET = "not set"


@dataclass(frozen=True)
class OtherVersion:
    """Tasks that are done, and were done with another version of a package than the installed one."""

    package: str
    made_with: str
    installed: str
    tasks: int

    def __str__(self) -> str:
        return f"{self.package} {self.made_with} (now {self.installed}): {_tasks(self.tasks)}"


@dataclass(frozen=True)
class Kind:
    """Tasks of a mosaic that ran on one kind of machine with the same variables."""

    machine: Mapping[str, str]  # processor, its vector units, linear algebra libraries
    environment: Mapping[str, str]  # variables that may change last bits of pixels
    tasks: int


@dataclass(frozen=True)
class Differences:
    """How the finished products of a survey differ in what made them. Nothing runs again because of it."""

    versions: tuple[OtherVersion, ...] = ()
    machines: Mapping[str, tuple[Kind, ...]] = field(default_factory=dict)  # by mosaic, only those with several kinds

    def to_json(self) -> dict[str, Any]:
        """Both as JSON types: other_versions, machines."""
        kinds = {product: [asdict(kind) for kind in found] for product, found in self.machines.items()}
        return {"other_versions": [asdict(item) for item in self.versions], "machines": kinds}

    def lines(self) -> list[str]:
        """Both as lines of text."""
        return [*(f"made with other versions: {item}" for item in self.versions), *_machine_lines(self.machines)]


def other_versions(records: Iterable[TaskRecord], installed: Mapping[str, str]) -> tuple[OtherVersion, ...]:
    """Compare the versions that finished tasks were done with to the installed ones.

    Parameters
    ----------
    records : of finished tasks; versions that a record does not have are not compared
    installed : version by package
    """
    counts: Counter[tuple[str, str]] = Counter()
    for record in records:
        for package, version in installed.items():
            if record.status == COMPLETE and record.versions.get(package, version) != version:
                counts[package, record.versions[package]] += 1
    return tuple(OtherVersion(*key, installed[key[0]], number) for key, number in sorted(counts.items()))


def machines(tasks: Iterable[Task], records: Mapping[str, TaskRecord]) -> dict[str, tuple[Kind, ...]]:
    """Find mosaics whose tasks ran on different kinds of machines, or with different variables.

    Parameters
    ----------
    tasks : of a plan; those that a mosaic depends on count for it
    records : of finished tasks by key; those without a machine, of earlier versions, are not compared

    Returns
    -------
    kinds : mosaic's product -> the kinds of machines, that of most tasks first; only mosaics with several
    """
    by_key = {task.key: task for task in tasks}
    needs: dict[str, set[str]] = {}
    for task in by_key.values():
        if task.mosaic:
            needs.setdefault(task.mosaic, set()).update((task.key, *task.inputs))
    found = {}
    for product, keys in needs.items():
        kinds = _kinds(records[key] for key in _with_inputs(keys, by_key) if key in records)
        if len(kinds) > 1:
            found[product] = kinds
    return found


def _with_inputs(keys: Iterable[str], tasks: Mapping[str, Task]) -> set[str]:
    """Keys of tasks and of all that they depend on."""
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += tasks[key].inputs if key in tasks else ()
    return found


def _kinds(records: Iterable[TaskRecord]) -> tuple[Kind, ...]:
    made = [record for record in records if record.status == COMPLETE and record.machine]
    # Records of earlier versions do not have it.
    without = () if all("system" in record.machine for record in made) else ("system",)
    counts: Counter[tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]] = Counter()
    for record in made:
        machine = {name: value for name, value in record.machine.items() if name not in without}
        counts[tuple(sorted(machine.items())), tuple(sorted(record.environment.items()))] += 1
    return tuple(Kind(dict(machine), dict(variables), number) for (machine, variables), number in counts.most_common())


def differences(found: Sequence[State], records: Mapping[str, TaskRecord], installed: Mapping[str, str]) -> Differences:
    """Compare the finished tasks of a plan with the installed versions, and with each other.

    Parameters
    ----------
    found : states of a plan's tasks
    records : of earlier runs, by key
    installed : version by package, of those that are recorded and in no digest
    """
    done = {item.task.key: records[item.task.key] for item in found if item.state == DONE}
    return Differences(other_versions(done.values(), installed), machines([item.task for item in found], done))


def _machine_lines(found: Mapping[str, tuple[Kind, ...]]) -> list[str]:
    """What differs between the kinds of machines of each mosaic, and how many tasks ran on each."""
    lines = []
    for product, kinds in found.items():
        lines.append(f"mosaic {product}: made on {len(kinds)} kinds of machines; last bits of pixels may differ")
        facts = [{**kind.machine, **kind.environment} for kind in kinds]
        every = sorted({name for row in facts for name in row})
        names = [name for name in every if len({row.get(name) for row in facts}) > 1]
        for kind, row in zip(kinds, facts, strict=True):
            values = "; ".join(f"{name}: {row.get(name, NOT_SET)}" for name in names)
            lines.append(f"  {_tasks(kind.tasks)}: {values}")
    return lines


def _tasks(number: int) -> str:
    return f"{number} task{'s' if number != 1 else ''}"
