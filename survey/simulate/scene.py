"""The scene file: everything that the simulated observatory is told, with units.

One YAML file fixes a scene; with the same seed it gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from survey.simulate.sections import (
    Artifacts,
    CosmicRays,
    Persistence,
    Section,
    Snowballs,
    Striping,
    Wisps,
)

__all__ = [
    "Artifacts",
    "CosmicRays",
    "Persistence",
    "Scene",
    "Snowballs",
    "Striping",
    "Wisps",
    "load_scene",
]


class Stars(Section):
    """Point sources, drawn uniformly over the field and between the magnitude limits."""

    number: int = Field(150, ge=0, description="stars in the field")
    bright_mag: float = Field(18.0, description="AB magnitude of the brightest")
    faint_mag: float = Field(25.0, description="AB magnitude of the faintest")
    slope: float = Field(0.15, description="d log10 N / d mag of the number counts")
    separation_arcsec: float = Field(0.0, ge=0, description="no two stars are closer than this")


class Galaxies(Section):
    """Sersic profiles, drawn uniformly over the field."""

    number: int = Field(200, ge=0)
    bright_mag: float = 19.5
    faint_mag: float = 26.5
    slope: float = 0.3
    half_light_arcsec: tuple[float, float] = (0.08, 0.6)
    sersic_index: tuple[float, float] = (0.8, 4.0)


class BrightStars(Section):
    """More stars, brighter than the others, drawn apart from them."""

    enabled: bool = False
    number: int = Field(4, ge=0)
    bright_mag: float = Field(16.0, description="AB magnitude of the brightest")
    faint_mag: float = Field(20.0, description="AB magnitude of the faintest")


class Halos(Section):
    """Faint exponential halos about galaxies, the same surface brightness in every filter."""

    enabled: bool = False
    share: float = Field(0.2, ge=0, le=1, description="of the galaxies that have one")
    mag_arcsec2: float = Field(28.0, description="AB surface brightness at the half-light radius [mag/arcsec2]")
    half_light_arcsec: float = Field(2.5, gt=0)


class Variables(Section):
    """Point sources whose brightness differs between epochs."""

    enabled: bool = False
    number: int = Field(1, ge=0)
    mag_ab: dict[int, float] = Field(
        default_factory=lambda: {2: 21.0}, description="epoch: AB magnitude; invisible in epochs not named"
    )
    radius_arcsec: float = Field(5.0, ge=0, description="drawn within this radius of the field's centre")


class ProperMotions(Section):
    """Motions of the stars; positions in the truth catalogue are those at the scene's start."""

    enabled: bool = False
    rms_mas_yr: float = Field(5.0, ge=0, description="per axis [mas/yr]")


class Sky(Section):
    """What lies behind the telescope's aperture; the same in every filter and detector but for colours."""

    radius_arcsec: float = Field(90.0, gt=0, description="sources are drawn within this radius of the field's centre")
    stars: Stars = Stars()
    galaxies: Galaxies = Galaxies()
    bright_stars: BrightStars = BrightStars()
    halos: Halos = Halos()
    variables: Variables = Variables()
    proper_motions: ProperMotions = ProperMotions()
    zodiacal_mjy_sr: dict[str, float] = Field(
        default_factory=dict, description="surface brightness by filter [MJy/sr]; filters not named take 0.2"
    )


class Pointing(Section):
    """One observation of the program: where it looks, and its dithers."""

    observation: int = Field(ge=1, le=999)
    visit: int = Field(1, ge=1, le=999)
    offset_arcsec: tuple[float, float] = Field((0.0, 0.0), description="(V2, V3) shift of the pointing from the target")
    roll_deg: float = Field(0.0, description="added to the scene's roll")
    dithers: int = Field(3, ge=1)
    dither_arcsec: float = Field(1.5, description="size of the dither pattern")
    proprietary: bool = Field(False, description="the archive gives it only to a token")
    epoch: int = Field(1, ge=1, description="which state of variable sources it sees")
    start: str | None = Field(None, description="UTC of its first exposure; default: after the observation before")
    program: int | None = Field(None, ge=1, le=99999, description="default: the scene's")
    guiding: Literal["fine", "coarse", "unguided", "planned", "failed"] = Field(
        "fine", description="what the headers say of its pointing; it is as good as that of the others"
    )
    va_scale: float | None = Field(None, gt=0.999, lt=1.001, description="default: velocity_aberration.scale")


class PointingErrors(Section):
    """What alignment must find: errors of the header's pointing, drawn once per exposure; its detectors share them."""

    shift_arcsec: float = Field(0.05, ge=0, description="rms per axis")
    roll_arcsec: float = Field(20.0, ge=0, description="rms roll error [arcsec of angle]")


class PointingFault(Section):
    """A wrong pointing in the header of chosen exposures: fields that are not given match everything."""

    program: int | None = None
    observation: int | None = None
    visit: int | None = None
    exposure: int | None = Field(None, ge=1, description="number of the dither")
    activity: str | None = Field(None, description="two digits, as in the exposure's name: which pair of filters")
    filter: str | None = Field(None, description="only exposures through this filter")
    detector: str | None = None
    shift_mas: tuple[float, float] = Field((0.0, 0.0), description="header minus truth to the east and north [mas]")
    roll_arcsec: float = Field(0.0, description="header minus truth [arcsec of angle]")

    @model_validator(mode="after")
    def _narrow(self) -> Self:
        if not self.matching():
            raise ValueError(
                "matches every exposure; give an observation, visit, exposure, activity, filter or detector"
            )
        return self

    def matching(self) -> dict[str, int | str]:
        """The fields that choose exposures, with their values."""
        keys = ("program", "observation", "visit", "exposure", "activity", "filter", "detector")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}


