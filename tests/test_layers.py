"""The walls of the house: who may import whom, what may be imported at a module's top, and how long a module may be."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "lines.py"
_SPEC = importlib.util.spec_from_file_location("lines", _SCRIPT)
lines = importlib.util.module_from_spec(_SPEC)
sys.modules["lines"] = lines  # dataclasses look their module up
_SPEC.loader.exec_module(lines)

MAX_LINES = 400
# They take seconds to import; a module that the command line loads must not have them at its top.
HEAVY = {"jwst", "crds", "pysiaf", "astroquery", "stdatamodels", "gwcs", "stcal", "stpipe", "tweakwcs", "drizzle"}
MAY_BE_HEAVY = {"corrections", "simulate"}
DASK_ROOMS = {"graph", "cluster", "batch", "scripts", "workers", "retirement", "dashboard"}


@pytest.fixture(scope="module")
def modules():
    return lines.read_modules()


def test_imports_go_up_the_layers(modules):
    assert lines.layer_faults(modules) == []


def test_no_import_cycle(modules):
    assert lines.find_cycle(lines.links(modules)) == []


def test_dask_stays_in_its_rooms(modules):
    faults = [
        f"{module.path}:{item.line}"
        for module in modules.values()
        for item in module.imports
        if item.target.split(".")[0] in ("dask", "distributed", "dask_jobqueue", "dask_kubernetes")
        and module.room not in DASK_ROOMS
    ]
    assert faults == []


def test_heavy_packages_are_imported_inside_functions(modules):
    faults = [
        f"{module.path}:{item.line}: {item.target}"
        for module in modules.values()
        for item in module.imports
        if item.top and item.target.split(".")[0] in HEAVY and module.room not in MAY_BE_HEAVY
    ]
    assert faults == []


def test_rooms_that_may_be_heavy_are_entered_through_functions(modules):
    """A top-level import of a correction or of the simulator would bring the pipeline along."""
    heavy = {
        name
        for name, module in modules.items()
        if any(item.top and item.target.split(".")[0] in HEAVY for item in module.imports)
    }
    faults = [
        f"{module.path}:{item.line}: {item.target}"
        for module in modules.values()
        for item in module.imports
        if item.top and item.target in heavy and module.room not in MAY_BE_HEAVY
    ]
    assert faults == []


def test_modules_are_short(modules):
    for module in sorted(modules.values(), key=lambda module: -module.lines):
        print(f"{module.lines:5d}  {module.name}")
    assert {module.name: module.lines for module in modules.values() if module.lines > MAX_LINES} == {}


def test_a_cycle_and_a_wrong_direction_are_found(tmp_path):
    """The reader itself: a module pair that imports each other, one of them inside a function."""
    package = tmp_path / "survey"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "names.py").write_text("def f():\n    from survey import cli\n")
    (package / "cli.py").write_text("from .names import f\n")
    (package / "odd.py").write_text("import survey.names\n")
    found = lines.read_modules(tmp_path)
    assert lines.find_cycle(lines.links(found)) == ["survey.cli", "survey.names", "survey.cli"]
    faults = "\n".join(lines.layer_faults(found))
    assert "names.py:2: names imports cli" in faults
    assert "'odd' is in no layer" in faults
    assert len(faults.splitlines()) == 2
