"""What the plain pipeline's products show of each planted artifact: ``python benchmarks/artifacts.py``.

For each artifact of configs/scenes/deep.yaml, three exposures of one detector are simulated with all artifacts and
without that one, which leaves the noise as it is, and both go through Detector1, Image2 and Image3 with default
settings (alignment and source catalogue left out). The difference is compared with what the truth says was planted:

    share = sum(planted * difference) / sum(planted^2)

over pixels that are good in both; 1: the product has all of it, 0: nothing. A second table compares planted errors of
pointing and aberration with those of the WCS that the pipeline makes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from exposures import prepare
from measure import ROOT, say

from survey.simulate import geometry, observatory, sky
from survey.simulate.detector import Detector, load_detector
from survey.simulate.epochs import draw_variables, sources_at
from survey.simulate.exposures import Shot, exposure_times, plan_shots
from survey.simulate.scene import Scene, load_scene
from survey.simulate.truth import StoredTruth, read_truth

SCENE = ROOT / "configs" / "scenes" / "deep.yaml"
DETECTOR, FILTER = "NRCB4", "F200W"
OF_SKY = ("bright_stars", "halos", "variables")
BAD = 1  # DO_NOT_USE
FLAGS = 1 + 2 + 4  # DO_NOT_USE, SATURATED, JUMP_DET
PRODUCT = "artifacts"


@dataclass(frozen=True)
class Shown:
    """What a product shows of an artifact."""

    planted_rms: float
    found_rms: float
    share: float


@dataclass(frozen=True)
class Row:
    """One artifact; rate in mDN/s, cal and i2d in kJy/sr."""

    artifact: str
    rate: Shown
    cal: Shown
    i2d: Shown
    flagged: int  # pixels of the rates that are flagged because of it


@dataclass(frozen=True)
class Product:
    """Pixels and flags of one exposure, and its WCS."""

    rate: np.ndarray
    rate_dq: np.ndarray
    cal: np.ndarray
    cal_dq: np.ndarray
    wcs: Any


def small_scene(path: Path) -> Scene:
    """Three exposures of one detector, each of which has every artifact, and right headers."""
    document = load_scene(path).model_dump(mode="json")
    document |= {
        "detectors": [DETECTOR],
        "filters": [FILTER],
        "pointing_faults": {"enabled": False},
        "velocity_aberration": {"enabled": False},
        "observations": [document["observations"][0], document["observations"][-1]],
    }
    for name in ("scattered_stripe", "claw", "trails"):
        document["artifacts"][name]["share"] = 1.0
    # Distances from the target: the one detector looks there
    document["sky"] |= {"radius_arcsec": 16.0}
    for name, number in (("stars", 107), ("galaxies", 23), ("bright_stars", 6), ("variables", 4)):
        document["sky"][name]["number"] = number
    document["sky"]["variables"]["radius_arcsec"] = 5.0
    return Scene.model_validate(document)


def without(scene: Scene, artifact: str) -> Scene:
    """The same scene with one artifact switched off."""
    part = scene.sky if artifact in OF_SKY else scene.artifacts
    section = getattr(part, artifact).model_copy(update={"enabled": False})
    changed = part.model_copy(update={artifact: section})
    return scene.model_copy(update={"sky" if artifact in OF_SKY else "artifacts": changed})


def reduce(raw: Path, folder: Path) -> tuple[dict[str, Product], np.ndarray, Any]:
    """All exposures through the plain pipeline: products by name, the mosaic (ny, nx) [MJy/sr] and its WCS."""
    from jwst.pipeline import Detector1Pipeline, Image2Pipeline, Image3Pipeline
    from stdatamodels.jwst.datamodels import ImageModel

    folder.mkdir()
    products = {}
    for file in sorted(raw.glob("*_uncal.fits")):
        name = file.name.removesuffix("_uncal.fits")
        rate = Detector1Pipeline.call(str(file), save_results=False)
        # Image2 works on the rate itself: copy the pixels first
        rate_sci, rate_dq = np.array(rate.data), np.array(rate.dq)
        (cal,) = Image2Pipeline.call(rate, steps={"resample": {"skip": True}}, save_results=False)
        products[name] = Product(rate_sci, rate_dq, np.array(cal.data), np.array(cal.dq), cal.meta.wcs)
        cal.save(str(folder / f"{name}_cal.fits"))
    members = [{"expname": f"{name}_cal.fits", "exptype": "science"} for name in products]
    association = {"asn_rule": "none", "asn_type": "image3", "asn_pool": "none", "asn_id": "a3001", "program": "01345",
                   "products": [{"name": PRODUCT, "members": members}]}  # fmt: skip
    (folder / "asn.json").write_text(json.dumps(association))
    skipped = {"tweakreg": {"skip": True}, "source_catalog": {"skip": True}}
    Image3Pipeline.call(str(folder / "asn.json"), steps=skipped, save_results=True, output_dir=str(folder))
    with ImageModel(folder / f"{PRODUCT}_i2d.fits") as mosaic:
        return products, np.array(mosaic.data), mosaic.meta.wcs


@dataclass(frozen=True)
class Plan:
    """What was planted in the complete scene."""

    scene: Scene
    truth: StoredTruth
    detector: Detector
    sources: Table
    variables: Table

    @property
    def cut(self) -> tuple[slice, slice]:
        return geometry.window(DETECTOR, self.scene.subarray).slices

    @property
    def response(self) -> np.ndarray:
        """DN/s in a rate of a pixel that 1 e-/s of light falls on."""
        flat = self.detector.flat(FILTER)[self.cut] * self.truth.flat_ratio(DETECTOR, FILTER)
        return self.detector.response[self.cut] * flat / self.detector.gain[self.cut]

    @property
    def to_cal(self) -> np.ndarray:
        """MJy/sr of a cal over DN/s of a rate."""
        flat = self.detector.flat(FILTER)[self.cut] * self.detector.settings.gain / self.detector.gain[self.cut]
        return self.detector.photmjsr(FILTER) / flat

    def planted(self, artifact: str, name: str, rest: np.ndarray) -> np.ndarray:
        """What an artifact adds to the rate of an exposure [DN/s]; ``rest``: the rate without it."""
        gain, seconds = self.detector.gain[self.cut], exposure_times(self.scene).integration
        stored = {"trails": "trail"}.get(artifact, artifact)
        if stored in self.truth.images(name):
            return self.truth.image(name, stored)
        if artifact in ("bright_stars", "variables"):
            return self._stars(artifact, name)
        if artifact == "flat_error":
            return (self.truth.flat_ratio(DETECTOR, FILTER) - 1) * rest
        image = np.zeros(gain.shape)
        if artifact == "snowballs":
            return self.truth.snowball_charge(name, gain.shape) / gain / seconds
        if artifact == "cosmic_rays":
            rows = self.truth.rows("cosmic_rays", name)
            np.add.at(image, (np.array(rows["y"]), np.array(rows["x"])), np.array(rows["electrons"]))
            return image / gain / seconds
        rows = self.truth.rows("bad_pixels", name) if artifact == "bad_pixels" else []
        for row in rows:
            at = row["y"], row["x"]
            if row["bad"]:
                image[at] = row["value"] / gain[at] if row["kind"] == "hot" else (row["value"] - 1) * rest[at]
        return image

    def _stars(self, artifact: str, name: str) -> np.ndarray:
        shot = next(shot for shot in plan_shots(self.scene) if shot.name(self.scene, DETECTOR) == name)
        window = geometry.window(DETECTOR, self.scene.subarray)

        def rate(sources: Table, variables: Table) -> np.ndarray:
            seen = sources_at(self.scene, sources, variables, shot.start, shot.epoch)
            return sky.sky_rate(seen, self.detector, window, FILTER, shot.true, 0.0)

        fewer = self.sources[: self.scene.sky.stars.number + self.scene.sky.galaxies.number]
        bright = artifact == "bright_stars"
        less = rate(fewer, self.variables) if bright else rate(self.sources, self.variables[:0])
        return (rate(self.sources, self.variables) - less) * self.response


def compare(planted: np.ndarray, difference: np.ndarray, good: np.ndarray, unit: float) -> Shown:
    chosen = good & np.isfinite(difference) & np.isfinite(planted)
    p, d = planted[chosen].astype(float), difference[chosen].astype(float)
    share = float(np.sum(p * d) / np.sum(p**2)) if p.any() else float("nan")
    return Shown(float(p.std() * unit), float(d.std() * unit), share)


def on_mosaic(images: dict[str, np.ndarray], products: dict[str, Product], shape: tuple[int, int], wcs: Any) -> Any:
    """Mean of the exposures' pixels that are nearest to each pixel of the mosaic, (ny, nx); NaN: none."""
    y, x = np.indices(shape)
    ra, dec = wcs(x, y)
    total, number = np.zeros(shape), np.zeros(shape)
    for name, image in images.items():
        column, row = (np.rint(np.nan_to_num(v, nan=-1)).astype(int) for v in products[name].wcs.invert(ra, dec))
        inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
        good = np.zeros(shape, bool)
        good[inside] = (products[name].cal_dq[row[inside], column[inside]] & BAD) == 0
        total[good] += image[row[good], column[good]]
        number += good
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def measure_artifact(artifact: str, plan: Plan, full: tuple, less: tuple) -> Row:
    """Compare a scene's products with those without one artifact."""
    rates, cals, planted_cal, flagged = [], [], {}, 0
    for name, one in full[0].items():
        other = less[0][name]
        planted = plan.planted(artifact, name, other.rate)
        good = ((one.rate_dq | other.rate_dq) & BAD) == 0
        rates.append((planted, one.rate - other.rate, good))
        good = ((one.cal_dq | other.cal_dq) & BAD) == 0
        planted_cal[name] = planted * plan.to_cal
        cals.append((planted_cal[name], one.cal - other.cal, good))
        flagged += int((((one.rate_dq & FLAGS) != 0) & ((other.rate_dq & FLAGS) == 0)).sum())
    stacked = [tuple(np.stack(values) for values in zip(*rows, strict=True)) for rows in (rates, cals)]
    mosaic = on_mosaic(planted_cal, full[0], full[1].shape, full[2])
    return Row(
        artifact,
        compare(*stacked[0], 1e3),
        compare(*stacked[1], 1e3),
        compare(mosaic, full[1] - less[1], np.ones(mosaic.shape, bool), 1e3),
        flagged,
    )


