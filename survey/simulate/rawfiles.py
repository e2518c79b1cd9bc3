"""Raw files as the archive has them: a detector's counts under the header that the pipeline reads.

The header's pointing is the one that the observatory believes in, not the true one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.time import Time, TimeDelta
from stdatamodels.jwst.datamodels import Level1bModel

from survey.simulate import geometry
from survey.simulate.exposures import SEQUENCE, VISIT_GROUP, Shot, exposure_times
from survey.simulate.psf import passband
from survey.simulate.ramps import Ramp
from survey.simulate.readout import readout_timing
from survey.simulate.scene import Scene


def write_uncal(path: Path, scene: Scene, shot: Shot, detector: str, filter_name: str, ramp: Ramp) -> None:
    """Write a detector's raw exposure as a level-1b file that the pipeline reads.

    The same arguments give the same bytes: the file's date is the end of the exposure.
    """
    with _RawModel(data=ramp.data) as model:
        if ramp.zeroframe is not None:
            model.zeroframe = ramp.zeroframe
        model.update({"meta": header(scene, shot, detector, filter_name, ramp)})
        model.extra_fits = {"PRIMARY": {"header": [["SIMULATD", "T", "simulated data"]]}}
        model.save(str(path))


class _RawModel(Level1bModel):
    """A Level1bModel that keeps the clock on the wall out of its file."""

    def on_save(self, path: str | None = None) -> None:
        super().on_save(path)
        self.meta.model_type = "Level1bModel"
        self.meta.date = self.meta.observation.date_end


def header(scene: Scene, shot: Shot, detector: str, filter_name: str, ramp: Ramp) -> dict[str, Any]:
    """Metadata of a raw exposure, as a tree of the jwst datamodels' ``meta``."""
    nints, ngroups = ramp.data.shape[:2]
    return {
        "telescope": "JWST",
        "origin": "SIMULATED",
        "time_sys": "UTC",
        "time_unit": "s",
        "filename": f"{shot.name(scene, detector)}_uncal.fits",
        "program": {"title": f"Simulated program {scene.name}", "pi_name": "UNKNOWN", "category": "ERS"},
        "target": _target(scene, shot),
        "instrument": {
            "name": "NIRCAM",
            "detector": detector,
            "module": detector[3],
            "channel": passband(filter_name)[2],
            "filter": filter_name,
            "pupil": "CLEAR",
        },
        "observation": _observation(scene, shot),
        **_guiding(shot),
        "dither": {"primary_type": "INTRAMODULE" if scene.subarray == "FULL" else "SUBARRAY_DITHER",
                   "primary_points": shot.dithers, "total_points": shot.dithers, "position_number": shot.exposure},
        "exposure": _exposure(scene, shot, nints, ngroups, ramp.zeroframe is not None),
        "coordinates": {"reference_frame": "ICRS"},
        "velocity_aberration": {"scale_factor": shot.va_scale, "va_ra_ref": shot.header.ra,
                                "va_dec_ref": shot.header.dec},
        **_placing(scene, shot, detector),
    }  # fmt: skip


def _guiding(shot: Shot) -> dict[str, Any]:
    """What the header says of the visit, its guiding, and where its position comes from."""
    quality = {"coarse": "CALCULATED_COARSE_TR_202111", "planned": "PLANNED"}
    found: dict[str, Any] = {
        "visit": {
            "type": "PRIME_TARGETED_FIXED",
            "status": "UNSUCCESSFUL" if shot.guiding == "failed" else "SUCCESSFUL",
            "tsovisit": False,
            "internal_target": False,
            "engdb_pointing_quality": quality.get(shot.guiding, "CALCULATED_TRACK_TR_202111"),
            "engineering_quality": "OK",
        }
    }
    modes = {"coarse": "COARSE", "unguided": "NONE"}
    if shot.guiding in modes:
        found["guidestar"] = {"gs_pcs_mode": modes[shot.guiding]}
    return found


def _target(scene: Scene, shot: Shot) -> dict[str, Any]:
    return {
        "proposer_name": scene.target,
        "catalog_name": scene.target,
        "type": "FIXED",
        "ra": scene.ra_deg,
        "dec": scene.dec_deg,
        "proposer_ra": scene.ra_deg,
        "proposer_dec": scene.dec_deg,
        "source_type_apt": "UNKNOWN",
    }


def _observation(scene: Scene, shot: Shot) -> dict[str, Any]:
    begin = Time(shot.start, scale="utc")
    end = begin + TimeDelta(exposure_times(scene).duration, format="sec")
    visit = f"{shot.of_program(scene):05d}{shot.observation:03d}{shot.visit:03d}"
    return {
        "date": begin.isot[:10],
        "time": begin.isot[11:],
        "date_beg": begin.isot,
        "date_end": end.isot,
        "obs_id": f"V{visit}P0000000{VISIT_GROUP}{SEQUENCE}{shot.activity}",
        "visit_id": visit,
        "program_number": f"{shot.of_program(scene):05d}",
        "observation_number": f"{shot.observation:03d}",
        "visit_number": f"{shot.visit:03d}",
        "visit_group": VISIT_GROUP,
        "sequence_id": SEQUENCE,
        "activity_id": shot.activity,
        "exposure_number": str(shot.exposure),
        "bkgdtarg": False,
        "template": "NIRCam Imaging",
        "observation_label": scene.target,
    }


