"""Lines per module, who imports whom, and whether there is a cycle: ``python benchmarks/lines.py [--json]``.

Reads the source with `ast`; imports nothing of the package. ``tests/test_layers.py`` stands on the same functions.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "survey"

# A module imports from its own layer or from one above it in this list, never from one below.
LAYERS = (
    ("errors", "names", "digest", "credentials", "paths", "limits", "resident"),
    ("documents", "replies", "models", "config", "grid", "pipeline_spec", "lock", "workspace", "records", "tls"),
    ("groups", "deploy", "pods", "scaling", "outcome"),
    (
        "archive",
        "references",
        "associations",
        "provenance",
        "layouts",
        "memory",
        "store",
        "mosaics",
        "quality",
        "corrections",
    ),
    ("steps",),
    ("stock", "tiled", "checks"),
    ("children", "failures", "planning", "publication", "reads", "execute", "site", "staleness"),
    ("tidying", "disk", "outside", "progress"),
    ("dashboard",),
    ("patience", "workers", "scripts", "batch", "retirement"),
    ("graph", "cluster"),
    ("inputs",),
    ("admission",),
    ("reduction",),
    ("inspection", "report"),
    ("__init__",),
    ("console",),
    ("hosting",),
    ("simulate", "cli"),
)


@dataclass(frozen=True)
class Import:
    """One import statement. ``top`` is False inside a function: it runs only when the function does."""

    target: str  # full dotted name of the module
    line: int
    top: bool


@dataclass(frozen=True)
class Module:
    name: str  # 'survey.archive.fetch'; a package's own file is 'survey.archive'
    path: Path
    lines: int
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        """First name below the package: what the layers are made of."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"


def read_modules(root: Path = ROOT) -> dict[str, Module]:
    """Every module of the package by dotted name."""
    paths = {_dotted(path.relative_to(root)): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    modules = {}
    for name, path in paths.items():
        source = path.read_text(encoding="utf-8")
        found = tuple(_imports(ast.parse(source, str(path)), name, path.name == "__init__.py", paths))
        modules[name] = Module(name, path, len(source.splitlines()), found)
    return modules


def links(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports, at its top or inside functions."""
    return {
        name: {item.target for item in module.imports if item.target in modules and item.target != name}
        for name, module in modules.items()
    }


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of one import cycle in order, first one repeated at the end; [] when there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if cycle := visit(target, [*trail, name]):
                return cycle
        done.add(name)
        return []

    for name in sorted(graph):
        if cycle := visit(name, []):
            return cycle
    return []


def layer_faults(modules: Mapping[str, Module]) -> list[str]:
    """Every import that points to a layer further down, and every module that no layer names."""
    level = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    faults = [
        f"{module.path}: {module.room!r} is in no layer; name it in LAYERS of benchmarks/lines.py"
        for module in modules.values()
        if module.room not in level
    ]
    for module in modules.values():
        for item in module.imports:
            target = modules.get(item.target)
            if target is None or module.room not in level or target.room not in level:
                continue
            if level[target.room] > level[module.room]:
                faults.append(f"{module.path}:{item.line}: {module.room} imports {target.room}, which stands after it")
            if target.room == "simulate" and module.room not in ("simulate", "cli"):
                faults.append(f"{module.path}:{item.line}: only cli may import simulate")
    return faults


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, name: str, is_package: bool, known: Mapping[str, Path]) -> Iterator[Import]:
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node, top in _statements(tree, True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, top)
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                if (source, alias.name) == (PACKAGE, "__version__"):
                    continue  # a plain string, set before anything else
                inner = f"{source}.{alias.name}"
                yield Import(inner if inner in known else source, node.lineno, top)


def _statements(node: ast.AST, top: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, top
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue  # for the type checker alone
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _statements(child, top and not inside)


def summary(modules: Mapping[str, Module]) -> dict[str, object]:
    graph = links(modules)
    return {
        "lines": {name: module.lines for name, module in sorted(modules.items())},
        "total": sum(module.lines for module in modules.values()),
        "largest": max(modules.values(), key=lambda module: module.lines).name,
        "imports": {name: sorted(targets) for name, targets in sorted(graph.items())},
        "cycle": find_cycle(graph),
        "wrong_direction": layer_faults(modules),
    }


def _print_picture(modules: Mapping[str, Module]) -> None:
    graph = links(modules)
    for layer in LAYERS:
        rows = [module for name, module in sorted(modules.items()) if module.room in layer]
        if rows:
            print(" ".join(layer))
        for module in rows:
            targets = " ".join(sorted(target.removeprefix(f"{PACKAGE}.") for target in graph[module.name]))
            print(f"    {module.lines:5d}  {module.name:34s} {'<- ' + targets if targets else ''}")
    facts = summary(modules)
    print(f"{facts['total']} lines in {len(modules)} modules")
    print(f"largest: {facts['largest']}, {modules[str(facts['largest'])].lines} lines")
    print(f"cycle: {' -> '.join(find_cycle(graph)) or 'none'}")
    print(f"imports against the layers: {len(layer_faults(modules)) or 'none'}")


if __name__ == "__main__":
    found = read_modules()
    if "--json" in sys.argv[1:]:
        print(json.dumps(summary(found), indent=2))
    else:
        _print_picture(found)