def measure_pointings(path: Path, folder: Path) -> list[dict[str, Any]]:
    """Planted and found error of the pipeline's WCS in the middle of each array, east and north [mas]."""
    document = load_scene(path).model_dump(mode="json")
    document |= {"detectors": ["NRCA3", "NRCB3"], "filters": [FILTER], "artifacts": {},
                 "sky": {"stars": {"number": 0}, "galaxies": {"number": 0}},
                 "pointing_errors": {"shift_arcsec": 0.0, "roll_arcsec": 0.0}}  # fmt: skip
    scene = Scene.model_validate(document)
    observatory.build(folder, scene)
    truth, rows = read_truth(folder), []
    shots = {shot.name(scene, detector): (shot, detector) for shot in plan_shots(scene) for detector, _ in shot.filters}
    for name, (shot, detector) in sorted(shots.items()):
        pointing = truth.rows("pointings", name)[0]
        faults = truth.rows("pointing_faults", name)
        window = geometry.window(detector, scene.subarray)
        middle = window.nx // 2, window.ny // 2
        ra, dec = _pipeline_position(folder, name, detector, middle)
        true = shot.true.to_sky(*geometry.pixel_to_v2v3(detector, middle[0] + window.x0, middle[1] + window.y0))
        found = _offset(true, (ra, dec))
        east, north = (float(np.sum(faults[axis])) if len(faults) else 0.0 for axis in ("east_mas", "north_mas"))
        va = _aberration(shot, pointing)
        rows.append(
            {"exposure": name, "fault": [east, north], "aberration": va, "planted": [east - va[0], north - va[1]],
             "found": found}
        )  # fmt: skip
    return rows


