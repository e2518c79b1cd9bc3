"""The structure of the package: which imports are allowed, how long a module may be, and that names in text resolve.

The direction of imports is a contract of import-linter in pyproject.toml, checked by ``make check``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

from survey.execution.children import PRELOAD
from survey.steps.registry import REGISTRY

ROOT = Path(__file__).resolve().parent.parent
_SPEC = importlib.util.spec_from_file_location("lines", ROOT / "benchmarks" / "lines.py")
lines = importlib.util.module_from_spec(_SPEC)
sys.modules["lines"] = lines  # dataclasses look their module up
_SPEC.loader.exec_module(lines)

MAX_LINES = 400
MAX_PARAMETERS = 6
# They take seconds to import; a module that the command line loads must not have them at its top.
HEAVY = {"jwst", "crds", "pysiaf", "astroquery", "stdatamodels", "gwcs", "stcal", "stpipe", "tweakwcs", "drizzle"}
MAY_BE_HEAVY = {"corrections", "simulate"}


@pytest.fixture(scope="module")
def modules():
    return lines.read_modules()


def test_no_import_cycle(modules):
    assert lines.find_cycle(lines.links(modules)) == []


def test_packages_are_entered_through_what_they_list(modules):
    """A package's ``__all__`` names the modules, or the functions, that other packages may import."""
    assert private_imports(modules) == []


def private_imports(modules):
    listed = {name: lines.exported(module) for name, module in modules.items() if module.path.name == "__init__.py"}
    faults = []
    for module in modules.values():
        for item in module.imports:
            for package in packages_around(item.target, listed):
                inside = module.name == package or module.name.startswith(f"{package}.")
                asked = item.target.removeprefix(package).lstrip(".").split(".")[0] or item.name
                # A package inside another is entered by its own list.
                if not inside and asked and f"{package}.{asked}" not in listed and asked not in listed[package]:
                    faults.append(f"{module.path}:{item.line}: {asked} is not in __all__ of {package}")
    return faults


def packages_around(name, packages):
    """The packages below `survey` that a module lies in, and itself when it is one."""
    parts = name.split(".")
    return [found for end in range(2, len(parts) + 1) if (found := ".".join(parts[:end])) in packages]


def test_the_page_prints_the_contract_of_imports():
    """ARCHITECTURE.md shows the layers that import-linter holds the code to, line for line."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [item["layers"] for item in contracts if item["id"] == "layers"]
    (block,) = re.findall(r"```text\n(cli\n.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL)
    assert block.splitlines() == layers


def test_heavy_packages_are_imported_inside_functions(modules):
    faults = [
        f"{module.path}:{item.line}: {item.target}"
        for module in modules.values()
        for item in module.imports
        if item.top and item.target.split(".")[0] in HEAVY and module.room not in MAY_BE_HEAVY
    ]
    assert faults == []


def test_packages_that_may_be_heavy_are_imported_inside_functions(modules):
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
    assert {module.name: module.lines for module in modules.values() if module.lines > MAX_LINES} == {}


def test_functions_have_few_parameters(modules):
    """At most six, `self` and `cls` not counted; beyond that, an object says more."""
    found = {
        name: count for module in modules.values() for name, count in lines.crowded(module, MAX_PARAMETERS).items()
    }
    assert found == {}


def test_parameters_are_counted(tmp_path):
    (tmp_path / "survey").mkdir()
    (tmp_path / "survey" / "a.py").write_text(
        "def f(a, /, b, *c, d, **e):\n    return lambda x, y=1: x\nclass A:\n    async def g(self, a, b, c): ...\n"
    )
    module = lines.read_modules(tmp_path)["survey.a"]
    assert lines.crowded(module, 1) == {"survey.a:f": 5, "survey.a:lambda": 2, "survey.a:g": 3}
    assert lines.crowded(module, 4) == {"survey.a:f": 5}


def test_a_cycle_and_a_private_import_are_found(tmp_path):
    """The reader itself: two modules that import each other, one of them inside a function; a module not listed."""
    for folder, text in {"config": '__all__ = ["model"]\n', "cli": ""}.items():
        (tmp_path / "survey" / folder).mkdir(parents=True)
        (tmp_path / "survey" / folder / "__init__.py").write_text(text)
    (tmp_path / "survey" / "__init__.py").write_text("")
    (tmp_path / "survey" / "config" / "model.py").write_text("def f():\n    from survey.config import hidden\n")
    (tmp_path / "survey" / "config" / "hidden.py").write_text("from survey.config.model import f\n")
    (tmp_path / "survey" / "cli" / "main.py").write_text(
        "from survey.config import model\nimport survey.config.hidden\n"
    )
    found = lines.read_modules(tmp_path)
    cycle = lines.find_cycle(lines.links(found))
    assert cycle == ["survey.config.hidden", "survey.config.model", "survey.config.hidden"]
    (fault,) = private_imports(found)
    assert fault.endswith("main.py:2: hidden is not in __all__ of survey.config")


# --- names in text ------------------------------------------------------------------------------------------------


def resolve(name):
    """The object that ``package.module:attribute`` names; a module when it has no attribute."""
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


@pytest.mark.parametrize("step", REGISTRY.values(), ids=lambda step: step.name)
def test_a_row_names_a_function(step):
    assert callable(resolve(step.run))


@pytest.mark.pipeline
@pytest.mark.parametrize("name", sorted({step.step_class for step in REGISTRY.values() if step.step_class}))
def test_a_row_names_a_class(name):
    from stpipe import Step

    assert issubclass(resolve(name), Step)


@pytest.mark.pipeline
@pytest.mark.parametrize("name", PRELOAD)
def test_what_children_share_is_there(name):
    resolve(name)


def names_in_text():
    """Modules of this package that commands, manifests and strings of the code name."""
    patterns = (
        r"-m[\s\"',]+(survey(?:\.[a-z0-9_]+)*)",
        r"--preload[=\s\"',]+(survey(?:\.[a-z0-9_]+)*)",
        r"[\"'](survey(?:\.[a-z0-9_]+)+(?::[A-Za-z_]+)?)[\"'\]]",
    )
    places = [*(ROOT / "survey").rglob("*.py"), *(ROOT / "deploy").rglob("*.*"), *(ROOT / "docs").glob("*.md")]
    for path in [*places, ROOT / "Makefile", ROOT / "README.md", ROOT / "pyproject.toml"]:
        if not path.is_file() or path.suffix in (".png", ".pyc"):
            continue
        for pattern in patterns:
            for found in re.finditer(pattern, path.read_text(encoding="utf-8")):
                yield path.relative_to(ROOT), found[1]


NO_MODULES = {"survey.lock", "survey.yaml", "survey.__version__"}


def test_every_module_named_in_text_is_there():
    found = sorted({(str(path), name) for path, name in names_in_text() if name not in NO_MODULES})
    assert {name for _, name in found} >= {"survey.execution.children", "survey.cluster.kubernetes_preload"}
    missing = []
    for path, name in found:
        module, _, attribute = name.partition(":")
        spec = importlib.util.find_spec(module)
        if spec is None or (attribute and attribute not in defined(spec.origin)):
            missing.append(f"{path}: {name}")
    assert missing == []


def defined(path):
    """Names that a module defines at its top; the module is not imported."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


