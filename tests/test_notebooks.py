"""The notebooks: committed with their pictures, and run once more on a small finished run."""

from __future__ import annotations

import ast
import base64
import importlib.metadata
import json
import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import survey

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 1_500_000
PICTURES = {"1": 4, "2": 2, "3": 3, "4": 4}  # number in the name -> pictures that it draws


def cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(notebook):
    return "\n".join("".join(cell["source"]) for cell in cells(notebook)).replace("%matplotlib", "# %matplotlib")


def pictures(notebook):
    found = [item.get("data", {}).get("image/png") for cell in cells(notebook) for item in cell["outputs"]]
    return [base64.b64decode(text) for text in found if text]


def test_there_are_four():
    assert [path.name[:2] for path in NOTEBOOKS] == ["1-", "2-", "3-", "4-"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_committed_as_it_ran_once_from_top_to_bottom(path):
    notebook = json.loads(path.read_text())
    assert path.stat().st_size < MAX_BYTES
    assert [cell["execution_count"] for cell in cells(notebook)] == list(range(1, len(cells(notebook)) + 1))
    outputs = [item for cell in cells(notebook) for item in cell["outputs"]]
    assert {item["output_type"] for item in outputs} <= {"stream", "display_data", "execute_result"}
    assert [item for item in outputs if item.get("name") == "stderr"] == []
    images = pictures(notebook)
    assert len(images) == PICTURES[path.name[0]]
    assert all(image.startswith(b"\x89PNG") and len(image) > 5_000 for image in images)
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", json.dumps(notebook))


def assert_a_failure_is_shown(notebook):
    """A failed task with its class and cause, what was skipped for it, and looks at the run while it went on."""
    shown = "\n".join(
        "".join(item.get("text", "")) + "".join(item.get("data", {}).get("text/plain", ""))
        for cell in cells(notebook)
        for item in cell["outputs"]
    )
    assert re.search(r"detector1/jw\S+ +failed +never", shown)
    assert "never changes" in shown and re.search(r"image2/jw\S+ +skipped", shown) and "not run, because" in shown
    looks = re.search(r"(\d+) looks at the page, the last one before the end: {'total': (\d+)", shown)
    assert int(looks[1]) >= 2 and int(looks[2]) >= 6


def test_a_failure_and_a_run_under_way_are_shown():
    assert_a_failure_is_shown(json.loads(NOTEBOOKS[2].read_text()))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_public_names_alone(path):
    tree = ast.parse(source(json.loads(path.read_text())))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("survey")
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("survey.") for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "survey":
            assert node.attr in survey.__all__


def brought_by(*requirements):
    """Names of all distributions that an installation of these brings."""
    found, waiting = set(), [Requirement(text) for text in requirements]
    while waiting:
        item = waiting.pop()
        name = canonicalize_name(item.name)
        for text in importlib.metadata.requires(name) or [] if name not in found else []:
            behind = Requirement(text)
            if behind.marker is None or any(behind.marker.evaluate({"extra": one}) for one in ("", *item.extras)):
                waiting.append(behind)
        found.add(name)
    return found


def test_the_extra_brings_what_they_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = brought_by(*project["dependencies"], *project["optional-dependencies"]["notebooks"])
    owners = importlib.metadata.packages_distributions()
    for path in NOTEBOOKS:
        nodes = list(ast.walk(ast.parse(source(json.loads(path.read_text())))))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        roots = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"survey"}
        lacking = [root for root in sorted(roots) if not {canonicalize_name(name) for name in owners[root]} & brought]
        assert lacking == [], path.name


@pytest.mark.whole
@pytest.mark.xdist_group("whole")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_runs_on_any_finished_run(path, finished, monkeypatch):
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    config, _ = finished
    monkeypatch.setenv("SURVEY_CONFIG", str(config))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    private = Config()  # sockets in a folder of one's own, which nobody else can reach
    private.KernelManager.transport = "ipc"
    notebook = nbformat.read(path, as_version=4)
    for cell in cells(notebook):
        cell["outputs"] = []
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    with tempfile.TemporaryDirectory() as folder:  # a short path: sockets take 107 bytes
        private.KernelManager.ip = f"{folder}/kernel"
        NotebookClient(notebook, config=private, timeout=300, kernel_name="python3", resources=resources).execute()
    assert len(pictures(notebook)) == PICTURES[path.name[0]]
    if path == NOTEBOOKS[2]:
        assert_a_failure_is_shown(notebook)
