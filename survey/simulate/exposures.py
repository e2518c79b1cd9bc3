"""What the telescope does for a scene: its exposures in time, their pointings and filters.

A shot is one exposure of the telescope: every detector of the scene looks at once, short wave through one filter and
long wave through another. It has one pointing error, which its detectors share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from astropy.time import Time, TimeDelta

from survey.errors import ConfigError
from survey.names import ExposureName
from survey.nircam import DETECTORS
from survey.simulate import geometry
from survey.simulate.detector import LONG_FILTERS, SHORT_FILTERS, stream
from survey.simulate.geometry import AberratedAttitude, Aim, Attitude
from survey.simulate.psf import passband
from survey.simulate.readout import readout_timing
from survey.simulate.scene import Pointing, PointingFault, Scene

OVERHEAD_S = 60.0  # between exposures
VISIT_OVERHEAD_S = 1800.0  # between observations
VISIT_GROUP, SEQUENCE = "02", "2"
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
# Powers of the plastic number: multiples of them, modulo 1, fill the unit square evenly (the R2 sequence)
_DITHER_STEPS = (0.7548776662466927, 0.5698402909980532)


@dataclass(frozen=True)
class Shot:
    """One exposure of the telescope, with the pointing of the headers and the true one (same reference point)."""

    observation: int
    visit: int
    activity: str
    exposure: int
    dithers: int
    filters: tuple[tuple[str, str], ...]  # (detector, filter), of the detectors that look
    start: str  # ISO 8601 UTC
    header: Attitude
    true: Aim
    proprietary: bool
    program: int | None = None  # None: the scene's
    epoch: int = 1
    guiding: str = "fine"  # by the header

    @property
    def va_scale(self) -> float:
        """VA_SCALE of the header: true over apparent separation."""
        return self.true.scale if isinstance(self.true, AberratedAttitude) else 1.0

    def of_program(self, scene: Scene) -> int:
        """Number of the program that the exposure belongs to."""
        return self.program or scene.program

    def name(self, scene: Scene, detector: str) -> str:
        """Archive name of a detector's file, without suffix."""
        visit = (self.of_program(scene), self.observation, self.visit)
        return str(ExposureName(*visit, VISIT_GROUP, SEQUENCE, self.activity, self.exposure, detector))


@dataclass(frozen=True)
class ExposureTimes:
    """Times of one exposure [s]."""

    frame: float
    group: float
    integration: float  # reset to last read, less the reset frame
    exposure: float  # all integrations
    duration: float  # with the resets between integrations


def exposure_times(scene: Scene) -> ExposureTimes:
    """How long an exposure of this scene takes.

    The charge of an integration grows from the reset to the last frame read: (groups - 1) groups and the frames of the
    last one. One frame time is spent on each reset.
    """
    nframes, _, frame, group = readout_timing(scene.readout.pattern, scene.subarray)
    integration = (scene.readout.groups - 1) * group + nframes * frame
    exposure = scene.readout.integrations * integration
    return ExposureTimes(frame, group, integration, exposure, exposure + scene.readout.integrations * frame)


def plan_shots(scene: Scene) -> list[Shot]:
    """All exposures of a scene, in time order.

    Raises
    ------
    ConfigError
        A filter that no detector of the scene can use, a detector or filter that NIRCam has not, a start that is no
        time, or anything named twice; all faults are told.
    """
    _check(scene)
    pairs = _filter_pairs(scene)
    origin = scene.velocity_aberration.origin_arcsec or _reference_point(scene)
    centre = _reference_point(scene)
    rng = stream(scene.seed, "pointing errors")
    step = exposure_times(scene).duration + OVERHEAD_S
    clock, shots = Time(scene.start, scale="utc"), []
    for pointing in scene.observations:
        clock = _starting(pointing, clock, scene)
        for number, filters in enumerate(pairs):
            for dither, offset in enumerate(dither_offsets(pointing)):
                header = _aim(scene, pointing, centre, offset)
                errors = rng.normal(size=3)
                shift = scene.pointing_errors.shift_arcsec * errors[:2]
                roll = scene.pointing_errors.roll_arcsec * errors[2] / 3600
                true = _aberrated(header.shifted(shift[0], shift[1], roll), pointing, scene, origin)
                shots.append(
                    Shot(
                        pointing.observation, pointing.visit, _activity(number), dither + 1, pointing.dithers, filters,
                        clock.isot, header, true, pointing.proprietary, pointing.program, pointing.epoch,
                        pointing.guiding,
                    )
                )  # fmt: skip
                clock = clock + TimeDelta(step, format="sec")
        clock = clock + TimeDelta(VISIT_OVERHEAD_S, format="sec")
    _check_faults(scene, shots)
    return shots


def _starting(pointing: Pointing, clock: Time, scene: Scene) -> Time:
    """When an observation starts: at its own time, or when the one before is over."""
    if pointing.start is None:
        return clock
    start = Time(pointing.start, scale="utc")
    if start < clock:
        raise ConfigError(
            f"scene {scene.name!r}: observation {pointing.observation}: start {pointing.start} is before the end of "
            f"the observation before it, {clock.isot}. Name observations in time order."
        )
    return start


def _aberrated(attitude: Attitude, pointing: Pointing, scene: Scene, origin: tuple[float, float]) -> Aim:
    if not scene.velocity_aberration.enabled:
        return attitude
    return AberratedAttitude(attitude, pointing.va_scale or scene.velocity_aberration.scale, origin)


