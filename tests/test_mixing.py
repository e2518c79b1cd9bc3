"""A mosaic is of one set of settings, also when a rerun stops half way; the number of workers changes no byte."""

from __future__ import annotations

import pytest
from dask.distributed import Client, LocalCluster
from killing import false_records, products
from test_scheduling_run_plan_tiled import SHORT, Line

from survey.cluster.deploy import RESOURCE
from survey.execution.children import close_idle
from survey.models import COMPLETE, FAILED
from survey.workspace.records import read_records


def mixes(root) -> list[str]:
    """Mosaics that stand, and tiles of theirs that are not those which they were assembled from."""
    records = read_records(root / "records").by_key
    found = []
    for mosaic in records.values():
        mark = root / "mosaics" / "mosaics.zarr" / str(mosaic.settings.get("group")) / "zarr.json"
        if mosaic.step == "assemble" and mosaic.status == COMPLETE and mark.exists():
            tiles = {key: digest for key, digest in mosaic.inputs.items() if key.startswith("drizzle/")}
            assert tiles
            found += [f"{mosaic.key}: {key}" for key, digest in tiles.items() if records[key].digest != digest]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["image2", "outliers", "drizzle", "assemble"])
def test_a_rerun_with_other_settings_that_stops_half_way_mixes_nothing(client, tmp_path, stop):
    """One task of the step fails: others hold the new pixels, and the mosaic is the old one or none."""
    line = Line(tmp_path / "ws", keep_intermediate=True)
    line.run(client)
    root, i2d = line.workspace.root, line.workspace.root / "mosaics" / f"{SHORT}_i2d.fits"
    before = i2d.read_bytes()
    line.config = line.config.model_copy(update={"steps": tuple(
        item.model_copy(update={"settings": {"bkg_subtract": {"sigma": 2.0}}}) if item.name == "image2" else item
        for item in line.config.steps
    )})  # fmt: skip
    name = line.exposures[0].name
    failing = {
        "image2": f"image2/{name}", "outliers": f"outliers/{name}_a3001", "drizzle": f"drizzle/{SHORT}_x001y001",
        "assemble": f"assemble/{SHORT}",
    }  # fmt: skip
    line.faults(**{failing[stop]: ["none", "never"]})
    assert line.run(client)[failing[stop]].status == FAILED
    assert mixes(root) == [] and false_records(root) == []
    assert i2d.read_bytes() == before  # whole, and of the old settings
    stands = (root / "mosaics" / "mosaics.zarr" / "F200W" / "zarr.json").exists()
    assert stands == (stop in ("image2", "outliers"))
    (root / "faults.json").unlink()
    assert {record.status for record in line.run(client).values()} == {COMPLETE}
    assert mixes(root) == [] and false_records(root) == [] and i2d.read_bytes() != before


@pytest.mark.slow
def test_one_worker_and_two_leave_the_same_bytes(tmp_path):
    trees = []
    for workers in (1, 2):
        line = Line(tmp_path / f"ws{workers}")
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, resources={RESOURCE: 4.0},
                         dashboard_address="127.0.0.1:0", memory_limit=0) as cluster,
            Client(cluster, set_as_default=False) as one,
        ):  # fmt: skip
            assert {record.status for record in line.run(one).values()} == {COMPLETE}
        trees.append(products(line.workspace.root))
    close_idle()
    assert trees[0] == trees[1] and len(trees[0]) > 60
