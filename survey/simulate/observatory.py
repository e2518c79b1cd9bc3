"""Build a simulated observatory's folder: raw exposures, the truth beside them, and CRDS rules and references.

    DIR/scene.yaml         the scene as built
    DIR/raw/               raw exposures
    DIR/truth/             what was planted
    DIR/crds/              two contexts and their reference files
    DIR/reference_catalogue.ecsv  the stars as an earlier survey has them, if the scene asks for it
    DIR/exposures.json     one entry per raw file; written last, so a folder without it is unfinished

With the same scene every file has the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.table import Table
from astropy.time import Time

from survey.digest import file_sha256
from survey.errors import ConfigError
from survey.simulate import geometry, rules, sky
from survey.simulate.badpixels import flat_ratio
from survey.simulate.detector import Detector, load_detector, stream
from survey.simulate.epochs import draw_variables, reference_catalogue, sources_at
from survey.simulate.exposures import Shot, exposure_times, plan_shots, with_faults
from survey.simulate.halos import draw_halos, halo_rate
from survey.simulate.persistence import PERSISTENCE, TrapMemory
from survey.simulate.ramps import Ramp, View, make_ramp
from survey.simulate.rawfiles import footprint, write_uncal
from survey.simulate.scene import Scene
from survey.simulate.streams import Streams
from survey.simulate.truth import Truth, write_images

Progress = Callable[[int, int, str], None]  # done, total, name of what was just made
INDEX = "exposures.json"
CATALOGUE = "reference_catalogue.ecsv"
_OWN_FOLDERS = ("raw", "truth", "crds")


def build(directory: Path | str, scene: Scene, *, progress: Progress | None = None, references: bool = True) -> None:
    """Make a whole observatory in a folder; the same scene gives the same bytes.

    A folder that holds an earlier one is replaced.

    Parameters
    ----------
    progress : called after each exposure
    references : False leaves out the CRDS rules and reference files, which many scenes may have in common

    Raises
    ------
    ConfigError
        The scene asks for what NIRCam does not have, or the folder holds something else.
    """
    directory = Path(directory)
    shots = plan_shots(scene)
    _clear(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(scene.model_dump(mode="json"), sort_keys=False)
    (directory / "scene.yaml").write_text(text)  # first: it marks the folder as one that may be cleared
    (directory / "raw").mkdir()

    sources = sky.draw_sources(scene)
    drawn = _Sky(sources, draw_variables(scene), draw_halos(scene, sources))
    truth = Truth(sources)
    entries: list[dict[str, Any]] = []
    total = sum(len(shot.filters) for shot in shots) + 1
    for detector_name in scene.detectors:  # one detector at a time: its arrays are large
        detector = load_detector(detector_name, scene)
        for seen, filter_name, ramp, remnants in _expose(scene, shots, drawn, detector):
            shot, faults = with_faults(scene, seen, detector_name)
            name = shot.name(scene, detector_name)
            path = directory / "raw" / f"{name}_uncal.fits"
            write_uncal(path, scene, shot, detector_name, filter_name, ramp)
            write_images(directory / "truth" / "images" / f"{name}.fits.gz", ramp.images, "DN/s")
            place = geometry.aperture(detector_name, scene.subarray)
            zodiacal = sky.zodiacal_mjy_sr(scene, filter_name) * detector.electrons_per_mjy_sr(filter_name)
            truth.add(name, shot, (float(place.V2Ref), float(place.V3Ref)), zodiacal, ramp)
            truth.add_faults(name, faults)
            truth.add_rows("persistence", name, remnants)
            entries.append(_entry(path, name, scene, shot, detector_name, filter_name))
            if progress:
                progress(len(entries), total, name)
        _write_flats(directory, scene, detector, {dict(shot.filters).get(detector_name) for shot in shots})
    truth.write(directory / "truth")
    _write_catalogues(directory, scene, drawn)
    if references:
        rules.write_crds(directory, scene)
    if progress:
        progress(total, total, "crds")
    entries.sort(key=lambda entry: (entry["start_mjd"], entry["name"]))
    (directory / INDEX).write_text(json.dumps(entries, indent=1) + "\n")


@dataclass(frozen=True)
class _Sky:
    """What of the sky is drawn once for the scene."""

    sources: Table
    variables: Table
    halos: Table


def _expose(
    scene: Scene, shots: list[Shot], drawn: _Sky, detector: Detector
) -> Iterator[tuple[Shot, str, Ramp, np.ndarray]]:
    """Expose one detector in time order; what saturates lingers in later exposures.

    Yields
    ------
    shot, filter, ramp, and the charge received from earlier exposures: rows of `persistence.PERSISTENCE`
    """
    window = geometry.window(detector.name, scene.subarray)
    residual: np.ndarray | None = None
    settings, memory = scene.artifacts.persistence, _trap_memory(scene, detector, window)
    duration = exposure_times(scene).duration
    for shot in shots:
        filter_name = dict(shot.filters).get(detector.name)
        if filter_name is None:
            continue
        start = Time(shot.start, scale="utc").mjd * 86400
        name, remnants = shot.name(scene, detector.name), np.zeros(0, PERSISTENCE)
        if memory is not None:
            residual = memory.at(start) if memory.trapped.any() else None
            remnants = memory.by_source(start, duration)
        rate = _sky_rate(scene, shot, drawn, View(detector, window, filter_name))
        streams = _streams(scene, name)
        ramp = make_ramp(rate, View(detector, window, filter_name), scene.readout, scene.artifacts, streams, residual)
        if memory is not None:
            memory.saturate(name, ramp.saturated, start + duration)
        elif settings.enabled:
            residual = np.where(ramp.saturated, _well(detector, window), 0.0)
        yield shot, filter_name, ramp, remnants


def _sky_rate(scene: Scene, shot: Shot, drawn: _Sky, view: View) -> dict[str, np.ndarray]:
    """The sky of an exposure, and what of it is an artifact of its own, as `make_ramp` wants it."""
    detector, window, filter_name = view.detector, view.window, view.filter_name
    zodiacal = sky.zodiacal_mjy_sr(scene, filter_name)
    sources = sources_at(scene, drawn.sources, drawn.variables, shot.start, shot.epoch)
    rates = {"sky_rate": sky.sky_rate(sources, detector, window, filter_name, shot.true, zodiacal)}
    if scene.sky.halos.enabled:
        rates["halos"] = halo_rate(drawn.halos, detector, window, filter_name, shot.true)
    return rates


def _streams(scene: Scene, name: str) -> Streams:
    """The random generators of an exposure."""
    shared = stream(scene.seed, "ramp", name) if scene.random_streams == "shared" else None
    return Streams(scene.seed, name, shared)


def _trap_memory(scene: Scene, detector: Detector, window: geometry.Window) -> TrapMemory | None:
    """What the detector remembers of earlier exposures; None without persistence across exposures."""
    settings = scene.artifacts.persistence
    if not (settings.enabled and settings.across_exposures):
        return None
    return TrapMemory(settings, _well(detector, window))


def _well(detector: Detector, window: geometry.Window) -> np.ndarray:
    """Charge (ny, nx) [e-] that a saturated pixel holds."""
    where = window.slices
    return (detector.saturation[where] - detector.superbias[where]) * detector.gain[where]


def _write_flats(directory: Path, scene: Scene, detector: Detector, filters: set[str | None]) -> None:
    """Write the true flats of a detector over those in CRDS, if they differ."""
    settings, where = scene.artifacts.flat_error, geometry.window(detector.name, scene.subarray).slices
    for filter_name in sorted(name for name in filters if name) if settings.enabled else ():
        ratio = flat_ratio(detector.name, filter_name, scene.seed, settings)[where]
        name = f"{detector.name.lower()}_{filter_name.lower()}.fits.gz"
        write_images(directory / "truth" / "flats" / name, {"ratio": ratio}, "")


def _write_catalogues(directory: Path, scene: Scene, drawn: _Sky) -> None:
    """Write the tables of halos and variables, and the reference catalogue, of scenes that have them."""
    tables = {
        directory / "truth" / "halos.ecsv": drawn.halos if scene.sky.halos.enabled else None,
        directory / "truth" / "variables.ecsv": drawn.variables if scene.sky.variables.enabled else None,
    }
    if scene.reference_catalogue.enabled:
        tables[directory / CATALOGUE] = reference_catalogue(scene, drawn.sources)
    for path, table in tables.items():
        if table is not None:
            table.write(path, format="ascii.ecsv", overwrite=True)


def _entry(path: Path, name: str, scene: Scene, shot: Shot, detector: str, filter_name: str) -> dict[str, Any]:
    times = exposure_times(scene)
    start = Time(shot.start, scale="utc").mjd
    corners = footprint(scene, shot, detector)
    centre = geometry.window(detector, scene.subarray)
    v2, v3 = geometry.pixel_to_v2v3(detector, centre.x0 + (centre.nx - 1) / 2, centre.y0 + (centre.ny - 1) / 2)
    ra, dec = shot.header.to_sky(v2, v3)
    return {
        "name": name,
        "program": shot.of_program(scene),
        "observation": shot.observation,
        "visit": shot.visit,
        "detector": detector,
        "filter": filter_name,
        "pupil": "CLEAR",
        "subarray": scene.subarray,
        "start_mjd": start,
        "end_mjd": start + times.duration / 86400,
        "groups": scene.readout.groups,
        "integrations": scene.readout.integrations,
        "exposure_time_s": times.exposure,
        "size": path.stat().st_size,
        "sha256": file_sha256(path),
        "ra_deg": round(float(ra), 9),
        "dec_deg": round(float(dec), 9),
        "footprint": corners,
        "target": scene.target,
        "proprietary": shot.proprietary,
    }


def _clear(directory: Path) -> None:
    """Remove an earlier observatory from a folder, its index first.

    Raises
    ------
    ConfigError
        The folder is not empty and holds no observatory.
    """
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory}: is a file; name a folder for the observatory.")
    if not directory.exists() or not any(directory.iterdir()):
        return
    own = {INDEX, CATALOGUE, "scene.yaml", *_OWN_FOLDERS}
    if not (directory / "scene.yaml").is_file() or any(item.name not in own for item in directory.iterdir()):
        raise ConfigError(f"{directory}: not empty, and no simulated observatory; name a new or empty folder.")
    for name in (INDEX, CATALOGUE):
        (directory / name).unlink(missing_ok=True)
    for name in _OWN_FOLDERS:
        shutil.rmtree(directory / name, ignore_errors=True)
