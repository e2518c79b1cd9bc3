"""The detectors of the simulated NIRCam: what every pixel is like, drawn once from the scene's seed.

All arrays are full frames (2048, 2048) in science (DMS) orientation, indexed [y, x], 0-based.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from survey.errors import ConfigError
from survey.nircam import DETECTORS
from survey.simulate.geometry import Window, nominal_pixel_area_arcsec2, relative_pixel_area
from survey.simulate.scene import DetectorSettings, Scene

__all__ = ["Detector", "Window", "active_area", "load_detector", "stream"]

FRAME = 2048
REFERENCE_BORDER = 4  # rows and columns of reference pixels at each edge
AMPLIFIER_WIDTH = 512  # columns read by one of the four outputs of a full frame
STERADIAN_PER_ARCSEC2 = (np.pi / 180 / 3600) ** 2
WISP_FILTERS = ("F150W", "F200W")

# jwst datamodels' pixel flags (stdatamodels.jwst.datamodels.dqflags.pixel); a test compares them
DO_NOT_USE = 2**0
DEAD = 2**10
HOT = 2**11
NO_FLAT_FIELD = 2**18
REFERENCE_PIXEL = 2**31

# Hot pixels beyond this dark current are flagged DO_NOT_USE as well [e-/s]
USELESS_DARK_E_S = 10.0
WELL_MARGIN = 0.02  # of the usable signal: how far the well reaches beyond the level that is flagged
QUADRATIC_SHARE = 0.7  # of the loss at saturation that is due to the quadratic term, the rest is cubic

# Nominal conversion [MJy/sr per DN/s], near the flight values
_PHOTMJSR = {
    "F070W": 4.0,
    "F090W": 2.8,
    "F115W": 2.4,
    "F140M": 3.9,
    "F150W": 1.95,
    "F162M": 3.3,
    "F182M": 2.5,
    "F200W": 1.65,
    "F210M": 2.6,
    "F250M": 1.15,
    "F277W": 0.43,
    "F300M": 0.74,
    "F335M": 0.66,
    "F356W": 0.38,
    "F360M": 0.66,
    "F410M": 0.80,
    "F430M": 1.75,
    "F444W": 0.40,
    "F460M": 2.6,
    "F480M": 2.0,
}
LONG_FILTERS = tuple(name for name in _PHOTMJSR if int(name[1:4]) > 240)
SHORT_FILTERS = tuple(name for name in _PHOTMJSR if int(name[1:4]) <= 240)


@dataclass(frozen=True, eq=False)
class Detector:
    """One detector; all arrays (2048, 2048), float32 but for ``mask``.

    gain [e-/DN]; read_noise [DN, one read]; superbias [DN]; dark [e-/s]; saturation [DN, bias included], the level at
    which the pipeline flags; mask: uint32 flags of the jwst datamodels; response: 0 where light leaves no charge (dead
    and reference pixels), else 1; quadratic: coefficient of the linearity polynomial [1/DN]; cubic [1/DN^2].
    """

    name: str
    module: str  # 'A' or 'B'
    channel: str  # 'SHORT' or 'LONG'
    seed: int
    settings: DetectorSettings
    gain: np.ndarray
    read_noise: np.ndarray
    superbias: np.ndarray
    dark: np.ndarray
    saturation: np.ndarray
    mask: np.ndarray
    response: np.ndarray
    quadratic: np.ndarray
    cubic: float

    @property
    def linearity(self) -> np.ndarray:
        """Coefficients (4, 2048, 2048), float32: true DN = sum of c[k] measured^k, for bias-subtracted DN."""
        planes = np.zeros((4, FRAME, FRAME), np.float32)
        planes[1], planes[2], planes[3] = 1.0, self.quadratic, self.cubic
        return planes

    @property
    def well(self) -> np.ndarray:
        """Level at which the output stops to rise [DN, bias included], (2048, 2048) float32."""
        return self.saturation + np.float32(WELL_MARGIN * (self.settings.saturation_dn - self.settings.bias_dn))

    def flat(self, filter_name: str, version: int = 1) -> np.ndarray:
        """Relative charge from a uniform sky, (2048, 2048) float32, median 1 over the frame, finite everywhere.

        It holds the solid angle of the pixels, as flats made from the sky do: light divided by it is a surface
        brightness. Version 2 differs from version 1 by a smooth pattern of 1% rms.
        """
        return _flat(self.name, self.seed, self.settings, filter_name, version)

    def photmjsr(self, filter_name: str) -> float:
        """Conversion of this detector and filter [MJy/sr per DN/s].

        Raises
        ------
        ConfigError
            The filter is not one that this channel has.
        """
        known = LONG_FILTERS if self.channel == "LONG" else SHORT_FILTERS
        if filter_name not in known:
            raise ConfigError(f"{self.name}: no filter {filter_name!r} here; this channel has {', '.join(known)}.")
        # Detectors differ by a few percent, the same way whatever the seed
        spread = (zlib.crc32(f"{self.name}/{filter_name}".encode()) % 2001 - 1000) / 1000
        return round(_PHOTMJSR[filter_name] * (1 + 0.03 * spread), 5)

    @property
    def pixel_area_arcsec2(self) -> float:
        """Nominal solid angle of a pixel [arcsec^2]: at the full frame's reference point."""
        return nominal_pixel_area_arcsec2(self.name)

    @property
    def pixel_area_sr(self) -> float:
        return self.pixel_area_arcsec2 * STERADIAN_PER_ARCSEC2

    @property
    def relative_area(self) -> np.ndarray:
        """Solid angle of each pixel over the nominal one, (2048, 2048) float32: the area reference."""
        return relative_pixel_area(self.name)

    def electrons_per_mjy_sr(self, filter_name: str) -> float:
        """Charge rate of a uniform surface brightness before the flat field [e-/s per MJy/sr]."""
        return self.settings.gain / self.photmjsr(filter_name)

    def electrons_per_ujy(self, filter_name: str) -> float:
        """Charge rate of a source whose light all falls on pixels of the nominal area, before the flat [e-/s per uJy].

        Where the relative area of the pixels is A, the rate before the flat is this, divided by A: the flat holds A.
        """
        return self.electrons_per_mjy_sr(filter_name) * 1e-12 / self.pixel_area_sr


