"""Disks that become full, or cannot be written: a real tmpfs, another file system than the temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from observatory import make_observatory
from small_disk import small_disk  # noqa: F401 - a fixture
from test_scheduling_run_plan import Line, statuses

from survey.archive.fetch import FetchSettings, fetch
from survey.archive.query import find_exposures
from survey.errors import DiskFullError
from survey.models import COMPLETE
from survey.simulate.server import serve
from survey.workspace.records import read_records

pytestmark = pytest.mark.slow

CONFIG = """\
survey: small
program: 1345
archive: {{server: "{server}", timeout_seconds: 5, retries: 0}}
references: {{server: null, context: jwst_0001.pmap, cache: "{folder}"}}
workspace: "{workspace}"
"""


def survey(*arguments: object, code: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "survey.cli", *map(str, arguments)], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_disk_that_becomes_full_in_a_step_stops_the_run_and_keeps_what_is_complete(client, small_disk):  # noqa: F811
    disk = small_disk("4m")
    line = Line(disk.path / "ws")
    line.run(client, until="detector1")
    kept = {
        path: path.read_bytes() for folder in ("stage1", "raw") for path in (line.workspace.root / folder).iterdir()
    }
    line.faults(image2=["fill_disk"])
    with pytest.raises(DiskFullError, match=r"Make room and run again; what was complete stays") as raised:
        line.run(client)
    assert "no space left" in str(raised.value).lower()
    assert raised.value.exit_code == 5
    done = statuses(read_records(line.workspace.records).by_key, COMPLETE)
    assert {f"detector1/{item.name}" for item in line.exposures} <= done
    assert f"image2/{line.name}" not in done
    assert {path: path.read_bytes() for path in kept} == kept
    (line.workspace.root / "filler").unlink()
    (line.workspace.root / "faults.json").unlink()
    records = line.run(client)
    assert statuses(records, COMPLETE) == set(records) and len(records) == 18
    again = {name for name, count in line.attempts().items() if count > 1}
    assert not again & {key.replace("/", ".") for key in done}


def test_a_disk_without_room_for_a_record_stops_the_run(client, small_disk):  # noqa: F811
    """Full before the first task: neither product nor record fits, and nothing half is left."""
    disk = small_disk("1m")
    line = Line(disk.path / "ws")
    filler = disk.fill()
    with pytest.raises(DiskFullError, match="Make room and run again"):
        line.run(client, until="image2")
    assert read_records(line.workspace.records).by_key == {}
    filler.unlink()
    records = line.run(client, until="image2")
    assert statuses(records, COMPLETE) == set(records)


def test_a_download_that_fills_the_disk_keeps_what_arrived(small_disk, tmp_path):  # noqa: F811
    disk = small_disk("64k")
    with serve(make_observatory(tmp_path / "observatory", observations=(1,))) as server:
        # Rows may lack the size, and then nothing can be known before.
        found = [replace(item, size=None) for item in find_exposures(1345, server=server.url)]
        settings = FetchSettings(downloads=1, retries=0, timeout_seconds=5.0)
        with pytest.raises(DiskFullError, match=r"no space left while writing .*_uncal\.fits"):
            fetch(found, disk.path / "raw", server=server.url, settings=settings)
        arrived = {path.name: path.read_bytes() for path in (disk.path / "raw").glob("*_uncal.fits")}
        assert 0 < len(arrived) < len(found) == 9
        disk.remount("size=4m")
        report = fetch(found, disk.path / "raw", server=server.url, settings=settings)
        assert len(report.exposures) == 9 and report.error is None
        assert set(report.fetched) == {item.name for item in found} - {
            name.removesuffix("_uncal.fits") for name in arrived
        }
        assert {name: (disk.path / "raw" / name).read_bytes() for name in arrived} == arrived


def test_a_run_that_cannot_fit_is_refused_before_it_fetches(small_disk, tmp_path):  # noqa: F811
    """The raw files would fit; what is made of them would not."""
    disk = small_disk("1m")
    with serve(make_observatory(tmp_path / "observatory", observations=(1,))) as server:
        config = tmp_path / "c.yaml"
        config.write_text(CONFIG.format(server=server.url, folder=tmp_path, workspace=disk.path / "ws"))
        said = survey("run", config, code=5)
        assert "0.00 GB to fetch and about" in said and "Make room" in said
        assert not list((disk.path / "ws" / "raw").glob("*.fits"))
        assert "this will not fit" in subprocess.run(
            [sys.executable, "-m", "survey.cli", "plan", str(config)], capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip


def test_a_workspace_that_cannot_be_written_is_refused_and_can_be_looked_at(client, small_disk, tmp_path):  # noqa: F811
    disk = small_disk("4m")
    line = Line(disk.path / "ws")
    line.run(client, until="image2")
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(server="http://127.0.0.1:9", folder=tmp_path, workspace=disk.path / "ws"))
    disk.remount("ro")
    said = survey("run", config, code=2)
    assert str(disk.path / "ws") in said and "Read-only file system" in said
    survey("status", config, code=0)
    survey("explain", config, f"{line.name}_cal.fits", code=0)
    done = subprocess.run(
        [sys.executable, "-m", "survey.cli", "verify", str(config), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    faults = json.loads(done.stdout)["faults"]  # the stub's raw files are in no ledger
    assert faults and all(name.startswith("raw/") for name in faults)
