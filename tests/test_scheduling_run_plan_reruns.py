"""Reruns of tiled mosaics whose intermediate products are gone, or are there: what is made again, and what stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_scheduling_run_plan_tiled import SHORT, Line, steps_of

from survey.models import COMPLETE, FAILED, SKIPPED

TRANSIENT = ("*_pixmap.npy", "*_leftout.npy", "*_outlier_i2d.npy", "*_median.npy")


@pytest.fixture
def line(tmp_path):
    return Line(tmp_path / "ws")


def lose_crf(line):
    line.files("*00001_nrcb1_a3001_crf.fits")[0].unlink()


def intermediate_files(line):
    return [path.name for pattern in TRANSIENT for path in line.files(pattern)]


def incomplete(records):
    return {key: record.error for key, record in records.items() if record.status != COMPLETE}


def change(line, **mosaic):
    line.config = line.config.model_copy(update={"mosaic": line.config.mosaic.model_copy(update=mosaic)})


def test_a_changed_drizzle_brings_maps_back_and_no_median(client, line):
    line.run(client)
    assert intermediate_files(line) == []
    change(line, image3={"resample": {"pixfrac": 0.8}})
    assert not incomplete(line.run(client))
    assert steps_of(line.ran) == ["assemble", "drizzle", "pixmap", "source_catalog"]
    assert intermediate_files(line) == []
    line.run(client)
    assert line.ran == []


def test_what_a_lost_product_brought_back_goes_again(client, line):
    """Transient products 'go when the mosaic is whole'; it is when the run ends."""
    line.run(client)
    lose_crf(line)
    assert not incomplete(line.run(client))
    assert intermediate_files(line) == []


def test_a_product_may_be_lost_twice(client, line):
    line.run(client)
    for _ in range(2):
        lose_crf(line)
        assert not incomplete(line.run(client))
        assert "outliers" in steps_of(line.ran)


def test_intermediate_products_stay_until_the_tasks_that_read_them_are_done(client, tmp_path):
    """The mosaic is reused at once, while an exposure of it is still to be made from what lies there."""
    line = Line(tmp_path / "ws", keep_intermediate=True)
    line.run(client)
    assert len(intermediate_files(line)) == 2 * 5 + 5 + 8
    change(line, keep_intermediate=False)
    lose_crf(line)
    assert not incomplete(line.run(client))


def test_what_is_skipped_behind_an_alignment_names_the_cause(client, line):
    """With footprints the tasks behind it were foreseen: each is skipped, and says why."""
    side = 320 * 0.031 / 3600
    corners = ((10.0, 0.0), (10.0 + side, 0.0), (10.0 + side, side), (10.0, side))
    line.exposures = [replace(item, footprint=corners) for item in line.exposures]
    line.faults(**{f"align__{SHORT}": ["never"]})
    records = line.run(client)
    assert records[f"align/{SHORT}"].status == FAILED
    behind = {key: record for key, record in records.items() if record.status == SKIPPED}
    assert {"sky", "skymatch", "pixmap", "outlier_i2d", "median", "outliers", "drizzle", "assemble",
            "source_catalog"} == set(steps_of(behind))  # fmt: skip
    for key, record in behind.items():
        assert record.filter == "F200W" and f"align/{SHORT} failed" in record.error, key
        assert "bad pixels" in record.error, key
    attempts = {path.name for path in (line.workspace.root / "attempts").iterdir()}
    assert not attempts & {key.replace("/", ".") for key in behind}
    (line.workspace.root / "faults.json").unlink()
    assert not incomplete(line.run(client))


def test_tiles_that_a_failed_exposure_does_not_touch_are_made(client, line):
    """The stub's second exposure lies at x = 200 to 500 of 500 pixels, the first and third at 0 to 300."""
    change(line, tile=128)
    failing = f"{line.exposures[1].name}_a3001"
    line.faults(**{f"outliers__{failing}": ["never"]})
    records = line.run(client)
    assert records[f"outliers/{failing}"].status == FAILED
    tiles = {key: record for key, record in records.items() if key.startswith(f"drizzle/{SHORT}_")}
    skipped = {key for key, record in tiles.items() if record.status == SKIPPED}
    assert len(tiles) == 4 * 3
    assert skipped == {key for key in tiles if not key.rpartition("_")[2].startswith("x000")}
    assert {record.status for key, record in tiles.items() if key not in skipped} == {COMPLETE}
    for key in (*skipped, f"assemble/{SHORT}"):
        assert records[key].status == SKIPPED and f"outliers/{failing} failed" in records[key].error
        assert "bad pixels" in records[key].error
