"""Write the pages of the API reference: one per package, from what its ``__all__`` lists.

The pages lie in docs/reference/api, which git ignores; a module that moves needs no change here.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

OLD_NAMES = {"retirement"}  # kept for one version
_EXCLUDED = ("model_config", "model_post_init")


def write(app: Sphinx) -> None:
    """Replace all pages; one that is unchanged keeps its time, so that Sphinx does not read it again."""
    import survey

    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(exist_ok=True)
    pages = {"survey": _public(survey)}
    found = list(pkgutil.iter_modules(survey.__path__))
    packages = sorted(item.name for item in found if item.ispkg)
    modules = sorted(item.name for item in found if not item.ispkg and item.name not in OLD_NAMES)
    for name in packages:
        package = importlib.import_module(f"survey.{name}")
        pages[name] = _package(package, list(getattr(package, "__all__", ())))
    pages["modules"] = _modules("Modules beside the packages", [f"survey.{name}" for name in modules])
    for path in set(folder.glob("*.rst")) - {folder / f"{name}.rst" for name in pages}:
        path.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def _public(survey: Any) -> str:
    """The names that ``import survey`` gives."""
    names = [name for name in survey.__all__ if not name.startswith("__")]
    text = _title("survey") + ".. currentmodule:: survey\n\n.. autosummary::\n\n"
    text += "".join(f"   {name}\n" for name in names) + "\n"
    for name in names:
        kind = "class" if isinstance(getattr(survey, name), type) else "function"
        options = f"   :members:\n   :exclude-members: {', '.join(_EXCLUDED)}\n" if kind == "class" else ""
        text += f".. auto{kind}:: {name}\n{options}\n"
    return text


def _package(package: Any, listed: list[str]) -> str:
    """A package's purpose, then each module, or each function, that it lists."""
    name = package.__name__
    modules = [item for item in listed if isinstance(getattr(package, item, None), type(package))]
    modules += [item for item in listed if item not in modules and _is_module(f"{name}.{item}")]
    text = _title(name) + f".. automodule:: {name}\n"
    own = [item for item in listed if item not in modules]
    text += f"   :members: {', '.join(own)}\n\n" if own else "   :no-members:\n\n"
    return text + "".join(_module(f"{name}.{item}") for item in listed if item in modules)


def _modules(title: str, names: list[str]) -> str:
    return _title(title) + "".join(_module(name) for name in names)


def _module(name: str) -> str:
    """One module; functions that ``import survey`` gives stand on that page alone."""
    import survey

    public = sorted(item for item in survey.__all__ if getattr(getattr(survey, item), "__module__", "") == name)
    text = f"{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n   :members:\n"
    text += f"   :exclude-members: {', '.join([*_EXCLUDED, *public])}\n\n"
    if public:
        text += "Described with the public names: " + ", ".join(f":py:obj:`survey.{item}`" for item in public) + ".\n\n"
    return text


def _is_module(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n\n"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write)
    return {"version": "1", "parallel_read_safe": True}
