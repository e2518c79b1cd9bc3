"""The survey's config: what to reduce, read from one YAML file, every fault at once.

`load_config` reports unknown keys with the nearest known one, the line they stand in, and values of the wrong kind,
before anything starts. What the installed pipeline has to say of it, `survey.reduction.load.load_config` adds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from survey.config.limits import Limits
from survey.config.yaml_file import MAX_FAULTS, Document, nearest, plain, read_document, shown
from survey.credentials import TOKEN, server_address
from survey.errors import ConfigError
from survey.nircam import FILTERS

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def expand(text: str) -> str:
    """Replace ``${NAME}`` by an environment variable, ``${NAME:-default}`` by it or, when unset or empty, the default.

    Raises
    ------
    ValueError
        A variable is not set and has no default, or is the archive's token.
    """

    def value(match: re.Match[str]) -> str:
        if match["name"] == TOKEN:  # it would end up in every record
            raise ValueError(f"{TOKEN} is a secret: it is read from the environment, and stands in no config.")
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise ValueError(f"environment variable {match['name']} is not set; set it, or write the path itself.")
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
            raise ValueError(f"{shown(text)}: no file system has so long a path.")
    except UnicodeEncodeError:
        raise ValueError(f"{shown(text)}: no file system has such a path.") from None
    if not text.isprintable():
        raise ValueError(f"{shown(text)}: a path must not hold control characters.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # '~name' of a user who does not exist
        raise ValueError(f"{shown(text)}: {error}") from None


def _known_filter(value: str) -> str:
    known = [*FILTERS]
    if value not in known:
        raise ValueError(f"{shown(value)} is not a NIRCam filter{nearest(value, known)}")
    return value


SCALES_ARCSEC = (0.001, 10.0)  # of a mosaic; a slip of the unit is outside
ConfigPath = Annotated[Path, BeforeValidator(_as_path)]
Server = Annotated[str, BeforeValidator(_expanded)]
Filter = Annotated[str, AfterValidator(_known_filter)]


class Section(BaseModel):
    """A mapping of the config; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ArchiveConfig(Section):
    server: Server = Field("https://mast.stsci.edu", description="root of an archive that speaks the MAST protocol")
    local: ConfigPath | None = Field(None, description="a folder of *_uncal.fits instead of an archive")
    timeout_seconds: float = Field(
        45.0, gt=0, description="how long a server may stay silent before it is given up [s]"
    )
    downloads: int = Field(4, ge=1, le=32, description="files fetched at the same time")
    retries: int = Field(4, ge=0, le=20, description="tries again after errors that may pass")

    @field_validator("server")
    @classmethod
    def _is_http(cls, value: str) -> str:
        return server_address(value)


class ReferencesConfig(Section):
    server: Server | None = Field("https://jwst-crds.stsci.edu", description="CRDS server; null: the cache alone")
    context: str = Field(description="CRDS context, such as jwst_1584.pmap; never 'latest'")
    cache: ConfigPath = Field(
        Path("${CRDS_PATH}"), validate_default=True, description="CRDS cache, one per server; default: ${CRDS_PATH}"
    )
    timeout_seconds: float = Field(
        45.0, gt=0, description="how long a server may stay silent before it is given up [s]"
    )

    @field_validator("server")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return None if value is None else server_address(value)