def with_faults(scene: Scene, shot: Shot, detector: str) -> tuple[Shot, list[PointingFault]]:
    """A shot with the header that a detector gets: wrong where a fault of the scene says so; and those faults."""
    faults = [fault for fault in scene.pointing_faults.faults if _matches(fault, scene, shot, detector)]
    if not faults or not scene.pointing_faults.enabled:
        return shot, []
    east, north = (sum(fault.shift_mas[axis] for fault in faults) / 1000 for axis in (0, 1))
    roll = sum(fault.roll_arcsec for fault in faults) / 3600
    return replace(shot, header=shot.header.shifted(east, north, roll)), faults


def _matches(fault: PointingFault, scene: Scene, shot: Shot, detector: str) -> bool:
    facts = {
        "program": shot.of_program(scene),
        "observation": shot.observation,
        "visit": shot.visit,
        "exposure": shot.exposure,
        "activity": shot.activity,
        "filter": dict(shot.filters).get(detector),
        "detector": detector,
    }
    return all(facts[key] == value for key, value in fault.matching().items())


def _check_faults(scene: Scene, shots: list[Shot]) -> None:
    """Refuse faults that match no exposure."""
    exposures = [(shot, detector) for shot in shots for detector, _ in shot.filters]
    wrong = [
        f"scene {scene.name!r}: pointing_faults.faults.{number}: no exposure has {fault.matching()}."
        for number, fault in enumerate(scene.pointing_faults.faults)
        if not any(_matches(fault, scene, shot, detector) for shot, detector in exposures)
    ]
    if wrong:
        raise ConfigError(wrong)


def dither_offsets(pointing: Pointing) -> Iterator[tuple[float, float]]:
    """(V2, V3) offsets [arcsec] of the dithers: the first is 0, the others fill a square of the pattern's size."""
    for k in range(pointing.dithers):
        x, y = ((k * step + 0.5) % 1.0 - 0.5 for step in _DITHER_STEPS)
        yield pointing.dither_arcsec * x, pointing.dither_arcsec * y


def _aim(scene: Scene, pointing: Pointing, centre: tuple[float, float], offset: tuple[float, float]) -> Attitude:
    """The attitude that puts the target at the reference point, less the observation's offset and the dither's."""
    target = Attitude(*centre, scene.ra_deg, scene.dec_deg, (scene.roll_deg + pointing.roll_deg) % 360)
    shift_v2, shift_v3 = (pointing.offset_arcsec[axis] + offset[axis] for axis in (0, 1))
    ra, dec = target.to_sky(centre[0] + shift_v2, centre[1] + shift_v3)
    return Attitude(*centre, float(ra), float(dec), target.roll)


def _reference_point(scene: Scene) -> tuple[float, float]:
    """The point of the telescope's field that the target is put on: the middle of the scene's subarrays."""
    places = [geometry.aperture(name, scene.subarray) for name in scene.detectors]
    v2, v3 = [float(place.V2Ref) for place in places], [float(place.V3Ref) for place in places]
    return (min(v2) + max(v2)) / 2, (min(v3) + max(v3)) / 2


def _filter_pairs(scene: Scene) -> list[tuple[tuple[str, str], ...]]:
    """Per activity, what each detector looks through; the shorter list of filters starts again when it ends."""
    channels = {name: "LONG" if name.endswith("LONG") else "SHORT" for name in scene.detectors}
    filters = {channel: [f for f in scene.filters if passband(f)[2] == channel] for channel in ("SHORT", "LONG")}
    count = max(map(len, filters.values()))
    return [
        tuple((name, filters[c][k % len(filters[c])]) for name, c in channels.items() if filters[c])
        for k in range(count)
    ]


def _check(scene: Scene) -> None:
    """Refuse what NIRCam has not and what would make two files of one name; all faults at once."""
    faults = []
    for detector in scene.detectors:
        if detector not in DETECTORS:
            faults.append(f"detector {detector!r}: not of NIRCam; expected one of {', '.join(DETECTORS)}")
    for filter_name in scene.filters:
        channel = "SHORT" if filter_name in SHORT_FILTERS else "LONG"
        if filter_name not in SHORT_FILTERS + LONG_FILTERS:
            faults.append(f"filter {filter_name!r}: expected one of {', '.join(SHORT_FILTERS + LONG_FILTERS)}")
        elif not any(name.endswith("LONG") == (channel == "LONG") for name in scene.detectors):
            faults.append(
                f"filter {filter_name!r}: no {channel.lower()}-wave detector among {scene.detectors}; add one"
            )
    visits = [(p.program or scene.program, p.observation, p.visit) for p in scene.observations]
    for field, values in (("detectors", scene.detectors), ("filters", scene.filters), ("observations", visits)):
        if not values:
            faults.append(f"{field}: empty; name at least one")
        if len(set(values)) != len(values):
            faults.append(f"{field}: {values}: something occurs twice; name each once")
    for start in (scene.start, *(pointing.start for pointing in scene.observations if pointing.start is not None)):
        try:
            Time(start, scale="utc")
        except ValueError:
            faults.append(f"start: {start!r}; expected a UTC time such as 2022-12-21T00:00:00")
    if faults:
        raise ConfigError([f"scene {scene.name!r}: {fault}." for fault in faults])


def _activity(number: int) -> str:
    """Two base-36 digits; the archive counts activities in odd numbers."""
    high, low = divmod(2 * number + 1, 36)
    return _BASE36[high] + _BASE36[low]
