"""Which of the exposures that were found are part of the survey: those that the config does not exclude.

An exposure can be excluded by its name, or by what its header says of its pointing.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from survey.archive.pointing import KINDS
from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.messages import did_you_mean
from survey.models import Exposure

_SUFFIX = re.compile(r"_[a-z0-9]+\.fits(?:\.gz)?")  # of a file: a pattern may be the name of one
_WILD = re.compile(r"\[[^]]*\]|[*?]")


def select(config: SurveyConfig, exposures: Iterable[Exposure], *, complete: bool = True) -> tuple[Exposure, ...]:
    """Mark the exposures that the config excludes; ``excluded`` says by which key.

    Parameters
    ----------
    exposures : in any order
    complete : these are all exposures of the program, so that each pattern of ``exclude`` must match one

    Raises
    ------
    ConfigError
        A pattern matches no exposure; the message names the one with the nearest name.
    """
    found = tuple(_with_pointing(config, exposure) for exposure in exposures)
    if not config.exclude:
        return found
    patterns = {pattern: re.compile(fnmatch.translate(_name(pattern))) for pattern in config.exclude}
    if complete:
        names = [item.name for item in found]
        idle = [pattern for pattern, match in patterns.items() if not any(map(match.match, names))]
        if idle:
            raise ConfigError(config.located([_no_match(pattern, names) for pattern in idle]))
    return tuple(_marked(exposure, patterns) for exposure in found)


def all_left_out(exposures: Sequence[Exposure]) -> str:
    """The message for exposures of which none is left."""
    first = exposures[0]
    return (
        f"all {len(exposures)} exposures are left out, such as {first.name}: {first.excluded} Change 'exclude' in the "
        "config; 'survey fetch --recheck' downloads files again that were of another mode."
    )


def _with_pointing(config: SurveyConfig, exposure: Exposure) -> Exposure:
    """The exposure, excluded if its pointing has a fault that the config excludes; unknown before it is fetched."""
    faults = [name for name in (exposure.pointing or "").split(", ") if name in config.pointing.exclude]
    if exposure.excluded or not faults:
        return exposure
    return replace(exposure, excluded=f"{KINDS[faults[0]]}; excluded by the config (pointing.exclude: {faults[0]}).")


def _marked(exposure: Exposure, patterns: dict[str, re.Pattern[str]]) -> Exposure:
    for pattern, match in patterns.items():
        if match.match(exposure.name):
            return replace(exposure, excluded=f"excluded by the config (exclude: {pattern}).")
    return exposure


def _name(pattern: str) -> str:
    """A pattern for names of exposures, from one that may be the name of a file."""
    return _SUFFIX.sub("", pattern.strip()).lower()


def _no_match(pattern: str, names: Sequence[str]) -> str:
    plain = _WILD.sub("", _name(pattern))
    near = did_you_mean(plain, names) or (f"; such as {names[0]!r}" if names else "")
    return (
        f"exclude.{pattern}: matches none of {len(names)} exposures of the program, filters and observations of this "
        f"config{near}"
    )
