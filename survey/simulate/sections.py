"""Sections of the scene file for artifacts: what disturbs an exposure, each with a switch and an amplitude.

`survey.simulate.scene` holds the rest of the scene file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the scene file. Unknown keys, infinities and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"the first value is larger than the second: {limits[0]:g} > {limits[1]:g}")
    return limits


def _positive(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] <= 0:
        raise ValueError(f"expected positive values, found {limits[0]:g}")
    return limits


def _shares(limits: tuple[float, float]) -> tuple[float, float]:
    if not (limits[0] >= 0 and limits[1] <= 1):
        raise ValueError(f"expected values from 0 to 1, found {limits[0]:g} and {limits[1]:g}")
    return limits


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
PositiveRange = Annotated[tuple[float, float], AfterValidator(_ascending), AfterValidator(_positive)]
ShareRange = Annotated[tuple[float, float], AfterValidator(_ascending), AfterValidator(_shares)]
Share = Annotated[float, Field(ge=0, le=1)]


class CosmicRays(Section):
    enabled: bool = True
    rate_per_cm2_s: float = Field(5.0, ge=0, description="hits per cm2 of detector and second; a pixel is 18 micron")
    mean_electrons: float = Field(2000.0, gt=0, description="of the log-normal charge distribution [e-]")


class Striping(Section):
    """1/f noise of the readout: correlated along the fast axis, per amplifier and common."""

    enabled: bool = False
    amplitude_e: float = Field(6.0, ge=0, description="rms per read [e-]")


class ColumnNoise(Section):
    """An offset of each column, drawn for every read. Reference pixels do not show it."""

    enabled: bool = False
    amplitude_e: float = Field(2.0, ge=0, description="rms over the columns of one read [e-]")


class EvenOddNoise(Section):
    """An offset between even and odd columns of each amplifier, drawn for every read. Reference pixels lack it."""

    enabled: bool = False
    amplitude_e: float = Field(2.0, ge=0, description="rms over reads; even columns get it, odd ones its negative [e-]")


class AmplifierOffsets(Section):
    """An offset of each amplifier, drawn for every read. Reference pixels do not show it."""

    enabled: bool = False
    amplitude_e: float = Field(3.0, ge=0, description="rms over reads [e-]")


class Snowballs(Section):
    """Large events: a saturated core in a halo.

    The profile 'disc' ends at the radius. The profile 'power_law' continues beyond it as a faint tail.
    """

    enabled: bool = False
    rate_per_detector_s: float = Field(0.002, ge=0, description="per full detector and second")
    radius_px: PositiveRange = Field((8.0, 30.0), description="the core is 0.4 of it")
    core_electrons: float = Field(150000.0, ge=0)
    profile: Literal["disc", "power_law"] = "disc"
    tail_electrons: float = Field(1000.0, ge=0, description="charge per pixel at the edge of the core [e-]; power_law")
    tail_slope: float = Field(2.0, gt=0, description="the tail falls as distance^-slope; power_law")
    tail_reach: float = Field(6.0, gt=1, description="the tail ends at this many radii; power_law")
    axis_ratio: ShareRange = Field((0.6, 1.0), description="minor over major axis; power_law")
    first_group_share: Share = Field(0.0, description="of the events come before the first read; power_law")
    edge_share: Share = Field(0.0, description="of the events have their centre on an edge of the array; power_law")


class Wisps(Section):
    """Scattered light on A3, A4, B3 and B4 in F150W and F200W."""

    enabled: bool = False
    amplitude_e_s: float = Field(0.15, ge=0, description="mean peak of the first component [e-/s]")
    components: int = Field(1, ge=1, le=3, description="templates that vary apart; each has half the last one's peak")
    variation: float = Field(0.3, ge=0, le=1, description="rms of a component's strength over exposures, relative")
    templates: Literal["builtin", "nmfwisp", "auto"] = Field(
        "builtin", description="auto: those of the package nmfwisp if it is installed, else the built-in ones"
    )


class Persistence(Section):
    """Charge left by what saturated in earlier exposures, on the same detector."""

    enabled: bool = False
    fraction: float = Field(0.001, ge=0, le=1, description="of the well, trapped by saturation and released later")
    decay_s: float = Field(300.0, gt=0)
    across_exposures: bool = Field(
        False,
        description="release by the time since the saturation, in all later exposures; "
        "otherwise all of it in the next exposure",
    )


class FlatError(Section):
    """The true flat differs from the one in CRDS by a smooth random pattern."""

    enabled: bool = False
    rms: float = Field(0.01, ge=0, le=0.1, description="relative")
    scale_px: float = Field(64.0, ge=2, description="full width at half maximum of the smoothing [pixels]")


class SkyGradient(Section):
    """Diffuse light that rises across the array, in a direction drawn for each exposure."""

    enabled: bool = False
    amplitude_mjy_sr: float = Field(0.02, ge=0, description="from one side of the array to the other [MJy/sr]")


class ScatteredStripe(Section):
    """A straight band of scattered light, at a place and angle drawn for each exposure."""

    enabled: bool = False
    amplitude_mjy_sr: float = Field(0.03, ge=0, description="on the axis of the band [MJy/sr]")
    width_px: float = Field(60.0, gt=0, description="full width at half maximum [pixels]")
    share: Share = Field(1.0, description="of the exposures that have one")


class Claw(Section):
    """Curved bands of scattered light from a bright star far outside the field."""

    enabled: bool = False
    amplitude_mjy_sr: float = Field(0.06, ge=0, description="on the axis of the brightest band [MJy/sr]")
    width_px: float = Field(20.0, gt=0, description="full width at half maximum of a band [pixels]")
    share: Share = Field(0.5, description="of the exposures that have one")


class Trails(Section):
    """An object that moves through the field during the exposure: a satellite, an asteroid."""

    enabled: bool = False
    share: Share = Field(0.5, description="of the exposures that have one")
    mag_ab: Range = Field((17.0, 20.0), description="AB magnitude in every filter")
    speed_arcsec_s: PositiveRange = Field((0.3, 3.0), description="[arcsec/s]")


class BadPixels(Section):
    """New hot and open pixels that the bad-pixel mask in CRDS does not have."""

    enabled: bool = False
    hot_fraction: Share = Field(0.0003, description="of the good pixels")
    hot_e_s: PositiveRange = Field((0.5, 20.0), description="additional dark current, log-uniform [e-/s]")
    open_fraction: Share = Field(0.0001, description="of the good pixels")
    open_response: ShareRange = Field((0.0, 0.3), description="signal over that of a good pixel")
    intermittent_share: Share = Field(0.3, description="of the new bad pixels are bad in part of the exposures only")
    duty: Share = Field(0.5, description="share of exposures in which an intermittent pixel is bad")


class Artifacts(Section):
    cosmic_rays: CosmicRays = CosmicRays()
    striping: Striping = Striping()
    column_noise: ColumnNoise = ColumnNoise()
    even_odd_noise: EvenOddNoise = EvenOddNoise()
    amplifier_offsets: AmplifierOffsets = AmplifierOffsets()
    snowballs: Snowballs = Snowballs()
    wisps: Wisps = Wisps()
    persistence: Persistence = Persistence()
    flat_error: FlatError = FlatError()
    sky_gradient: SkyGradient = SkyGradient()
    scattered_stripe: ScatteredStripe = ScatteredStripe()
    claw: Claw = Claw()
    trails: Trails = Trails()
    bad_pixels: BadPixels = BadPixels()