class MosaicConfig(Section):
    engine: Literal["stock", "tiled"] = Field(
        "tiled", description="tiled: Image3 per exposure and per tile; stock: the pipeline's own, one process a mosaic"
    )
    per: tuple[Literal["filter", "observation"], ...] = Field(("filter",), description="what one mosaic is made of")
    pixel_scale_arcsec: float | None = Field(
        None, ge=SCALES_ARCSEC[0], le=SCALES_ARCSEC[1], description="[arcsec]; default: the pipeline's own choice"
    )
    crval_deg: tuple[float, float] | None = Field(None, description="right ascension and declination of crpix [deg]")
    crpix: tuple[float, float] | None = Field(None, description="reference pixel x, y; 0-based")
    rotation_deg: float | None = Field(None, description="position angle of the y axis, north over east [deg]")
    shape: tuple[int, int] | None = Field(None, description="x, y [pixels]")
    pixfrac: float | None = Field(None, gt=0, le=1, description="fraction by which input pixels shrink")
    kernel: Literal["square", "gaussian", "point", "turbo", "lanczos2", "lanczos3"] | None = None
    weight: Literal["ivm", "ivm-sky", "exptime"] | None = None
    tile: int = Field(2048, ge=64, description="side of a tile [pixels]")
    margin: int = Field(8, ge=2, le=4096, description="drizzled around a tile, at least, and trimmed [pixels]")
    alignment: ConfigPath | None = Field(None, description="a folder of aligned WCS (*_wcs.asdf) to take as they are")
    align_to: Filter | None = Field(None, description="filter whose aligned sources are the reference for the others")
    keep_intermediate: bool = Field(False, description="keep pixel maps, drizzled groups and medians")
    max_missing: int = Field(0, ge=0, description="members that may be missing from a mosaic")
    image3: dict[str, Any] = Field(default_factory=dict, description="parameters of the pipeline's Image3, by step")

    @field_validator("per", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("per")
    @classmethod
    def _by_filter(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "filter" not in value or len(set(value)) != len(value):
            raise ValueError("a mosaic holds one filter: write 'filter' or [filter, observation].")
        return value

    @field_validator("crval_deg")
    @classmethod
    def _on_the_sky(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (0 <= value[0] < 360 and -90 <= value[1] <= 90):
            raise ValueError(
                f"{value} is not on the sky; expected 0 <= right ascension < 360, -90 <= declination <= 90."
            )
        return value

    @field_validator("shape")
    @classmethod
    def _has_pixels(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError(f"{value} has no pixels; expected x, y of at least 1.")
        return value

    @property
    def grid(self) -> dict[str, Any]:
        """The output grid and weighting as parameters of the pipeline's resample step; what is not given is left
        out.
        """
        values = {
            "pixel_scale": self.pixel_scale_arcsec,
            "crval": self.crval_deg,
            "crpix": self.crpix,
            "rotation": self.rotation_deg,
            "output_shape": self.shape,
            "pixfrac": self.pixfrac,
            "kernel": self.kernel,
            "weight_type": self.weight,
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }


class StepConfig(Section):
    """One entry of ``steps``."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """``detector1``, ``{detector1: {...}}`` or ``{detector1: null}`` -> name and settings."""
        if isinstance(value, dict) and isinstance(value.get("name"), str) and set(value) <= {"name", "settings"}:
            return value
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict) or len(value) != 1:
            raise ValueError(f"{shown(value)}: expected one step, such as 'image2: {{}}'.")
        name, settings = next(iter(value.items()))
        if settings is not None and not isinstance(settings, dict):
            raise ValueError(f"{plain(name)}: expected a mapping of parameters, found {shown(settings)}.")
        return {"name": str(name), "settings": {str(key): item for key, item in (settings or {}).items()}}


class SurveyConfig(Section):
    """What to reduce. Python users get one from `survey.load_config`."""

    survey: str = Field(description="short name, lower case; in headers, reports and metadata")
    program: int = Field(ge=1, le=99999, description="JWST program number")
    observations: tuple[int, ...] | None = Field(None, description="observation numbers; default: all")
    instrument: Literal["NIRCAM"] = "NIRCAM"
    filters: tuple[Filter, ...] | None = Field(None, description="default: all")
    archive: ArchiveConfig = Field(default_factory=lambda: ArchiveConfig())
    references: ReferencesConfig
    steps: tuple[StepConfig, ...] = Field(
        default=(StepConfig(name="detector1"), StepConfig(name="image2")), description="per exposure, in order"
    )
    mosaic: MosaicConfig = Field(default_factory=lambda: MosaicConfig())
    limits: Limits = Field(default_factory=Limits, description="what a task may take before it is ended")
    workspace: ConfigPath = Field(description="folder of all products")
    _document: Document | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """Whether it asks for the same; the file that it was read from does not count."""
        return isinstance(other, SurveyConfig) and dict(self) == dict(other)

    def located(self, faults: Sequence[str]) -> list[str]:
        """Faults that start with a dotted place, with the file and line of it when the config was read from one."""
        return list(faults) if self._document is None else [self._document.located(fault) for fault in faults]

    @field_validator("survey")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", value, re.ASCII):
            raise ValueError(f"{value!r}: expected up to 40 lower-case letters, digits and '-'.")
        return value

    @field_validator("program", "observations", mode="before")
    @classmethod
    def _are_no_booleans(cls, value: Any) -> Any:
        if any(isinstance(item, bool) for item in (value if isinstance(value, list | tuple) else [value])):
            raise ValueError(f"{value!r}: expected whole numbers, such as 1345.")
        return value

    @field_validator("observations")
    @classmethod
    def _are_observations(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 1 or max(value) > 999 or len(set(value)) != len(value)):
            raise ValueError(f"{list(value)}: expected numbers from 1 to 999, each once, at least one.")
        return value

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
            raise ValueError(f"{list(value)}: a filter stands twice.")
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
            raise ValueError(f"{', '.join(twice)} stands twice; each step runs once per exposure.")
        return value


def load_config(
    path: Path | str,
    *,
    workspace: Path | str | None = None,
    check: Callable[[SurveyConfig], Sequence[str]] | None = None,
) -> SurveyConfig:
    """Read a config file.

    Parameters
    ----------
    path : YAML file
    workspace : replaces the file's, as ``--workspace`` does
    check : finds further faults of a config; when the file has some already, it looks at the sound rest

    Raises
    ------
    ConfigError
        The file cannot be read, is not a mapping, or holds faults; each fault names file, line and what is expected.
    """
    document = read_document(path)
    data = dict(document.data)
    if workspace is not None:
        data["workspace"] = str(workspace)
    faults = list(document.faults)
    try:
        config: SurveyConfig | None = SurveyConfig(**data)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        faults += [document.fault(item, SurveyConfig) for item in wrong[:MAX_FAULTS]]
        faults += ["" for _ in wrong[MAX_FAULTS:]]  # counted, not told
        config = _sound_part(data, [tuple(item["loc"]) for item in wrong])
    if config is not None:
        config._document = document
        faults += config.located(check(config) if check is not None else ())
    if faults or config is None:
        more = [f"{path}: and {len(faults) - MAX_FAULTS} faults more."] if len(faults) > MAX_FAULTS else []
        raise ConfigError([*faults[:MAX_FAULTS], *more])
    return config


def resolved(config: SurveyConfig) -> dict[str, Any]:
    """The whole config as JSON types, defaults included: what goes into records and metadata."""
    return config.model_dump(mode="json")


def _sound_part(data: dict[str, Any], places: list[tuple[Any, ...]]) -> SurveyConfig | None:
    """The config that a file holds beside its faulty values; None when nothing sound is left of it."""
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
    # Without a server: nobody is asked for the sake of a config that is refused already.
    filled["references"] = {"context": "jwst_0001.pmap", "cache": ".", **filled["references"], "server": None}
    try:
        return SurveyConfig(**filled)
    except (ValidationError, TypeError):
        return None


def _sound_steps(value: Any) -> list[StepConfig]:
    """Every entry that names a step, once; with no settings where they are none."""
    found: dict[str, StepConfig] = {}
    for entry in value if isinstance(value, (list, tuple)) else ():
        name = next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else entry
        if isinstance(entry, StepConfig):
            found.setdefault(entry.name, entry)
        elif isinstance(name, str):
            given = entry[name] if isinstance(entry, dict) and isinstance(entry[name], dict) else {}
            found.setdefault(name, StepConfig(name=name, settings={str(key): item for key, item in given.items()}))
    return list(found.values()) or [StepConfig(name="detector1"), StepConfig(name="image2")]