def load_detector(name: str, scene: Scene) -> Detector:
    """The detector ``name`` of a scene: the same arrays for the same seed and settings.

    Raises
    ------
    ConfigError
        Not the name of a NIRCam detector.
    """
    if name not in DETECTORS:
        raise ConfigError(f"{name!r}: not a NIRCam detector; expected one of {', '.join(DETECTORS)}.")
    return _draw(name, scene.seed, scene.detector)


def stream(seed: int, *labels: str) -> np.random.Generator:
    """A random generator of its own for a seed and labels, the same on every machine."""
    return np.random.default_rng([seed, *(zlib.crc32(label.encode()) for label in labels)])


def active_area() -> np.ndarray:
    """True where light can be detected: inside the border of reference pixels, (2048, 2048) bool."""
    active = np.zeros((FRAME, FRAME), bool)
    active[REFERENCE_BORDER:-REFERENCE_BORDER, REFERENCE_BORDER:-REFERENCE_BORDER] = True
    return active


@lru_cache(maxsize=5)
def _draw(name: str, seed: int, settings: DetectorSettings) -> Detector:
    active = active_area()
    dark, hot = _dark(name, seed, settings, active)
    dead = active & ~hot & (stream(seed, name, "dead").random((FRAME, FRAME), np.float32) < settings.dead_fraction)
    dark[dead] = 0.0
    mask = np.where(active, 0, REFERENCE_PIXEL).astype(np.uint32)
    mask[hot] |= HOT
    mask[hot & (dark > USELESS_DARK_E_S)] |= DO_NOT_USE
    mask[dead] |= DEAD | DO_NOT_USE

    usable = settings.saturation_dn - settings.bias_dn
    loss = 1 / (1 - settings.nonlinearity) - 1  # true over measured signal at saturation, less 1
    quadratic = _normal(stream(seed, name, "linearity"), QUADRATIC_SHARE * loss / usable, 0.05)
    return _read_only(
        Detector(
            name=name,
            module=name[3],
            channel="LONG" if name.endswith("LONG") else "SHORT",
            seed=seed,
            settings=settings,
            gain=_normal(stream(seed, name, "gain"), settings.gain, settings.gain_structure),
            read_noise=_normal(stream(seed, name, "read noise"), settings.read_noise_e / settings.gain, 0.05),
            superbias=_superbias(name, seed, settings),
            dark=dark,
            saturation=np.round(settings.bias_dn + _normal(stream(seed, name, "saturation"), usable, 0.01), 0).astype(
                np.float32
            ),
            mask=mask,
            response=(active & ~dead).astype(np.float32),
            quadratic=quadratic,
            cubic=(1 - QUADRATIC_SHARE) * loss / usable**2,
        )
    )


