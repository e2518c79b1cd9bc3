"""Types of values that configs and deploy files share: paths, addresses and texts with environment variables."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from survey.credentials import TOKEN
from survey.messages import nearest, shown
from survey.nircam import FILTERS

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def expand(text: str) -> str:
    """Replace ``${NAME}`` by an environment variable, ``${NAME:-default}`` by the default if it is unset or empty.

    Raises
    ------
    ValueError
        A variable is not set and has no default, or is the archive's token.
    """

    def value(match: re.Match[str]) -> str:
        if match["name"] == TOKEN:  # it would be written to every record
            raise ValueError(f"{TOKEN} is a secret that is read from the environment; remove it from the config.")
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise ValueError(f"environment variable {match['name']} is not set; set it, or write its value.")
        return found

    return _VARIABLE.sub(value, text)


def _expanded(value: Any) -> Any:
    return expand(str(value)) if isinstance(value, (str, Path)) else value


MAX_PATH_BYTES = 4096  # of Linux


def _as_path(value: Any) -> Any:
    if not isinstance(value, (str, Path)):
        return value
    text = expand(str(value))
    if not text.strip():
        raise ValueError("a path must not be empty.")
    try:
        if len(os.fsencode(text)) >= MAX_PATH_BYTES or any(len(os.fsencode(part)) > 255 for part in Path(text).parts):
            raise ValueError(f"{shown(text)}: the path is too long.")
    except UnicodeEncodeError:
        raise ValueError(f"{shown(text)}: the path holds characters that no file system accepts.") from None
    if not text.isprintable():
        raise ValueError(f"{shown(text)}: a path must not hold control characters.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # '~name' of an unknown user
        raise ValueError(f"{shown(text)}: {error}") from None


def _known_filter(value: str) -> str:
    known = [*FILTERS]
    if value not in known:
        raise ValueError(f"{shown(value)} is not a NIRCam filter{nearest(value, known)}")
    return value


ConfigPath = Annotated[Path, BeforeValidator(_as_path)]
Server = Annotated[str, BeforeValidator(_expanded)]
Filter = Annotated[str, AfterValidator(_known_filter)]


class Section(BaseModel):
    """A mapping of the config; unknown keys are errors.

    A field's description gives its unit in brackets, and ``examples`` hold values as YAML reads them: the reference in
    docs/ is made from both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
