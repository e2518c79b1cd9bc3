"""The survey's config: what to reduce, read from one YAML file, every fault at once.

`load_config` reports unknown keys with the nearest known one, the line they stand in, and values of the wrong kind,
before anything starts. The parameters of the pipeline's steps are checked by the step registry (`survey.steps`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from survey.pipeline_spec import nearest
from survey.sections import ConfigPath, ExpandedText, Section, build, read_mapping

SHORT_WAVE = (
    "F070W F090W F115W F140M F150W F150W2 F162M F164N F182M F187N F200W F210M F212N".split()
)  # fmt: skip
LONG_WAVE = (
    "F250M F277W F300M F322W2 F323N F335M F356W F360M F405N F410M F430M F444W F460M F466N F470N F480M".split()
)  # fmt: skip

Server = ExpandedText

# Of a dask scheduler, as --cluster takes it: the port is optional, an IPv6 host stands in brackets.
CLUSTER_ADDRESS = re.compile(
    r"(?P<protocol>tcp|tls|ws|wss|ucx)://(?:(?P<host>[^\s/:\[\]]+)|\[(?P<ipv6>[0-9a-fA-F:]+)\])(?::\d{1,5})?", re.ASCII
)


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
        return _http(value)


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
        return None if value is None else _http(value)


class MosaicConfig(Section):
    engine: Literal["stock", "tiled"] = Field(
        "tiled", description="tiled: Image3 per exposure and per tile; stock: the pipeline's own, one process a mosaic"
    )
    per: tuple[Literal["filter", "observation"], ...] = Field(("filter",), description="what one mosaic is made of")
    pixel_scale_arcsec: float | None = Field(None, gt=0, description="[arcsec]; default: the pipeline's own choice")
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
    align_to: str | None = Field(None, description="filter whose aligned sources are the reference for the others")
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

    @field_validator("align_to")
    @classmethod
    def _is_a_filter(cls, value: str | None) -> str | None:
        known = [*SHORT_WAVE, *LONG_WAVE]
        if value is not None and value not in known:
            raise ValueError(f"{value!r} is not a NIRCam filter{nearest(value, known)}")
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


class SurveyConfig(Section):
    """What to reduce. Python users get one from `survey.load_config`."""

    survey: str = Field(description="short name, lower case; in headers, reports and metadata")
    program: int = Field(ge=1, le=99999, description="JWST program number")
    observations: tuple[int, ...] | None = Field(None, description="observation numbers; default: all")
    instrument: Literal["NIRCAM"] = "NIRCAM"
    filters: tuple[str, ...] | None = Field(None, description="default: all")
    archive: ArchiveConfig = Field(default_factory=lambda: ArchiveConfig())
    references: ReferencesConfig
    steps: tuple[StepConfig, ...] = Field(
        default=(StepConfig(name="detector1"), StepConfig(name="image2")), description="per exposure, in order"
    )
    mosaic: MosaicConfig = Field(default_factory=lambda: MosaicConfig())
    workspace: ConfigPath = Field(description="folder of all products")

    @field_validator("survey")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", value, re.ASCII):
            raise ValueError(f"{value!r}: expected up to 40 lower-case letters, digits and '-'.")
        return value

    @field_validator("observations")
    @classmethod
    def _are_observations(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 1 or max(value) > 999 or len(set(value)) != len(value)):
            raise ValueError(f"{list(value)}: expected numbers from 1 to 999, each once, at least one.")
        return value

    @field_validator("filters", mode="before")
    @classmethod
    def _are_filters(cls, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError(f"{value!r}: expected a list of filters, such as [F200W, F444W].")
        known = [*SHORT_WAVE, *LONG_WAVE]
        unknown = [name for name in value if name not in known]
        if unknown:
            raise ValueError(
                "; ".join(f"{name!r} is not a NIRCam filter{nearest(str(name), known)}" for name in unknown)
            )
        if len(set(value)) != len(value):
            raise ValueError(f"{list(value)}: a filter stands twice.")
        return tuple(value)

    @field_validator("steps", mode="before")
    @classmethod
    def _read_steps(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("expected a list such as [detector1: {}, image2: {}].")
        read, faults = [], []
        for entry in value:
            try:
                read.append(_read_step(entry))
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError(" ".join(faults))
        return tuple(read)

    @field_validator("steps")
    @classmethod
    def _steps_once(cls, value: tuple[StepConfig, ...]) -> tuple[StepConfig, ...]:
        names = [step.name for step in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice; each step runs once per exposure.")
        return value


def load_config(path: Path | str, *, workspace: Path | str | None = None) -> SurveyConfig:
    """Read a config file.

    Parameters
    ----------
    path : YAML file
    workspace : replaces the file's, as ``--workspace`` does

    Raises
    ------
    ConfigError
        The file cannot be read, is not a mapping, or holds faults; each fault names file, line and what is expected.
    """
    data, lines = read_mapping(Path(path), "survey: egs-demo")
    if workspace is not None:
        data["workspace"] = str(workspace)
    return build(SurveyConfig, Path(path), data, lines)


def resolved(config: SurveyConfig) -> dict[str, Any]:
    """The whole config as JSON types, defaults included: what goes into records and metadata."""
    return config.model_dump(mode="json")


def _http(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@]+(/[^\s@]*)?", value):
        raise ValueError(f"{value!r}: expected http(s)://host, without a user name or token.")
    return value.rstrip("/")


def _read_step(entry: Any) -> Any:
    """``detector1``, ``{detector1: {...}}`` or ``{detector1: null}`` -> name and settings."""
    if isinstance(entry, StepConfig):
        return entry
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict) and len(entry) == 1:
        name, settings = next(iter(entry.items()))
        if settings is not None and not isinstance(settings, dict):
            raise ValueError(f"{name}: expected a mapping of parameters, found {settings!r}.")
        return {"name": str(name), "settings": {str(key): value for key, value in (settings or {}).items()}}
    raise ValueError(f"{entry!r}: expected one step, such as 'image2: {{}}'.")