# --- names of steps -----------------------------------------------------------------------------------------------

KNOW_STEPS = ("survey/steps/", "survey/simulate/", "survey/planning/tiled.py", "survey/planning/stock.py")
# The same word with another meaning: the public function `survey.mosaic`; the type of an association.
NO_STEPS = {"survey/__init__.py": "mosaic", "survey/mosaics/association_files.py": "image3"}
LOOKUPS = {"get", "index", "count", "startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition"}


def step_names(node, constants):
    """Names of steps that an expression is made of: a text, a collection of texts, or a constant of its module."""
    if isinstance(node, ast.Constant):
        text = node.value if isinstance(node.value, str) else ""
        return [text] if text.partition("/")[0] in REGISTRY else []
    if isinstance(node, ast.Name):
        return constants.get(node.id, [])
    if isinstance(node, ast.Starred):
        return step_names(node.value, constants)
    if isinstance(node, ast.Dict):
        return [name for key in node.keys if key is not None for name in step_names(key, constants)]
    if isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.JoinedStr)):
        return [name for item in ast.iter_child_nodes(node) for name in step_names(item, constants)]
    return []


def comparisons_with_steps(source):
    """(line, names) of each comparison, membership, subscript, look-up or case with the name of a step in it."""
    tree = ast.parse(source)
    constants = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and getattr(node, "value", None) is not None:
                constants[target.id] = step_names(node.value, {})
    for node in ast.walk(tree):
        asked = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Subscript):
            asked = [node.slice]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOOKUPS:
            asked = [node.func.value, *node.args]
        found = [name for item in asked for name in step_names(item, constants)]
        if found:
            yield node.lineno, found


def test_no_step_is_known_by_its_name_outside_the_registry_and_its_planners():
    """What the rest of the package needs to know of a step is a field of its row, see `survey.steps.base.Step`."""
    faults = []
    for path in sorted((ROOT / "survey").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(KNOW_STEPS):
            found = comparisons_with_steps(path.read_text(encoding="utf-8"))
            faults += [f"{name}:{line}: {', '.join(names)}" for line, names in found if names != [NO_STEPS.get(name)]]
    assert faults == []


@pytest.mark.parametrize(
    "source",
    [
        'task.step == "drizzle"', 'x = step in ("median", "pixmap")', 'REGISTRY["image3"]', 'records.get("align")',
        'WHOLE = ("align", "sky")\nfound = step in WHOLE', 'RIVALS = {"assemble": 1}\nRIVALS[step]; step in RIVALS',
        'key.startswith("drizzle/")', 'key == f"assemble/{product}"', 'records[f"assemble/{product}"]',
        'match step:\n    case "sky":\n        pass', '"given" != step', 'RIVALS = {"assemble": 1}\nRIVALS.get(step)',
    ],
)  # fmt: skip
def test_a_comparison_with_a_step_is_found(source):
    assert [names for _, names in comparisons_with_steps(source)] != []


@pytest.mark.parametrize(
    "source", ['Task(step="given")', 'StepConfig(name="detector1")', 'kind == "rate"', 'f"{step}/x"', 'names["image"]']
)
def test_what_only_names_a_step_is_no_comparison(source):
    assert list(comparisons_with_steps(source)) == []


@pytest.mark.pipeline
def test_what_benchmarks_and_pictures_import_is_there():
    """No test runs the long benchmarks, so a name that moved would be missed until someone measures."""
    missing = []
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs").rglob("*.py")]
    for path in (path for path in scripts if "_build" not in path.parts):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == lines.PACKAGE:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name) and not is_module(f"{node.module}.{alias.name}"):
                        missing.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.module} has no {alias.name}")
    assert missing == []


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return False
