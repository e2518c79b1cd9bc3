"""The config of a survey, read from one YAML file; all faults are reported at once, with file and line.

`survey.reduction.load.load_config` also checks it against the installed pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from survey.config.limits import Limits
from survey.config.sections import ArchiveConfig, MosaicConfig, PointingConfig, ReferencesConfig, StepConfig
from survey.config.values import ConfigPath, Filter, Section, observation_numbers, program_numbers
from survey.config.yaml_file import MAX_FAULTS, Document, read_document
from survey.errors import ConfigError
from survey.messages import shown
from survey.workspace.folders import Workspace


class SurveyConfig(Section):
    """What to reduce. `survey.load_config` reads one from a file."""

    survey: str = Field(
        description="short name of the survey, in lower case; written to headers, reports and metadata",
        examples=["ceers"],
    )
    program: int | tuple[int, ...] = Field(
        description="JWST program number, or a list of them, whose exposures make one mosaic per filter; its "
        "name has the first program of the list that has members in it",
        examples=[1345, [1727, 1837]],
    )
    observations: tuple[int, ...] | dict[int, tuple[int, ...] | None] | None = Field(
        None,
        description="observation numbers; for several programs a mapping of program to its observations, such as "
        "{1727: [1, 2], 1837: null}; null, or a program that is not in the mapping: all",
        examples=[[1, 2, 3, 4, 52]],
    )
    instrument: Literal["NIRCAM"] = Field("NIRCAM", description="instrument; only NIRCam imaging is supported")
    filters: tuple[Filter, ...] | None = Field(
        None, description="NIRCam filters; null: all of the program", examples=[["F200W", "F444W"]]
    )
    exclude: tuple[str, ...] = Field(
        (),
        description="exposures that are left out, by name or with the wildcards *, ? and [...]; they are not fetched, "
        "and do not count as missing",
        examples=[["jw01345001001_02201_00001_nrcb1", "jw01345052001_*"]],
    )
    pointing: PointingConfig = Field(
        default_factory=lambda: PointingConfig(), description="which exposures are left out for their pointing"
    )
    archive: ArchiveConfig = Field(default_factory=lambda: ArchiveConfig(), description="where raw exposures come from")
    references: ReferencesConfig = Field(description="which reference files are used, and where they come from")
    steps: tuple[StepConfig, ...] = Field(
        default=(StepConfig(name="detector1"), StepConfig(name="image2")),
        description="steps of every exposure, in order; each takes the parameters of the pipeline step of that name",
        examples=[[{"detector1": {}}, {"subtract_striping": {}}, {"image2": {}}]],
    )
    mosaic: MosaicConfig = Field(
        default_factory=lambda: MosaicConfig(), description="how exposures are combined, and on which grid"
    )
    limits: Limits = Field(
        default_factory=Limits, description="time and memory that a task may take before it is stopped"
    )
    workspace: ConfigPath = Field(description="folder of all products", examples=["runs/ceers"])
    _document: Document | None = PrivateAttr(None)
    _checked: Any = PrivateAttr(None)  # see `survey.planning.recipe.checked`

    def __eq__(self, other: object) -> bool:
        """Whether all values are equal, whatever the files that they were read from."""
        return isinstance(other, SurveyConfig) and dict(self) == dict(other)

    @property
    def folders(self) -> Workspace:
        """Folders of the workspace, its records and its lock."""
        return Workspace(self.workspace)

    def located(self, faults: Sequence[str]) -> list[str]:
        """Put file and line before faults that start with a dotted key, if the config was read from a file."""
        return list(faults) if self._document is None else [self._document.located(fault) for fault in faults]

    @field_validator("survey")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", value, re.ASCII):
            raise ValueError(f"{value!r}: expected up to 40 lower-case letters, digits and '-'.")
        return value

    @property
    def programs(self) -> tuple[int, ...]:
        """Program numbers, in the order of the config."""
        return (self.program,) if isinstance(self.program, int) else self.program

    @property
    def program_text(self) -> str:
        """The programs in a message: 'program 1345', or 'programs 1727, 1837'."""
        return f"program{'s' if len(self.programs) > 1 else ''} {', '.join(map(str, self.programs))}"

    def observations_of(self, program: int) -> tuple[int, ...] | None:
        """Observations of a program that are part of the survey; None: all of them."""
        wanted = self.observations
        return wanted.get(program) if isinstance(wanted, dict) else wanted

    def includes(self, program: int, observation: int) -> bool:
        """Whether an observation is part of the survey."""
        wanted = self.observations_of(program)
        return program in self.programs and (wanted is None or observation in wanted)

    @field_validator("program", mode="before")
    @classmethod
    def _are_programs(cls, value: Any) -> Any:
        return program_numbers(value)

    @field_validator("observations", mode="before")
    @classmethod
    def _are_observations(cls, value: Any, info: ValidationInfo) -> Any:
        programs = info.data.get("program", ())
        return observation_numbers(value, (programs,) if isinstance(programs, int) else programs)

    @field_validator("filters", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        if value is not None and (not isinstance(value, (list, tuple)) or not value):
            raise ValueError(f"{shown(value)}: expected a list of filters, such as [F200W, F444W].")
        return value

    @field_validator("filters")
    @classmethod
    def _filters_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError(f"{list(value)}: a filter is listed twice.")
        return value

    @field_validator("exclude", mode="before")
    @classmethod
    def _are_patterns(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{shown(value)}: expected a list of names, such as [jw01345052001_*].")
        for item in value:
            if not isinstance(item, str) or not re.fullmatch(r"[A-Za-z0-9_*?.!\[\]-]{1,100}", item, re.ASCII):
                raise ValueError(f"{shown(item)}: expected the name of an exposure, or a pattern such as *_nrcb1.")
        if len(set(value)) != len(value):
            raise ValueError(f"{list(value)}: a name is listed twice.")
        return value

    @field_validator("steps", mode="before")
    @classmethod
    def _are_steps(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("expected a list such as [detector1: {}, image2: {}].")
        return value

    @field_validator("steps")
    @classmethod
    def _steps_once(cls, value: tuple[StepConfig, ...]) -> tuple[StepConfig, ...]:
        names = [step.name for step in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice; each step runs once per exposure.")
        return value


def read_config(
    path: Path | str,
    *,
    workspace: Path | str | None = None,
    context: str | None = None,
    check: Callable[[SurveyConfig], Sequence[str]] | None = None,
) -> SurveyConfig:
    """Read a config file.

    Parameters
    ----------
    path : YAML file
    workspace, context : replace the values in the file, as ``--workspace`` and ``--context`` do
    check : finds further faults of a config, with file and line; if the file has faults already, it gets the config
        without them

    Raises
    ------
    ConfigError
        The file cannot be read, is not a mapping, or has faults; each names file, line and what was expected.
    """
    document = read_document(path)
    data = dict(document.data)
    if workspace is not None:
        data["workspace"] = str(workspace)
    if context is not None and isinstance(data.get("references"), dict):
        data["references"] = {**data["references"], "context": context}
    faults = list(document.faults)
    try:
        config: SurveyConfig | None = SurveyConfig(**data)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        faults += [document.fault(item, SurveyConfig) for item in wrong[:MAX_FAULTS]]
        faults += ["" for _ in wrong[MAX_FAULTS:]]  # counted, not listed
        config = _sound_part(data, [tuple(item["loc"]) for item in wrong])
    if config is not None:
        config._document = document
        faults += check(config) if check is not None else ()
    if faults or config is None:
        more = [f"{path}: and {len(faults) - MAX_FAULTS} more faults."] if len(faults) > MAX_FAULTS else []
        raise ConfigError([*faults[:MAX_FAULTS], *more])
    return config


def resolved(config: SurveyConfig) -> dict[str, Any]:
    """The config as JSON types, with defaults, for records and metadata."""
    return config.model_dump(mode="json")


def _sound_part(data: dict[str, Any], places: list[tuple[Any, ...]]) -> SurveyConfig | None:
    """The config without its faulty values; None if that is not a config."""
    rest = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for place in places:
        if place[:1] == ("steps",):
            rest["steps"] = _sound_steps(rest.get("steps"))
        elif isinstance(rest.get(place[0]), dict) and len(place) > 1:
            rest[place[0]].pop(place[1], None)
        else:
            rest.pop(place[0], None)
    needed: dict[str, Any] = {"survey": "x", "program": 1, "workspace": ".", "references": {}}
    filled = {**needed, **rest}
    # No server: a config with faults is rejected without asking one.
    filled["references"] = {"context": "jwst_0001.pmap", "cache": ".", **filled["references"], "server": None}
    try:
        return SurveyConfig(**filled)
    except (ValidationError, TypeError):
        return None


def _sound_steps(value: Any) -> list[StepConfig]:
    """The entries that name a step, once each, without settings that are not a mapping."""
    found: dict[str, StepConfig] = {}
    for entry in value if isinstance(value, (list, tuple)) else ():
        name = next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else entry
        if isinstance(entry, StepConfig):
            found.setdefault(entry.name, entry)
        elif isinstance(name, str):
            given = entry[name] if isinstance(entry, dict) and isinstance(entry[name], dict) else {}
            found.setdefault(name, StepConfig(name=name, settings={str(key): item for key, item in given.items()}))
    return list(found.values()) or [StepConfig(name="detector1"), StepConfig(name="image2")]
