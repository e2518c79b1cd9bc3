"""What is known of other people's steps: asked of a child process that imports them, and kept.

The import takes 5 to 15 s, so answers are kept in the user's cache folder, for the versions and files that they are
of. Only a class that can be used is kept; what failed is tried again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from survey.config.code_versions import code_versions
from survey.config.pipeline_spec import StepSpec
from survey.config.step_names import full_name
from survey.digest import digest
from survey.isolation import isolated
from survey.messages import shown
from survey.workspace.files import write_file

LIMIT_SECONDS = 300.0  # for the import of all that a config names: 8 s, or a minute on a busy machine
MAX_SHOWN = 600  # characters of a cause
NOT_INSTALLED = "is not installed"  # ends what the child says of a package that it does not find
_FORMAT = 1
_CONTAINERS = {"ModelContainer", "ModelLibrary"}
_RAMPS = {"RampModel", "SuperstripeRampModel", "Level1bModel", "GuiderRawModel"}
_PACKAGES = ("jwst", "stpipe", "stdatamodels", "survey")


@dataclass(frozen=True)
class Probe:
    """A Step, pipeline or function of an installed package."""

    path: str  # 'snowblind.jump_plus:JumpPlusStep'
    kind: str  # 'step', 'pipeline' or 'function'
    alias: str = ""
    ancestors: frozenset[str] = frozenset()  # 'module:Class' of all its base classes
    models: frozenset[str] = frozenset()  # data models that its documentation names as input
    combines: bool = False  # it is a step of a pipeline that combines exposures
    hooks: tuple[str, ...] = ()  # classes that a pipeline adds as hooks by itself
    spec: StepSpec | None = None  # of a Step or pipeline

    @property
    def needs_association(self) -> bool:
        """Whether it works on several exposures only."""
        return self.combines or (bool(self.models) and self.models <= _CONTAINERS)

    @property
    def needs_ramp(self) -> bool:
        """Whether it works on ramps only."""
        return bool(self.models) and self.models <= _RAMPS


def probe(name: str) -> Probe:
    """What there is to know about a Step, pipeline or function that a config names.

    Parameters
    ----------
    name : as in `survey.config.step_names.full_name`

    Raises
    ------
    LookupError
        It is not installed, cannot be imported, or is no Step, pipeline or function; the message names the cause.
    """
    full = full_name(name, _listed)
    if full not in _found:
        probe_all([full])
    answer = _found[full]
    if isinstance(answer, Probe):
        return answer
    del _found[full]  # to be asked again: what is missing may be installed meanwhile
    advice = _advice(full) if answer.endswith(NOT_INSTALLED) else "."
    raise LookupError(f"{shown(name)}: {answer[:MAX_SHOWN]}{advice}")


def probe_all(names: Iterable[str]) -> None:
    """Ask about several names in one process, so that packages are imported once; `probe` then answers at once."""
    wanted = []
    for name in dict.fromkeys(names):
        try:
            full = full_name(name, _listed)
        except LookupError:
            continue  # `probe` says so
        if full not in _found:
            wanted.append(full)
    for full in wanted:
        kept = _read(_file(full))
        if kept is not None:
            _found[full] = _found[kept.path] = kept
    missing = [full for full in wanted if full not in _found]
    if missing:
        answers = _ask({"steps": missing, "entry_points": []})["steps"]
        for full in missing:
            answer = answers.get(full, {"error": "the process that imports it gave no answer"})
            if "error" in answer:
                _found[full] = str(answer["error"])
                continue
            _found[full] = made = _probe(answer)
            _found[made.path] = made
            for name in (full, made.path):
                _keep(_file(name), answer)


_found: dict[str, Probe | str] = {}  # full name -> what it is, or why it cannot be used


@cache
def _listed(entry_point: str) -> list[list[Any]]:
    answer = _ask({"steps": [], "entry_points": [entry_point]})["entry_points"].get(entry_point, [])
    if isinstance(answer, dict):
        raise LookupError(answer["error"][:MAX_SHOWN])
    return list(answer)


def _ask(request: Mapping[str, list[str]]) -> dict[str, Any]:
    """The answer of the child process; for one that fails, the cause in place of every answer."""
    command = [sys.executable, "-P", "-m", "survey.config.step_probe"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, errors="replace",
            env=isolated(os.environ), timeout=LIMIT_SECONDS, check=False,
        )  # fmt: skip
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        cause = f"importing it took longer than {LIMIT_SECONDS:.0f} s"
    except (OSError, ValueError):
        tail = done.stderr.strip().splitlines()[-1:] if "done" in locals() else []
        cause = f"the process that imports it ended early: {' '.join(tail)}"
    return {kind: {name: {"error": cause} for name in names} for kind, names in request.items()}


def _advice(full: str) -> str:
    """What to do about a module that is a file of the current folder, from which tasks import nothing."""
    top = full.replace(":", ".").partition(".")[0]
    for here in (Path(f"{top}.py"), Path(top)):
        if top.isidentifier() and here.exists():
            return (
                f". {here} in the current folder is not used: tasks run in processes of their own that import nothing "
                "from it. Install it as a package, or add its folder to PYTHONPATH."
            )
    return "."


def _probe(answer: Mapping[str, Any]) -> Probe:
    spec = answer.get("spec")
    return Probe(
        path=answer["path"],
        kind=answer["kind"],
        alias=answer.get("alias") or "",
        ancestors=frozenset(answer.get("ancestors", ())),
        models=frozenset(answer.get("models", ())),
        combines=answer.get("level") == 3,
        hooks=tuple(answer.get("hooks", ())),
        spec=None if spec is None else _spec(spec),
    )


def _spec(data: Mapping[str, Any]) -> StepSpec:
    path = str(data["path"])
    # CRDS knows parameter files of the pipeline's own classes; another class may use one of those.
    known = path.startswith("jwst.") or data["pars_type"] in _pars_types()
    return StepSpec(
        path=path,
        alias=data["alias"],
        parameters=dict(data["parameters"]),
        reference_types=tuple(data["reference_types"]),
        steps={name: _spec(step) for name, step in data["steps"].items()},
        pars_type=data["pars_type"] if known else "",
        foreign=not path.startswith("jwst."),
    )


@cache
def _pars_types() -> frozenset[str]:
    from survey.config.pipeline_spec import PIPELINES, read_spec

    return frozenset(kind for path in PIPELINES for kind in read_spec(path).pars_types)


def _file(full: str) -> Path:
    """Where the answer for a name is kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    versions = code_versions([full.partition(":")[0], *_PACKAGES])
    return folder / "jwst-survey" / "steps" / f"{digest([_FORMAT, full, sys.executable, sys.version, versions])}.json"


def _read(path: Path) -> Probe | None:
    try:
        return _probe(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(path: Path, answer: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(answer), durable=False)
    except OSError:
        pass  # a folder that cannot be written: it is asked again