def _exposure(scene: Scene, shot: Shot, nints: int, ngroups: int, zero_frame: bool) -> dict[str, Any]:
    times = exposure_times(scene)
    nframes, groupgap, _, _ = readout_timing(scene.readout.pattern, scene.subarray)
    begin = Time(shot.start, scale="utc").mjd
    end = begin + times.duration / 86400
    mid = (begin + end) / 2
    return {
        "type": "NRC_IMAGE",
        "prime_parallel": "PRIME",
        "count": 1,
        "readpatt": scene.readout.pattern,
        "nints": nints,
        "ngroups": ngroups,
        "nframes": nframes,
        "groupgap": groupgap,
        "frame_divisor": nframes,
        "drop_frames1": 0,
        "drop_frames3": 0,
        "integration_start": 1,
        "integration_end": nints,
        "noutputs": 4 if scene.subarray == "FULL" else 1,
        "nsamples": 1,
        "sample_time": 10,
        "frame_time": times.frame,
        "group_time": times.group,
        "integration_time": times.integration,
        "exposure_time": times.exposure,
        "effective_exposure_time": times.exposure,
        "measurement_time": nints * (ngroups - 1) * times.group,
        "duration": times.duration,
        "elapsed_exposure_time": times.duration,
        "nresets_at_start": 1,
        "nresets_between_ints": 1 if nints > 1 else 0,
        "zero_frame": zero_frame,
        "data_problem": False,
        "start_time": begin,
        "mid_time": mid,
        "end_time": end,
        "start_time_mjd": begin,
        "mid_time_mjd": mid,
        "end_time_mjd": end,
    }


def _placing(scene: Scene, shot: Shot, detector: str) -> dict[str, Any]:
    """Subarray, aperture, pointing and wcsinfo: where the header says that the pixels look."""
    place = geometry.aperture(detector, scene.subarray)
    window = geometry.window(detector, scene.subarray)
    here = shot.header.at(float(place.V2Ref), float(place.V3Ref))
    boresight = shot.header.at(0.0, 0.0)
    pa_aperture = (here.roll + float(place.V3IdlYAngle)) % 360
    fastaxis, slowaxis = geometry.readout_axes(detector)
    return {
        "subarray": {
            "name": scene.subarray,
            "xstart": window.x0 + 1,
            "ystart": window.y0 + 1,
            "xsize": window.nx,
            "ysize": window.ny,
            "fastaxis": fastaxis,
            "slowaxis": slowaxis,
        },
        "aperture": {"name": place.AperName, "pps_name": place.AperName, "position_angle": pa_aperture},
        "pointing": {"ra_v1": boresight.ra, "dec_v1": boresight.dec, "pa_v3": boresight.roll},
        "wcsinfo": {
            "wcsaxes": 2,
            "crpix1": float(place.XSciRef),
            "crpix2": float(place.YSciRef),
            "crval1": here.ra,
            "crval2": here.dec,
            "ctype1": "RA---TAN",
            "ctype2": "DEC--TAN",
            "cunit1": "deg",
            "cunit2": "deg",
            "cdelt1": float(place.XSciScale) / 3600,
            "cdelt2": float(place.YSciScale) / 3600,
            **_rotation_matrix(pa_aperture, int(place.VIdlParity)),
            "s_region": s_region(footprint(scene, shot, detector)),
            "v2_ref": here.v2,
            "v3_ref": here.v3,
            "vparity": int(place.VIdlParity),
            "v3yangle": float(place.V3IdlYAngle),
            "ra_ref": here.ra,
            "dec_ref": here.dec,
            "roll_ref": here.roll,
            "velosys": 0.0,
        },
    }


def _rotation_matrix(pa_aperture: float, parity: int) -> dict[str, float]:
    """PC matrix of the header's linear WCS."""
    angle = np.radians(pa_aperture)
    return {
        "pc1_1": float(parity * np.cos(angle)),
        "pc1_2": float(np.sin(angle)),
        "pc2_1": float(-parity * np.sin(angle)),
        "pc2_2": float(np.cos(angle)),
    }


def footprint(scene: Scene, shot: Shot, detector: str) -> list[list[float]]:
    """Outer corners of a detector's window by the header's pointing, [[ra, dec] * 4] in degrees."""
    window = geometry.window(detector, scene.subarray)
    x = window.x0 + np.array([-0.5, window.nx - 0.5, window.nx - 0.5, -0.5])
    y = window.y0 + np.array([-0.5, -0.5, window.ny - 0.5, window.ny - 0.5])
    ra, dec = shot.header.to_sky(*geometry.pixel_to_v2v3(detector, x, y))
    return [[round(float(a), 9), round(float(d), 9)] for a, d in zip(ra, dec, strict=True)]


def s_region(corners: list[list[float]]) -> str:
    """Corners as the archive's S_REGION."""
    return "POLYGON ICRS  " + " ".join(f"{value:.9f}" for corner in corners for value in corner)
