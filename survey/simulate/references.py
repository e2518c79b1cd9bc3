"""The reference files of the simulated observatory: what the pipeline needs to undo what the detectors did.

Files are written with fixed dates and without the writers' time stamps: the same scene gives the same bytes. Planes are
cut to the scene's subarray (the rules select by subarray), but for the area map, which the pipeline wants full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy.ndimage import uniform_filter

from survey.simulate.detector import (
    DEAD,
    DO_NOT_USE,
    FRAME,
    LONG_FILTERS,
    NO_FLAT_FIELD,
    REFERENCE_PIXEL,
    SHORT_FILTERS,
    Detector,
    Window,
    load_detector,
)
from survey.simulate.geometry import distortion_model, window
from survey.simulate.psf import PHASES, load_psf
from survey.simulate.readout import readout_timing
from survey.simulate.scene import Scene

USE_AFTER = "2021-01-01T00:00:00"
DATE = "2026-01-01T00:00:00.000"
_MODELS = {
    "mask": "MaskModel",
    "saturation": "SaturationModel",
    "superbias": "SuperBiasModel",
    "linearity": "LinearityModel",
    "dark": "DarkModel",
    "gain": "GainModel",
    "readnoise": "ReadnoiseModel",
    "flat": "FlatModel",
    "photom": "NrcImgPhotomModel",
    "area": "PixelAreaModel",
    "apcorr": "NrcImgApcorrModel",
}
# AB minus Vega magnitude by pivot wavelength [micron], near the flight values
_AB_VEGA = (
    (0.7, 0.9, 1.15, 1.5, 2.0, 2.77, 3.56, 4.1, 4.44, 4.8),
    (0.27, 0.5, 0.76, 1.2, 1.68, 2.3, 2.79, 3.09, 3.22, 3.4),
)
_ENCIRCLED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Entry:
    """One reference file, and the values of the rule's keys that select it."""

    reftype: str
    name: str
    match: tuple[str, ...]
    contexts: tuple[int, ...] = (1, 2)  # numbers of the contexts that hold it


def write_references(
    directory: Path | str,
    detectors: Iterable[str],
    filters: Iterable[str],
    subarrays: Iterable[str],
    scene: Scene,
) -> list[Entry]:
    """Write all reference files of these detectors, filters and subarrays, and say what selects each.

    Parameters
    ----------
    directory : folder of the files, made if need be
    detectors : NRCA1 ... NRCBLONG
    filters : a filter goes to the channel that has it
    subarrays : FULL, SUB640, SUB320

    Returns
    -------
    entries : list of Entry; the first flat of the first detector has a second version, for the second context

    Raises
    ------
    ConfigError
        An unknown detector, filter, subarray or readout pattern.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    writer = _Writer(folder)
    filters, subarrays = list(filters), list(subarrays)
    for position, name in enumerate(detectors):
        detector = load_detector(name, scene)
        own = [f for f in filters if f in (LONG_FILTERS if detector.channel == "LONG" else SHORT_FILTERS)]
        for subarray in subarrays:
            _write_planes(writer, detector, subarray, scene)
            for number, filter_name in enumerate(own):
                _write_flats(writer, detector, subarray, filter_name, revised=position == 0 and number == 0)
        _write_photometry(writer, detector, own)
        _write_distortion(writer, detector)
    for module, channel in sorted({(name[3], "LONG" if name.endswith("LONG") else "SHORT") for name in detectors}):
        _write_filteroffset(writer, module, channel, filters)
    _write_catalogue_tables(writer, filters, scene)
    return writer.entries


class _Writer:
    """Numbers, writes and lists the files of a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.entries: list[Entry] = []
        self._counts: dict[str, int] = {}

    def path(self, reftype: str, match: tuple[str, ...], extension: str, contexts: tuple[int, ...] = (1, 2)) -> Path:
        """The next free name of a type; entered in the list."""
        self._counts[reftype] = self._counts.get(reftype, 0) + 1
        name = f"jwst_nircam_{reftype}_{self._counts[reftype]:04d}.{extension}"
        self.entries.append(Entry(reftype, name, match, contexts))
        return self.folder / name

    def fits(
        self,
        reftype: str,
        match: tuple[str, ...],
        extensions: list[fits.ImageHDU | fits.BinTableHDU],
        keywords: dict[str, object],
        contexts: tuple[int, ...] = (1, 2),
    ) -> None:
        path = self.path(reftype, match, "fits", contexts)
        header = fits.Header(
            {
                "DATE": DATE,
                "FILENAME": path.name,
                "DATAMODL": _MODELS[reftype],
                "TELESCOP": "JWST",
                "INSTRUME": "NIRCAM",
                "REFTYPE": reftype.upper(),
                "PEDIGREE": "SIMULATION",
                "AUTHOR": "survey simulate",
                "DESCRIP": f"simulated {reftype} reference",
                "USEAFTER": USE_AFTER,
                "SIMULATD": "T",
                **keywords,
            }
        )
        fits.HDUList([fits.PrimaryHDU(header=header), *extensions]).writeto(path, overwrite=True)

    def asdf(
        self, reftype: str, match: tuple[str, ...], instrument: dict[str, str], content: dict, **meta: object
    ) -> None:
        import asdf

        path = self.path(reftype, match, "asdf")
        tree = {
            "meta": {
                "author": "survey simulate",
                "date": DATE,
                "description": f"simulated {reftype} reference",
                "filename": path.name,
                "instrument": {"name": "NIRCAM", **instrument},
                "pedigree": "SIMULATION",
                "reftype": reftype,
                "telescope": "JWST",
                "useafter": USE_AFTER,
                "exposure": {"type": "NRC_IMAGE"},
                **meta,
            },
            **content,
        }
        asdf.AsdfFile(tree).write_to(path)