def _pipeline_position(folder: Path, name: str, detector: str, at: tuple[int, int]) -> tuple[float, float]:
    from jwst.assign_wcs import AssignWcsStep
    from stdatamodels.jwst.datamodels import DistortionModel, ImageModel, Level1bModel

    step = AssignWcsStep()
    for reftype in step.reference_file_types:
        setattr(step, f"override_{reftype}", "N/A")
    for path in sorted((folder / "crds/references/jwst/nircam").glob("*distortion*.asdf")):
        with DistortionModel(path) as reference:
            if reference.meta.instrument.detector == detector:
                step.override_distortion = str(path)
    with Level1bModel(folder / "raw" / f"{name}_uncal.fits") as raw:
        image = ImageModel(data=np.zeros(raw.data.shape[-2:], np.float32))
        image.update(raw)
    ra, dec = step.process(image).meta.wcs(*at)
    return float(ra), float(dec)


def _offset(origin: Any, point: Any) -> list[float]:
    """East and north of a point from an origin [mas]."""
    return [
        float((point[0] - origin[0]) * np.cos(np.radians(origin[1])) * 3.6e6),
        float((point[1] - origin[1]) * 3.6e6),
    ]


def _aberration(shot: Shot, pointing: Any) -> list[float]:
    """The shift of the truth table, turned to east and north [mas]."""
    roll = np.radians(float(pointing["true_roll"]))
    v2, v3 = float(pointing["va_shift_v2"]), float(pointing["va_shift_v3"])
    return [float(v2 * np.cos(roll) + v3 * np.sin(roll)), float(v3 * np.cos(roll) - v2 * np.sin(roll))]


