"""What a run will write, and whether it fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stub_steps import FakeReferences, exposure

from survey.config.model import SurveyConfig
from survey.errors import DiskFullError
from survey.execution.task import blank_record
from survey.models import COMPLETE, Product
from survey.mosaics.grid import Box
from survey.mosaics.layouts import Layout, Member
from survey.planning.disk import Room, check_room, room
from survey.planning.planner import plan

PLANE = 4e-9 * 320 * 320
PRODUCT = "jw01345-a3001_t001_nircam_clear-f200w-sub320"


def make_plan(root, engine="tiled", exposures=None, layouts=None):
    config = SurveyConfig(
        survey="t", program=1345, workspace=root, references={"context": "jwst_0001.pmap", "cache": root},
        mosaic={"engine": engine, "tile": 256},
    )  # fmt: skip
    made = exposures or [exposure(number) for number in (1, 2)]
    return plan(config, made, FakeReferences(), layouts=layouts)


def test_products_of_exposures_and_tiles(tmp_path):
    made = make_plan(tmp_path)
    boxes = (Box(0, 0, 300, 300), Box(200, 0, 500, 300))
    members = tuple(
        Member(item.name, number, boxes[number], boxes[number]) for number, item in enumerate(made.exposures)
    )
    layout = Layout((300, 500), (300, 500), True, members, made[f"align/{PRODUCT}"].digest)
    made = make_plan(tmp_path, layouts={PRODUCT: layout})
    tiles = [task for task in made if task.step == "drizzle"]
    assert len(tiles) == 4
    gb = {task.step: task.disk_gb for task in made}
    assert gb["detector1"] == pytest.approx(5.2 * PLANE)
    assert gb["image2"] == gb["outliers"] == pytest.approx(7.3 * PLANE)
    assert gb["pixmap"] == pytest.approx(8 * PLANE)
    assert gb["assemble"] == pytest.approx(28e-9 * 500 * 300)
    assert sum(task.disk_gb for task in tiles) == pytest.approx(28e-9 * 500 * 300)
    assert gb["association"] == gb["sky"] == 0
    found = room(tmp_path, made, list(made), {})
    assert found.write_gb == pytest.approx(sum(task.disk_gb for task in made))
    assert found.fetch_gb == 0  # both are there


def test_a_mosaics_file_holds_its_whole_grid_and_its_tiles_what_has_data(tmp_path):
    made = make_plan(tmp_path)
    box = Box(0, 0, 200, 200)
    members = tuple(Member(item.name, number, box, box) for number, item in enumerate(made.exposures))
    layout = Layout((1000, 2000), (1000, 2000), True, members, made[f"align/{PRODUCT}"].digest)
    made = make_plan(tmp_path, layouts={PRODUCT: layout})
    (tile,) = [task for task in made if task.step == "drizzle"]
    assert tile.disk_gb == pytest.approx(28e-9 * 256 * 256)
    assert made[f"assemble/{PRODUCT}"].disk_gb == pytest.approx(28e-9 * 1000 * 2000)
    assert made[f"source_catalog/{PRODUCT}"].disk_gb == pytest.approx(4e-9 * 1000 * 2000)


def test_the_stock_engine_writes_about_as_much(tmp_path):
    made = make_plan(tmp_path, "stock")
    assert made[f"image3/{PRODUCT}"].disk_gb == pytest.approx((2 * 7.3 + 7) * PLANE)
    assert made[f"mosaic/{PRODUCT}"].disk_gb == pytest.approx(7 * PLANE)


def test_only_what_is_not_there_is_counted(tmp_path):
    exposures = [exposure(1), exposure(2, sha256=None), replace(exposure(3, sha256=None), fault="broken")]
    made = make_plan(tmp_path, exposures=exposures)
    task = made[f"detector1/{exposures[0].name}"]
    assert room(tmp_path, made, [task], {}).fetch_gb == pytest.approx(1e-6)  # the second, of 1000 bytes
    assert room(tmp_path, made, [task], {}, fetches=False).fetch_gb == 0
    absurd = make_plan(tmp_path, exposures=[exposures[0], replace(exposures[1], size=10**15)])
    assert room(tmp_path, absurd, [task], {}).fetch_gb == 0  # refused by itself, not for all
    path = tmp_path / "stage1" / "x_rate.fits"
    path.parent.mkdir()
    path.write_bytes(b"x")
    old = replace(blank_record(task), status=COMPLETE, products=(Product("stage1/x_rate.fits", "", 500_000),))
    assert room(tmp_path, made, [task], {task.key: old}).write_gb == pytest.approx(5.2 * PLANE - 5e-4)
    path.unlink()
    assert room(tmp_path, made, [task], {task.key: old}).write_gb == pytest.approx(5.2 * PLANE)


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path):
    made = make_plan(tmp_path)
    assert room(tmp_path / "not" / "yet", made, [], {}).free_gb > 0


def test_what_cannot_fit_is_refused_and_what_may_not_is_said():
    said = []
    check_room(Room(1.0, 2.0, 3.1), "ws", said.append)
    assert said == []
    check_room(Room(1.0, 2.0, 2.5), "ws", said.append)
    assert "about 2.00 GB to write, 2.50 GB free" in said[0]
    with pytest.raises(DiskFullError, match=r"ws: 1.00 GB to fetch and about 2.00 GB to write, 2.10 GB free"):
        check_room(Room(1.0, 2.0, 2.1), "ws", said.append)
