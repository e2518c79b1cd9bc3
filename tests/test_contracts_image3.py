"""Steps and branches of the installed Image3 against those that docs/explanation/image3-branches.md lists.

The page says what the tiled engine does in place of each, and which test compares the two. A step or branch that the
installed pipeline gains or loses fails here.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "explanation" / "image3-branches.md").read_text()
PIPELINE = "jwst.pipeline.calwebb_image3:Image3Pipeline"
SAYS = ("not reached", "the step itself", "the method itself", "the same class", "an error in both", "always")


def tables() -> dict[str, list[tuple[str, str, str]]]:
    """Function -> rows: branch, what the tiled engine does, test."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for section in PAGE.split("\n## ")[1:]:
        path = re.search(r"^`([\w.]+:[\w.]+)`", section.partition("\n\n")[2])
        assert path is not None, section[:80]
        rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (?:`(\w+)`)? ?\|$", section, re.MULTILINE)
        found[path[1]] = rows
    return found


TABLES = tables()


def function(path: str):
    module, _, names = path.partition(":")
    found = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def tree(path: str) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function(path))))


def branches(path: str) -> set[str]:
    """Conditions of all branches of a function, and the errors that it handles."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.If | ast.While):
            found.add(ast.unparse(node.test))
        elif isinstance(node, ast.ExceptHandler):
            found.add(f"except {ast.unparse(node.type) if node.type else ''}".strip())
        elif isinstance(node, ast.Match):
            found.add(f"match {ast.unparse(node.subject)}")
    return found


def calls(path: str) -> list[str]:
    """Steps that a pipeline's method runs, in the order of the source."""
    found = [
        (node.lineno, node.func.value.attr)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "run"
        and isinstance(node.func.value, ast.Attribute) and ast.unparse(node.func.value.value) == "self"
    ]  # fmt: skip
    return [name for _, name in sorted(found)]


def test_the_pages_steps_are_those_of_the_pipeline():
    from jwst.pipeline.calwebb_image3 import Image3Pipeline

    listed = re.findall(r"^\| `(\w+)` \|", PAGE.partition("\n## ")[0], re.MULTILINE)
    assert listed == list(Image3Pipeline.step_defs), "Image3 has other steps, or another order"
    # skymatch is called in two branches, of which one is not reached.
    order = ["assign_mtwcs", "tweakreg", "skymatch", "outlier_detection", "skymatch", "resample", "source_catalog"]
    assert calls(f"{PIPELINE}.process") == order, "Image3 runs its steps otherwise"


def test_the_page_has_each_steps_own_code():
    """The code that Image3 runs for a step is listed; a step of another class would have other branches."""
    from jwst.pipeline.calwebb_image3 import Image3Pipeline

    for name, step in Image3Pipeline.step_defs.items():
        path = f"{step.__module__}:{step.__name__}.process"
        assert path in TABLES, f"{name}: the page does not list {path}"


@pytest.mark.parametrize("path", TABLES)
def test_every_branch_is_listed(path):
    listed = {row[0] for row in TABLES[path]}
    there = branches(path)
    assert there == listed, f"not on the page: {sorted(there - listed)}; no longer there: {sorted(listed - there)}"


@pytest.mark.parametrize("path", TABLES)
def test_every_branch_has_a_test_or_cannot_differ(path):
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    for branch, does, name in TABLES[path]:
        if name:
            assert f"def {name}(" in tests, f"{branch}: there is no test {name}"
        else:
            assert does.startswith((*SAYS, "catalogues")), f"{branch}: {does}: no test compares it"


def test_a_step_or_branch_more_is_noticed(monkeypatch):
    """The comparison is of the code as it is installed."""
    from jwst.pipeline.calwebb_image3 import Image3Pipeline

    source = inspect.getsource(Image3Pipeline.process)
    added = "if self.denoise.skip:\n            pass\n        input_models = self.denoise.run(input_models)\n        "
    more = source.replace("result = self.resample.run", f"{added}result = self.resample.run")
    assert more != source
    monkeypatch.setattr(inspect, "getsource", lambda _function: more)
    assert branches(f"{PIPELINE}.process") - {row[0] for row in TABLES[f"{PIPELINE}.process"]} == {"self.denoise.skip"}
    assert "denoise" in calls(f"{PIPELINE}.process")


def test_what_is_read_of_an_association_is_what_is_handed_on():
    """Attributes of members and keys of associations that the installed pipeline reads."""
    from jwst.datamodels import ModelLibrary
    from jwst.tweakreg.tweakreg_step import TweakRegStep
    from stpipe.library import AbstractModelLibrary

    from survey.mosaics.association_files import READ_ATTRIBUTES, READ_KEYS

    members, keys = set(), set()
    sources = [inspect.getsource(item) for item in (ModelLibrary, AbstractModelLibrary, TweakRegStep)]
    for source in sources:
        for node in ast.walk(ast.parse(textwrap.dedent(source))):
            where, name = None, None
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                where, name = ast.unparse(node.value), node.slice.value
            elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):
                where, name = ast.unparse(node.comparators[0]), node.left.value
            elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple) and ast.unparse(node.target) == "attr":
                members |= {item.value for item in node.iter.elts}
            if where in ("member", "m"):
                members.add(name)
            elif where in ("self.asn", "self.asn.keys()", "self._asn", "asn_data"):
                keys.add(name)
    assert members == set(READ_ATTRIBUTES), "the pipeline reads other attributes of members"
    assert keys | {"asn_id"} == set(READ_KEYS), "the pipeline reads other keys of associations"