def _image(name: str, data: np.ndarray) -> fits.ImageHDU:
    return fits.ImageHDU(np.ascontiguousarray(data), name=name)


def _place(detector: Detector, subarray: str, where: Window) -> dict[str, object]:
    """Header keywords of a detector's subarray."""
    return {
        "DETECTOR": detector.name,
        "MODULE": detector.module,
        "CHANNEL": detector.channel,
        "SUBARRAY": subarray,
        "SUBSTRT1": where.x0 + 1,
        "SUBSTRT2": where.y0 + 1,
        "SUBSIZE1": where.nx,
        "SUBSIZE2": where.ny,
    }


def _write_planes(writer: _Writer, detector: Detector, subarray: str, scene: Scene) -> None:
    """The references of Detector1 for one subarray."""
    where = window(detector.name, subarray)
    cut = where.slices
    place = _place(detector, subarray, where)
    match = (detector.name, subarray)
    # The pipeline's read noise is that of the difference of two single reads (stcal.jump: "read_noise_2 is CDS")
    cds_noise = (detector.read_noise[cut] * np.float32(np.sqrt(2))).astype(np.float32)
    no_flags = _image("DQ", np.zeros((where.ny, where.nx), np.uint8))
    for reftype, extensions in (
        ("mask", [_image("DQ", detector.mask[cut])]),
        ("saturation", [_image("SCI", detector.saturation[cut]), no_flags]),
        ("superbias", [_image("SCI", detector.superbias[cut])]),
        ("linearity", [_image("COEFFS", detector.linearity[(slice(None), *cut)]), no_flags]),
        ("gain", [_image("SCI", detector.gain[cut])]),
        ("readnoise", [_image("SCI", cds_noise)]),
    ):
        writer.fits(reftype, match, extensions, place)
    _write_dark(writer, detector, subarray, scene)


def _write_dark(writer: _Writer, detector: Detector, subarray: str, scene: Scene) -> None:
    """Dark counts at the mean time of each group, read in the scene's pattern and as long as its exposures."""
    where = window(detector.name, subarray)
    timing = readout_timing(scene.readout.pattern, subarray)
    rate = (detector.dark / detector.gain)[where.slices]
    seconds = np.array([timing.mean_seconds(group) for group in range(scene.readout.groups)], np.float32)
    keywords = _place(detector, subarray, where) | {
        "EXP_TYPE": "NRC_DARK",
        "READPATT": scene.readout.pattern,
        "NFRAMES": timing.nframes,
        "NGROUPS": scene.readout.groups,
        "GROUPGAP": timing.groupgap,
        "TFRAME": timing.frame_s,
        "TGROUP": timing.group_s,
    }
    counts, no_flags = seconds[:, None, None] * rate, np.zeros(rate.shape, np.uint8)
    writer.fits("dark", (detector.name, subarray), [_image("SCI", counts), _image("DQ", no_flags)], keywords)


def _write_flats(writer: _Writer, detector: Detector, subarray: str, filter_name: str, revised: bool) -> None:
    """The flat of a filter; ``revised``: another one for the second context.

    Flats are measured in counts: where the gain is higher than nominal, a pixel counts less.
    """
    where = window(detector.name, subarray)
    mask = detector.mask[where.slices]
    flags = np.zeros(mask.shape, np.uint32)
    flags[(mask & (REFERENCE_PIXEL | DEAD)) != 0] = NO_FLAT_FIELD | DO_NOT_USE
    keywords = _place(detector, subarray, where) | {"EXP_TYPE": "NRC_IMAGE", "FILTER": filter_name, "PUPIL": "CLEAR"}
    counting = np.float32(detector.settings.gain) / detector.gain[where.slices]
    for version, contexts in ((1, (1,)), (2, (2,))) if revised else ((1, (1, 2)),):
        flat = detector.flat(filter_name, version)[where.slices] * counting
        writer.fits(
            "flat",
            (detector.name, filter_name, subarray),
            [_image("SCI", flat), _image("DQ", flags)],
            keywords,
            contexts,
        )