def _read_only(detector: Detector) -> Detector:
    """The same detector; its arrays are shared by all exposures, so nobody may write into them."""
    for value in vars(detector).values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return detector


def _normal(rng: np.random.Generator, mean: float, relative_rms: float) -> np.ndarray:
    """A frame of normal deviates, float32; cut at 4 sigma so that no pixel turns absurd."""
    frame = rng.standard_normal((FRAME, FRAME), np.float32)
    np.clip(frame, -4, 4, out=frame)
    frame *= np.float32(mean * relative_rms)
    frame += np.float32(mean)
    return frame


def _superbias(name: str, seed: int, settings: DetectorSettings) -> np.ndarray:
    """Bias level with the fixed pattern: per column, per amplifier, per pixel; [DN]."""
    rng = stream(seed, name, "superbias")
    pixel = rng.standard_normal((FRAME, FRAME), np.float32)
    column = rng.standard_normal(FRAME).astype(np.float32)
    amplifier = np.repeat(rng.standard_normal(FRAME // AMPLIFIER_WIDTH).astype(np.float32), AMPLIFIER_WIDTH)
    # Shares of the variance: 3/4 pixel, 1/8 each the others
    pixel *= np.float32(settings.bias_structure_dn * 0.75**0.5)
    pixel += (settings.bias_structure_dn * 0.125**0.5 * (column + amplifier) + settings.bias_dn).astype(np.float32)
    return pixel


def _dark(name: str, seed: int, settings: DetectorSettings, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dark current [e-/s] and the hot pixels (bool): log-normal about the median, hot ones log-uniform in 1-50 e-/s."""
    rng = stream(seed, name, "dark")
    dark = rng.standard_normal((FRAME, FRAME), np.float32)
    np.clip(dark, -4, 4, out=dark)
    dark *= np.float32(0.4)
    np.exp(dark, out=dark)
    dark *= np.float32(settings.dark_e_s)
    hot = active & (rng.random((FRAME, FRAME), np.float32) < settings.hot_fraction)
    dark[hot] = 50.0 ** rng.random(int(hot.sum()))
    dark[~active] = 0.0
    return dark, hot


def _smooth(rng: np.random.Generator, waves: int = 4) -> np.ndarray:
    """A smooth random pattern over the frame, zero mean, unit rms, (2048, 2048) float32."""
    axis = np.linspace(-1, 1, FRAME, dtype=np.float32)
    pattern = np.zeros((FRAME, FRAME), np.float32)
    for _ in range(waves):
        kx, ky, phase = rng.uniform((-4, -4, 0), (4, 4, 2 * np.pi)).astype(np.float32)
        # sin(a + b) split into products of rows and columns: no transcendental function per pixel
        row, column = kx * axis, ky * axis + phase
        pattern += np.outer(np.sin(column), np.cos(row)) + np.outer(np.cos(column), np.sin(row))
    pattern -= pattern.mean()
    pattern /= pattern.std()
    return pattern


@lru_cache(maxsize=6)
def _flat(name: str, seed: int, settings: DetectorSettings, filter_name: str, version: int) -> np.ndarray:
    flat = _normal(stream(seed, name, "flat pixels"), 1.0, settings.flat_pixel_rms)
    flat *= 1 + np.float32(settings.flat_large_scale / 2) * _smooth(stream(seed, name, filter_name, "flat"))
    if version != 1:
        flat *= 1 + np.float32(0.01) * _smooth(stream(seed, name, filter_name, f"flat version {version}"))
    flat *= relative_pixel_area(name)
    flat /= np.median(flat)
    flat.setflags(write=False)
    return flat
