"""Lines per module, who imports whom, and whether there is a cycle: ``python benchmarks/lines.py [--json]``.

Reads the source with `ast`; imports nothing of the package. ``tests/test_architecture.py`` uses the same functions.
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


@dataclass(frozen=True)
class Import:
    """One import statement. ``top`` is False inside a function: it runs only when the function does."""

    target: str  # full dotted name of the module
    name: str  # that is imported from it; empty when it is the module itself
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

    @property
    def package(self) -> str:
        """The package below `survey` that it belongs to, or the module itself."""
        return ".".join(self.name.split(".")[:2])


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


def exported(module: Module) -> set[str]:
    """What a package lists in ``__all__``; everything that it imports by name counts only when it is listed."""
    for node in ast.parse(module.path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return set(ast.literal_eval(node.value))
    return set()


def crowded(module: Module, most: int) -> dict[str, int]:
    """Functions with more parameters than ``most``, `self` and `cls` not counted: 'module:function' -> how many."""
    found = {}
    for node in ast.walk(ast.parse(module.path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            given = node.args
            names = [item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            names += [item.arg for item in (given.vararg, given.kwarg) if item is not None]
            number = len(names) - (names[:1] in (["self"], ["cls"]))
            if number > most:
                found[f"{module.name}:{getattr(node, 'name', 'lambda')}"] = number
    return found


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, name: str, is_package: bool, known: Mapping[str, Path]) -> Iterator[Import]:
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node, top in _statements(tree, True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", node.lineno, top)
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                if (source, alias.name) == (PACKAGE, "__version__"):
                    continue  # a plain string, set before anything else
                inner = f"{source}.{alias.name}"
                yield Import(*((inner, "") if inner in known else (source, alias.name)), node.lineno, top)


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
    }


def _print_picture(modules: Mapping[str, Module]) -> None:
    graph = links(modules)
    for name, module in sorted(modules.items()):
        targets = " ".join(sorted(target.removeprefix(f"{PACKAGE}.") for target in graph[name]))
        print(f"{module.lines:5d}  {name:42s} {'<- ' + targets if targets else ''}")
    facts = summary(modules)
    print(f"{facts['total']} lines in {len(modules)} modules")
    print(f"largest: {facts['largest']}, {modules[str(facts['largest'])].lines} lines")
    print(f"cycle: {' -> '.join(find_cycle(graph)) or 'none'}")


if __name__ == "__main__":
    found = read_modules()
    if "--json" in sys.argv[1:]:
        print(json.dumps(summary(found), indent=2))
    else:
        _print_picture(found)