def _write_photometry(writer: _Writer, detector: Detector, filters: list[str]) -> None:
    """Flux conversion of each filter, and the map of pixel areas, full frame."""
    area = {"PIXAR_SR": detector.pixel_area_sr, "PIXAR_A2": detector.pixel_area_arcsec2}
    place = _place(detector, "FULL", Window(0, 0, FRAME, FRAME))
    conversion = [detector.photmjsr(name) for name in filters]
    table = _table(
        "PHOTOM",
        [
            ("filter", "12A", filters),
            ("pupil", "12A", ["CLEAR"] * len(filters)),
            ("photmjsr", "E", conversion),
            ("uncertainty", "E", [0.01 * value for value in conversion]),
        ],
    )
    writer.fits("photom", (detector.name,), [table], place | area | {"EXP_TYPE": "NRC_IMAGE"})
    writer.fits("area", (detector.name,), [_image("SCI", detector.relative_area)], place | area)


def _write_distortion(writer: _Writer, detector: Detector) -> None:
    writer.asdf(
        "distortion",
        (detector.name,),
        {
            "detector": detector.name,
            "module": detector.module,
            "channel": detector.channel,
            "p_pupil": "CLEAR|",
        },
        {"model": distortion_model(detector.name)},
        input_units="pixel",
        output_units="arcsec",
    )


def _write_filteroffset(writer: _Writer, module: str, channel: str, filters: list[str]) -> None:
    """No offsets: the simulated filters shift nothing."""
    own = [name for name in filters if name in (LONG_FILTERS if channel == "LONG" else SHORT_FILTERS)]
    rows = [{"filter": name, "pupil": "CLEAR", "row_offset": 0.0, "column_offset": 0.0} for name in own]
    writer.asdf("filteroffset", (channel, module), {"module": module, "channel": channel}, {"filters": rows})


def _write_catalogue_tables(writer: _Writer, filters: list[str], scene: Scene) -> None:
    """What the source catalogue of Image3 asks for: aperture corrections, and AB to Vega offsets."""
    rows = list(_aperture_rows(filters))
    names = ("filter", "pupil", "eefraction", "radius", "apcorr", "skyin", "skyout")
    formats = ("12A", "15A", "E", "E", "E", "E", "E")
    columns = [
        (name, form, [row[i] for row in rows]) for i, (name, form) in enumerate(zip(names, formats, strict=True))
    ]
    writer.fits("apcorr", ("NRC_IMAGE",), [_table("APCORR", columns)], {"EXP_TYPE": "NRC_IMAGE"})
    offsets = Table(
        {
            "filter": filters,
            "pupil": ["CLEAR"] * len(filters),
            "abvega_offset": np.array([np.interp(int(f[1:4]) / 100, *_AB_VEGA) for f in filters], np.float32),
        }
    )
    writer.asdf("abvegaoffset", ("NRC_IMAGE",), {}, {"abvega_offset": offsets})


def _aperture_rows(filters: list[str]) -> Iterator[tuple]:
    """Radii [pixels] that hold a share of a star's light, and the factor to the whole of it."""
    for name in filters:
        for share, radius in zip(_ENCIRCLED, _encircled_radii(name), strict=True):
            yield name, "CLEAR", share, radius, 1 / share, 12.0, 17.0


def _encircled_radii(filter_name: str) -> np.ndarray:
    """Radius [pixels] of the circle about a star that holds each share of ``_ENCIRCLED``, averaged over phases."""
    psf = load_psf(filter_name)
    image = uniform_filter(psf.fine, PHASES, mode="constant")  # a pixel wide
    y, x = np.indices(image.shape) - (np.array(image.shape) // 2)[:, None, None]
    radius = np.hypot(x, y).ravel() / PHASES
    order = np.argsort(radius, kind="stable")
    growth = np.cumsum(image.ravel()[order])
    return np.interp(_ENCIRCLED, growth / growth[-1], radius[order])


def _table(name: str, columns: list[tuple[str, str, list]]) -> fits.BinTableHDU:
    return fits.BinTableHDU.from_columns(
        [fits.Column(name=label, format=form, array=values) for label, form, values in columns], name=name
    )
