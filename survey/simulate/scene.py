"""The scene file: everything that the simulated observatory is told, with units.

One YAML file fixes a scene; with the same seed it gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Stars(_Section):
    """Point sources, drawn uniformly over the field and between the magnitude limits."""

    number: int = Field(150, ge=0, description="stars in the field")
    bright_mag: float = Field(18.0, description="AB magnitude of the brightest")
    faint_mag: float = Field(25.0, description="AB magnitude of the faintest")
    slope: float = Field(0.15, description="d log10 N / d mag of the number counts")
    separation_arcsec: float = Field(0.0, ge=0, description="no two stars are closer than this")


class Galaxies(_Section):
    """Sersic profiles, drawn uniformly over the field."""

    number: int = Field(200, ge=0)
    bright_mag: float = 19.5
    faint_mag: float = 26.5
    slope: float = 0.3
    half_light_arcsec: tuple[float, float] = (0.08, 0.6)
    sersic_index: tuple[float, float] = (0.8, 4.0)


class Sky(_Section):
    """What lies behind the telescope's aperture; the same in every filter and detector but for colours."""

    radius_arcsec: float = Field(90.0, gt=0, description="sources are drawn within this radius of the field's centre")
    stars: Stars = Stars()
    galaxies: Galaxies = Galaxies()
    zodiacal_mjy_sr: dict[str, float] = Field(
        default_factory=dict, description="surface brightness by filter [MJy/sr]; filters not named take 0.2"
    )


class Pointing(_Section):
    """One observation of the program: where it looks, and its dithers."""

    observation: int = Field(ge=1, le=999)
    visit: int = Field(1, ge=1, le=999)
    offset_arcsec: tuple[float, float] = Field((0.0, 0.0), description="(V2, V3) shift of the pointing from the target")
    roll_deg: float = Field(0.0, description="added to the scene's roll")
    dithers: int = Field(3, ge=1)
    dither_arcsec: float = Field(1.5, description="size of the dither pattern")
    proprietary: bool = Field(False, description="the archive gives it only to a token")


class PointingErrors(_Section):
    """What alignment must find: errors of the header's pointing, drawn once per exposure; its detectors share them."""

    shift_arcsec: float = Field(0.05, ge=0, description="rms per axis")
    roll_arcsec: float = Field(20.0, ge=0, description="rms roll error [arcsec of angle]")


class Readout(_Section):
    pattern: str = Field("BRIGHT1", description="NIRCam readout pattern")
    groups: int = Field(5, ge=2)
    integrations: int = Field(1, ge=1)


class DetectorSettings(_Section):
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


class CosmicRays(_Section):
    enabled: bool = True
    rate_per_cm2_s: float = Field(5.0, ge=0, description="hits per cm2 of detector and second; a pixel is 18 micron")
    mean_electrons: float = Field(2000.0, gt=0, description="of the log-normal charge distribution [e-]")


class Striping(_Section):
    """1/f noise of the readout: correlated along the fast axis, per amplifier and common."""

    enabled: bool = False
    amplitude_e: float = Field(6.0, ge=0, description="rms per read [e-]")


class Snowballs(_Section):
    enabled: bool = False
    rate_per_detector_s: float = Field(0.002, ge=0, description="per full detector and second")
    radius_px: tuple[float, float] = (8.0, 30.0)
    core_electrons: float = Field(150000.0, ge=0)


class Wisps(_Section):
    """Scattered light on A3, A4, B3 and B4 in F150W and F200W."""

    enabled: bool = False
    amplitude_e_s: float = Field(0.15, ge=0, description="peak of the template [e-/s]")


class Persistence(_Section):
    """Charge left by what saturated in the exposure before, on the same detector."""

    enabled: bool = False
    fraction: float = Field(0.001, ge=0, le=1, description="of the well that is released in the next exposure")
    decay_s: float = Field(300.0, gt=0)


class Artifacts(_Section):
    cosmic_rays: CosmicRays = CosmicRays()
    striping: Striping = Striping()
    snowballs: Snowballs = Snowballs()
    wisps: Wisps = Wisps()
    persistence: Persistence = Persistence()


class Scene(_Section):
    """One simulated program."""

    name: str = "demo"
    seed: int = Field(1345, ge=0)
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