def measure(path: Path, chosen: list[str], scratch: Path) -> dict[str, Any]:
    scene = small_scene(path)
    names = [*type(scene.artifacts).model_fields, *OF_SKY]
    say("simulating the complete scene")
    observatory.build(scratch / "complete", scene)
    (scratch / "config").mkdir()
    os.environ.update(prepare(scratch / "config", scratch / "complete", 0))
    logging.disable(logging.ERROR)
    sources = sky.draw_sources(scene)
    plan = Plan(scene, read_truth(scratch / "complete"), load_detector(DETECTOR, scene), sources, draw_variables(scene))
    full = reduce(scratch / "complete" / "raw", scratch / "complete-products")
    rows = []
    for artifact in chosen or names:
        say(f"without {artifact}")
        twin, output = scratch / "twin", scratch / "twin-products"
        observatory.build(twin, without(scene, artifact), references=False)
        rows.append(measure_artifact(artifact, plan, full, reduce(twin / "raw", output)))
        say(line(asdict(rows[-1])))
        shutil.rmtree(twin)
        shutil.rmtree(output)
    say("pointings")
    return {
        "artifacts": [asdict(row) for row in rows],
        "pointings": measure_pointings(path, scratch / "pointings"),
        "amplitudes": plan.truth.amplitudes,
    }


def line(row: dict[str, Any]) -> str:
    cells = "".join(
        f"{row[key]['planted_rms']:10.4g}{row[key]['found_rms']:10.4g}{row[key]['share']:7.2f}"
        for key in ("rate", "cal", "i2d")
    )
    return f"{row['artifact']:19s}{cells}{row['flagged']:9d}"


def show(found: dict[str, Any]) -> None:
    print("rms of what was planted and of what the product shows of it; share that shows; pixels flagged")
    print(f"{'':19s}{'rate [mDN/s]':>27s}{'cal [kJy/sr]':>27s}{'i2d [kJy/sr]':>27s}{'flagged':>9s}")
    for row in found["artifacts"]:
        print(line(row))
    print("\nerror of the WCS in the middle of the array, east and north [mas]: fault, aberration, all planted, found")
    for row in found["pointings"]:
        cells = "".join(f"{row[key][0]:10.1f}{row[key][1]:9.1f}" for key in ("fault", "aberration", "planted", "found"))
        print(f"{row['exposure']:34s}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="*", help="only these; default: all")
    parser.add_argument("--scene", type=Path, default=SCENE)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artifacts-") as name:
        found = measure(given.scene.absolute(), given.artifacts, Path(name))
    if given.json:
        json.dump(found, sys.stdout, indent=1)
    else:
        show(found)


if __name__ == "__main__":
    main()
