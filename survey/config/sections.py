"""The config's mappings: archive, references, mosaic and steps, with the default and the meaning of every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from survey.config.values import ConfigPath, Filter, Parameters, Section, Server, name_of_code
from survey.credentials import server_address
from survey.messages import shown, unquoted

SCALES_ARCSEC = (0.001, 10.0)  # of a mosaic; values outside are in another unit by mistake


class ArchiveConfig(Section):
    server: Server = Field(
        "https://mast.stsci.edu",
        description="root URL of an archive that speaks the MAST protocol",
        examples=["http://localhost:8717"],
    )
    local: ConfigPath | None = Field(
        None,
        description="folder of raw files (*_uncal.fits, also in its subfolders) to use in place of an archive; they "
        "are linked, not copied",
        examples=["/data/program1345/raw"],
    )
    timeout_seconds: float = Field(
        45.0, gt=0, description="time without progress after which a server is given up [s]", examples=[120]
    )
    downloads: int = Field(4, ge=1, le=32, description="number of files fetched at the same time", examples=[8])
    retries: int = Field(
        4, ge=0, le=20, description="further attempts for a file after an error that may be temporary", examples=[6]
    )

    @field_validator("server")
    @classmethod
    def _is_http(cls, value: str) -> str:
        return server_address(value)


class PointingConfig(Section):
    exclude: tuple[Literal["coarse", "unguided", "planned", "failed", "suspect"], ...] = Field(
        (),
        description="exposures that are left out, by what their headers say of the pointing: 'coarse' control, "
        "'unguided' without a guide star, the 'planned' position in place of the measured one, a visit that 'failed', "
        "or 'suspect' telemetry",
        examples=[["coarse", "planned"]],
    )


class ReferencesConfig(Section):
    server: Server | None = Field(
        "https://jwst-crds.stsci.edu",
        description="root URL of a CRDS server; null uses the files in the cache and asks no server",
        examples=[None],
    )
    context: str = Field(
        description="name of the CRDS context, which chooses the reference files; 'latest' is rejected",
        examples=["jwst_1584.pmap"],
    )
    cache: ConfigPath = Field(
        Path("${CRDS_PATH}"),
        validate_default=True,
        description="folder of the CRDS cache; use one cache per CRDS server",
        examples=["/data/crds"],
    )
    timeout_seconds: float = Field(
        45.0, gt=0, description="time without progress after which the server is given up [s]", examples=[120]
    )

    @field_validator("server")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return None if value is None else server_address(value)


class MosaicConfig(Section):
    engine: Literal["stock", "tiled"] = Field(
        "tiled",
        description="'tiled' runs Image3 as tasks per exposure and per tile; 'stock' runs the pipeline's own Image3 in "
        "one process per mosaic; both give the same pixels",
        examples=["stock"],
    )
    per: tuple[Literal["filter", "observation"], ...] = Field(
        ("filter",),
        description="one mosaic per filter, or per filter and observation",
        examples=[["filter", "observation"]],
    )
    pixel_scale_arcsec: float | None = Field(
        None,
        ge=SCALES_ARCSEC[0],
        le=SCALES_ARCSEC[1],
        description="side of a mosaic's pixel [arcsec]; null: the pipeline's choice",
        examples=[0.03],
    )
    crval_deg: tuple[float, float] | None = Field(
        None,
        description="right ascension and declination of crpix [deg]; null: the pipeline's choice",
        examples=[[214.825, 52.825]],
    )
    crpix: tuple[float, float] | None = Field(
        None,
        description="reference pixel (x, y), counted from 0 [pixels]; null: the pipeline's choice",
        examples=[[31584.5, 9043.5]],
    )
    rotation_deg: float | None = Field(
        None,
        description="position angle of the mosaic's y axis, from north to east [deg]; null: the pipeline's choice",
        examples=[-49.7],
    )
    shape: tuple[int, int] | None = Field(
        None, description="size (x, y) of the mosaic [pixels]; null: holds all exposures", examples=[[46200, 15400]]
    )
    pixfrac: float | None = Field(
        None,
        gt=0,
        le=1,
        description="fraction to which drizzle shrinks input pixels; null: the pipeline's choice",
        examples=[1.0],
    )
    kernel: Literal["square", "gaussian", "point", "turbo", "lanczos2", "lanczos3"] | None = Field(
        None, description="drizzle kernel; null: the pipeline's choice", examples=["square"]
    )
    weight: Literal["ivm", "ivm-sky", "exptime"] | None = Field(
        None, description="weights of exposures in drizzle; null: the pipeline's choice", examples=["ivm"]
    )
    tile: int = Field(
        2048,
        ge=64,
        description="side of a tile [pixels]; smaller tiles need less memory and make more tasks",
        examples=[4096],
    )
    margin: int = Field(
        8,
        ge=2,
        le=4096,
        description="border that is drizzled around each tile, at least, and trimmed [pixels]",
        examples=[16],
    )
    calibrated: ConfigPath | None = Field(
        None,
        description="folder of calibrated files, in which `survey mosaic --asn` finds members of an association that "
        "have no raw file; null: the folder of the association",
        examples=["/data/ceers/calibrated"],
    )
    alignment: ConfigPath | None = Field(
        None,
        description="folder of aligned WCS to apply in place of solving the alignment: for each exposure one "
        "ASDF file with a gwcs, or FITS file of the pipeline, such as <exposure>_wcs.asdf or <exposure>_tweakreg.asdf",
        examples=["runs/ceers/stage3"],
    )
    align_to: Filter | None = Field(
        None, description="filter whose aligned sources are the reference for the other filters", examples=["F444W"]
    )
    require_alignment: bool = Field(
        True,
        description="whether a mosaic is made only if tweakreg aligns all its exposures (a single one without a "
        "reference catalogue needs no alignment); false: it is made with all of them, aligned or not",
        examples=[False],
    )
    keep_intermediate: bool = Field(
        False,
        description="whether to keep pixel maps, drizzled groups and medians after the mosaic is finished",
        examples=[True],
    )
    max_missing: int = Field(
        0, ge=0, description="number of exposures that may be missing from a mosaic [exposures]", examples=[2]
    )
    image3: Parameters = Field(
        default_factory=dict,
        description="parameters of the steps of the pipeline's Image3, by the step's name",
        examples=[{"tweakreg": {"expand_refcat": True}}],
    )

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
        """Output grid and weights as parameters of the pipeline's resample step, without those that are not given."""
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

    name: str = Field(description="name of the step, such as 'detector1'")
    settings: Parameters = Field(default_factory=dict, description="parameters of the step")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """``detector1``, ``{detector1: {...}}`` or ``{detector1: null}`` -> name and settings."""
        if isinstance(value, dict) and isinstance(value.get("name"), str) and set(value) <= {"name", "settings"}:
            return value
        if isinstance(value, str | type):
            return {"name": name_of_code(value)}
        if not isinstance(value, dict) or len(value) != 1:
            raise ValueError(f"{shown(value)}: expected one step, such as 'image2: {{}}'.")
        name, settings = next(iter(value.items()))
        name = name_of_code(name)
        if settings is not None and not isinstance(settings, dict):
            raise ValueError(f"{unquoted(name)}: expected a mapping of parameters, found {shown(settings)}.")
        return {"name": str(name), "settings": {str(key): item for key, item in (settings or {}).items()}}
