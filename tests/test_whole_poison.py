"""A whole run among poison: what is wrong in itself is lost, and no one else; names that no grammar knows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from astropy.io import fits
from poison import make_poison
from test_whole import MOSAICS, assert_same_pixels
from whole_run import document

pytestmark = [pytest.mark.whole, pytest.mark.xdist_group("whole")]

CONFIG = """\
survey: small
program: 1345
archive: {{local: "{folder}/rohdaten ü"}}
references: {{server: "{crds}", context: jwst_0001.pmap, cache: "{folder}/crds caché"}}
steps:
  - detector1: {{jump: {{rejection_threshold: 4.0}}}}
  - subtract_striping: {{}}
  - image2: {{}}
mosaic:
  tile: 256
  max_missing: 6
  image3: {{tweakreg: {{expand_refcat: true}}}}
workspace: "{folder}/läufe 星"
"""
# Where each is caught: as its file is read, or by its first task.
NOT_READ = {
    "wrong detector": "holds detector NRCALONG by its header, expected NRCBLONG",
    "truncated": "but the file has",
}
REFUSED = {
    "NaN ramp": "samples that are NaN or infinite",
    "zero ramp": "never changes",
    "zero groups": "declares NGROUPS = 0 and holds 5",
    "no groups at all": "expected integrations x groups x rows x columns",
}


def test_poison_is_lost_and_nothing_else(small, finished, tmp_path):
    """Under a locale that knows no letter of the folder's names, with spaces in them."""
    folder = tmp_path / "wörk späce 'x'"
    raw = folder / "rohdaten ü"
    raw.mkdir(parents=True)
    for path in (small.folder / "observatory" / "raw").glob("*.fits"):
        shutil.copy(path, raw)
    made = make_poison(min(raw.glob("*_nrcblong_uncal.fits")), raw)
    config = folder / "konfiguration é.yaml"
    config.write_text(CONFIG.format(folder=folder, crds=small.server.crds_url), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "survey.cli", "run", str(config), "--json"], capture_output=True, text=True,
        timeout=600, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    assert {made[what] for what in NOT_READ} == set(said["missing"])
    for what, words in NOT_READ.items():
        assert words in said["missing"][made[what]]
    records = small.records(folder / "läufe 星")
    for what, words in REFUSED.items():
        record = records[f"detector1/{made[what]}"]
        assert (record["status"], record["error_class"]) == ("failed", "never")
        assert words in record["error"], record["error"]
        assert (folder / "läufe 星" / record["log"]).is_file()
        behind = said["failed"][f"image2/{made[what]}"]
        assert behind.startswith(f"not run, because detector1/{made[what]} failed: ") and words in behind
    lost = sorted(made[what] for what in (*NOT_READ, *REFUSED))
    assert said["incomplete"] == {MOSAICS["F444W"]: lost}
    # A file whose bits flipped before the archive took them is a file like any other; its pixels are not all lost.
    assert records[f"image2/{made['bit-flipped']}"]["measurements"]["usable"] > 0.9
    header = fits.getheader(folder / "läufe 星" / "mosaics" / f"{MOSAICS['F444W']}_i2d.fits")
    assert header["SVYNMISS"] == 6
    assert sorted(header[f"SVYM{number:04d}"] for number in range(1, 7)) == lost
    assert records[f"assemble/{MOSAICS['F444W']}"]["missing"] == lost
    name = f"{MOSAICS['F200W']}_i2d.fits"  # of the other detector: as if nothing had been
    assert_same_pixels(folder / "läufe 星" / "mosaics" / name, small.workspace / "mosaics" / name)
    assert document("verify", config)["faults"] == {}