class PointingFaults(Section):
    """Headers that are wrong about the pointing; the pixels are those of the right pointing."""

    enabled: bool = True
    faults: list[PointingFault] = Field(default_factory=list)


class VelocityAberration(Section):
    """The sky appears scaled about one point of the telescope's field, and headers have the factor in VA_SCALE.

    The jwst pipeline scales about each detector's own reference point instead, so it leaves a shift of each detector.
    """

    enabled: bool = False
    scale: float = Field(0.9999, gt=0.999, lt=1.001, description="VA_SCALE: true over apparent separation")
    origin_arcsec: tuple[float, float] | None = Field(
        None, description="(V2, V3) of the point that stays; default: where the target is put"
    )


class ReferenceCatalogue(Section):
    """A catalogue of the stars' positions as a survey such as Gaia would have it."""

    enabled: bool = False
    epoch: float = Field(2016.0, description="Julian year of the positions")
    bright_mag: float = Field(14.0, description="stars brighter than this are missing [AB]")
    faint_mag: float = Field(21.0, description="stars fainter than this are missing [AB]")
    completeness: float = Field(0.95, ge=0, le=1, description="share of the stars between the limits that are listed")
    error_mas: float = Field(0.3, ge=0, description="rms error per axis of a star at the faint limit [mas]")
    error_slope: float = Field(0.2, description="d log10 error / d mag")
    floor_mas: float = Field(0.02, ge=0, description="least error per axis [mas]")
    motion_error_mas_yr: float = Field(0.3, ge=0, description="of proper motions, at the faint limit [mas/yr]")
    offset_mas: tuple[float, float] = Field((0.0, 0.0), description="of the whole frame to the east and north [mas]")


class Readout(Section):
    pattern: str = Field("BRIGHT1", description="NIRCam readout pattern")
    groups: int = Field(5, ge=2)
    integrations: int = Field(1, ge=1)


class DetectorSettings(Section):
    """Detector physics; per-pixel structure is drawn from the scene's seed."""

    gain: float = Field(1.85, gt=0, description="[e-/DN]; long wave uses the same value")
    gain_structure: float = Field(0.01, description="rms relative pixel-to-pixel")
    read_noise_e: float = Field(11.0, description="single-read noise [e-]")
    bias_dn: float = Field(12000.0, description="level of the superbias [DN]")
    bias_structure_dn: float = Field(250.0, description="rms of its fixed pattern [DN]")
    dark_e_s: float = Field(0.003, ge=0, description="median dark current [e-/s]")
    saturation_dn: float = Field(58000.0, description="level above which counts are flagged, bias included [DN]")
    nonlinearity: float = Field(0.03, ge=0, lt=0.2, description="fractional loss of signal at saturation")
    flat_pixel_rms: float = Field(0.01, description="pixel-to-pixel")
    flat_large_scale: float = Field(0.05, description="amplitude of large-scale structure")
    hot_fraction: float = Field(0.001, description="pixels with dark current 1-50 e-/s, flagged in the mask")
    bias_drift_dn: float = Field(
        2.0, description="rms drift of an amplifier's bias between reads, where reference pixels can record it [DN]"
    )
    dead_fraction: float = Field(0.0005, description="pixels with no response, flagged in the mask")


class Scene(Section):
    """One simulated program."""

    name: str = "demo"
    seed: int = Field(1345, ge=0)
    random_streams: Literal["shared", "separate"] = Field(
        "shared",
        description="separate: every artifact has random numbers of its own, so that a scene without one of them has "
        "the same noise; shared: as in earlier versions",
    )
    program: int = Field(1345, ge=1, le=99999)
    target: str = "EGS"
    ra_deg: float = 214.825
    dec_deg: float = 52.825
    roll_deg: float = Field(-49.7, description="position angle of V3 at the target [deg]")
    start: str = Field("2022-12-21T00:00:00", description="UTC of the first exposure")
    detectors: list[str] = Field(default_factory=lambda: ["NRCB1", "NRCB2", "NRCB3", "NRCB4", "NRCBLONG"])
    filters: list[str] = Field(
        default_factory=lambda: ["F200W", "F444W"],
        description="short-wave filters go to the short-wave chips, long-wave filters to the long-wave ones",
    )
    subarray: Literal["FULL", "SUB640", "SUB320"] = "SUB320"
    readout: Readout = Readout()
    observations: list[Pointing] = Field(default_factory=lambda: [Pointing(observation=1), Pointing(observation=2)])
    pointing_errors: PointingErrors = PointingErrors()
    pointing_faults: PointingFaults = PointingFaults()
    velocity_aberration: VelocityAberration = VelocityAberration()
    reference_catalogue: ReferenceCatalogue = ReferenceCatalogue()
    sky: Sky = Sky()
    detector: DetectorSettings = DetectorSettings()
    artifacts: Artifacts = Artifacts()


def load_scene(path: Path | str, seed: int | None = None) -> Scene:
    """Read a scene file; ``seed`` replaces the file's.

    Raises
    ------
    ConfigError
        The file cannot be read, or a value is wrong; every fault is named.
    """
    from survey.errors import ConfigError

    try:
        data = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(data).__name__}.")
    if seed is not None:
        data["seed"] = seed
    try:
        return Scene.model_validate(data)
    except ValidationError as error:
        faults = [f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError(faults) from error
