"""A tiny stand-in for a simulated observatory's folder: real names and headers, a few kilobytes per file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from astropy.io import fits

CORNERS = ((214.80, 52.80), (214.81, 52.80), (214.81, 52.81), (214.80, 52.81))
OPTICS = (("NRCB1", "F200W"), ("NRCB2", "F200W"), ("NRCBLONG", "F444W"))


def write_raw(path: Path, name: str, detector: str, filter_name: str, corners=CORNERS, **keywords) -> bytes:
    """A raw file of 3 groups of 8x8 pixels; random, so that no two files are alike."""
    region = "POLYGON ICRS  " + " ".join(f"{value:.9f}" for corner in corners for value in corner)
    primary = fits.PrimaryHDU()
    header = {"TELESCOP": "JWST", "INSTRUME": "NIRCAM", "DETECTOR": detector, "FILTER": filter_name, "PUPIL": "CLEAR",
              "SUBARRAY": "SUB320", "EXP_TYPE": "NRC_IMAGE", "PROGRAM": name[2:7], "EXPSTART": 59934.5, "NGROUPS": 3,
              "NINTS": 1}  # fmt: skip
    primary.header.update(header | keywords)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    data = np.random.default_rng(seed).integers(0, 60000, (1, 3, 32, 32), dtype=np.uint16)
    science = fits.ImageHDU(data, name="SCI")
    science.header["S_REGION"] = region
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([primary, science]).writeto(path, overwrite=True)
    return path.read_bytes()


def make_observatory(
    directory: Path, *, observations=(1, 2, 3), exposures: int = 3, program: int = 1345, corners=CORNERS
) -> Path:
    """Write ``exposures.json`` and ``raw/``; observation 3 is proprietary."""
    rows = []
    for observation in observations:
        for number in range(1, exposures + 1):
            for detector, filter_name in OPTICS:
                name = f"jw{program:05d}{observation:03d}001_02101_{number:05d}_{detector.lower()}"
                content = write_raw(directory / "raw" / f"{name}_uncal.fits", name, detector, filter_name, corners)
                rows.append(
                    {
                        "name": name, "program": program, "observation": observation, "visit": 1,
                        "detector": detector, "filter": filter_name, "pupil": "CLEAR", "subarray": "SUB320",
                        "start_mjd": 59934.5 + number / 100, "groups": 3, "integrations": 1, "exposure_time_s": 10.0,
                        "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "ra_deg": corners[0][0],
                        "dec_deg": corners[0][1], "footprint": [list(corner) for corner in corners], "target": "EGS",
                        "proprietary": observation == 3,
                    }
                )  # fmt: skip
    (directory / "exposures.json").write_text(json.dumps(rows))
    return directory
