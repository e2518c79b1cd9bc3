"""Build a simulated observatory's folder: raw exposures, the truth beside them, and CRDS rules and references.

    DIR/scene.yaml         the scene as built
    DIR/raw/               raw exposures
    DIR/truth/             what was planted
    DIR/crds/              two contexts and their reference files
    DIR/exposures.json     one entry per raw file; written last, so a folder without it is unfinished

With the same scene every file has the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.table import Table
from astropy.time import Time

from survey.digest import file_sha256
from survey.errors import ConfigError
from survey.simulate import geometry, rules, sky
from survey.simulate.detector import Detector, load_detector, stream
from survey.simulate.exposures import Shot, exposure_times, plan_shots
from survey.simulate.ramps import Ramp, View, make_ramp
from survey.simulate.rawfiles import footprint, write_uncal
from survey.simulate.scene import Scene
from survey.simulate.truth import Truth

Progress = Callable[[int, int, str], None]  # done, total, name of what was just made
INDEX = "exposures.json"
_OWN_FOLDERS = ("raw", "truth", "crds")


def build(directory: Path | str, scene: Scene, *, progress: Progress | None = None) -> None:
    """Make a whole observatory in a folder; the same scene gives the same bytes.

    A folder that holds an earlier one is replaced.

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
    truth = Truth(sources)
    entries: list[dict[str, Any]] = []
    total = sum(len(shot.filters) for shot in shots) + 1
    for detector_name in scene.detectors:  # one detector at a time: its arrays are large
        detector = load_detector(detector_name, scene)
        for shot, filter_name, ramp in _expose(scene, shots, sources, detector):
            name = shot.name(scene, detector_name)
            path = directory / "raw" / f"{name}_uncal.fits"
            write_uncal(path, scene, shot, detector_name, filter_name, ramp)
            place = geometry.aperture(detector_name, scene.subarray)
            zodiacal = sky.zodiacal_mjy_sr(scene, filter_name) * detector.electrons_per_mjy_sr(filter_name)
            truth.add(name, shot, (float(place.V2Ref), float(place.V3Ref)), zodiacal, ramp)
            entries.append(_entry(path, name, scene, shot, detector_name, filter_name))
            if progress:
                progress(len(entries), total, name)
    truth.write(directory / "truth")
    rules.write_crds(directory, scene)
    if progress:
        progress(total, total, "crds")
    entries.sort(key=lambda entry: (entry["start_mjd"], entry["name"]))
    (directory / INDEX).write_text(json.dumps(entries, indent=1) + "\n")


def _expose(scene: Scene, shots: list[Shot], sources: Table, detector: Detector) -> Any:
    """Yield (shot, filter, ramp) of one detector in time order; what saturates lingers in the next exposure."""
    window = geometry.window(detector.name, scene.subarray)
    residual: np.ndarray | None = None
    for shot in shots:
        filter_name = dict(shot.filters).get(detector.name)
        if filter_name is None:
            continue
        zodiacal = sky.zodiacal_mjy_sr(scene, filter_name)
        rate = sky.sky_rate(sources, detector, window, filter_name, shot.true, zodiacal)
        rng = stream(scene.seed, "ramp", shot.name(scene, detector.name))
        ramp = make_ramp(rate, View(detector, window, filter_name), scene.readout, scene.artifacts, rng, residual)
        residual = _residual(scene, detector, window, ramp)
        yield shot, filter_name, ramp


def _residual(scene: Scene, detector: Detector, window: geometry.Window, ramp: Ramp) -> np.ndarray | None:
    """Charge (ny, nx) [e-] held by the pixels that an exposure saturated; None without persistence."""
    if not scene.artifacts.persistence.enabled:
        return None
    where = window.slices
    well = (detector.saturation[where] - detector.superbias[where]) * detector.gain[where]
    return np.where(ramp.saturated, well, 0.0)


def _entry(path: Path, name: str, scene: Scene, shot: Shot, detector: str, filter_name: str) -> dict[str, Any]:
    times = exposure_times(scene)
    start = Time(shot.start, scale="utc").mjd
    corners = footprint(scene, shot, detector)
    centre = geometry.window(detector, scene.subarray)
    v2, v3 = geometry.pixel_to_v2v3(detector, centre.x0 + (centre.nx - 1) / 2, centre.y0 + (centre.ny - 1) / 2)
    ra, dec = shot.header.to_sky(v2, v3)
    return {
        "name": name,
        "program": scene.program,
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
    own = {INDEX, "scene.yaml", *_OWN_FOLDERS}
    if not (directory / "scene.yaml").is_file() or any(item.name not in own for item in directory.iterdir()):
        raise ConfigError(f"{directory}: not empty, and no simulated observatory; name a new or empty folder.")
    (directory / INDEX).unlink(missing_ok=True)
    for name in _OWN_FOLDERS:
        shutil.rmtree(directory / name, ignore_errors=True)
