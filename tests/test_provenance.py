"""Records as JSON, the run as a Dataset, and the walk from a mosaic to its raw files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import pytest
import xarray as xr

from survey.models import Product, TaskRecord
from survey.workspace.provenance import ProvenanceWriter, lineage, publish, to_dataset
from survey.workspace.records import read_record, read_records, write_record

RAW = "jw01345001001_02201_00001_nrcb1"


def make_record(number=1, step="detector1", **changes) -> TaskRecord:
    subject = f"jw01345001001_02201_{number:05d}_nrcb1"
    record = TaskRecord(
        key=f"{step}/{subject}",
        step=step,
        subject=subject,
        filter="F200W",
        digest=f"{number:064x}",
        status="complete",
        products=(Product(f"stage1/{subject}_rate.fits", "ab" * 32, 1_234_567),),
        inputs={f"raw/{subject}_uncal.fits": "cd" * 32},
        settings={"jump": {"rejection_threshold": 4.0}},
        resolved={"jump": {"rejection_threshold": 4.0, "skip": False}},
        references={"jwst_nircam_gain_0001.fits": "ef" * 20},
        context="jwst_0001.pmap",
        versions={"jwst": "3.0.0", "stcal": "1.20.0", "crds": "14.0.3", "survey": "0.1.0", "numpy": "2"},
        seconds=12.5,
        cpu_seconds=11.0,
        peak_memory_gb=1.25,
        memory_gb=1.5,
        host="node1",
        started="2026-01-01T00:00:00Z",
        measurements={"saturated_fraction": 0.01},
    )
    return replace(record, **changes)


@pytest.fixture
def chain():
    """Raw file -> rate -> cal -> mosaic (FITS and zarr), two exposures."""
    records = {}
    for number in (1, 2):
        first = make_record(number)
        second = make_record(
            number,
            "image2",
            inputs={first.key: first.digest},
            products=(Product(f"stage2/{first.subject}_cal.fits", "12" * 32, 10),),
        )
        records |= {first.key: first, second.key: second}
    mosaic = make_record(
        9,
        "image3",
        key="image3/jw01345-a3001_t001_nircam_clear-f200w",
        inputs={f"image2/jw01345001001_02201_{number:05d}_nrcb1": f"{number:064x}" for number in (1, 2)},
        products=(
            Product("mosaics/jw01345-a3001_t001_nircam_clear-f200w_i2d.fits", "34" * 32, 20),
            Product("mosaics/mosaics.zarr/F200W", "56" * 32, 30),
        ),
    )
    return records | {mosaic.key: mosaic}


def test_record_survives_the_disk(tmp_path):
    record = make_record()
    path = write_record(tmp_path / "records", record)
    assert path.name == f"detector1.{RAW}.json"
    assert read_record(path) == record
    assert os.listdir(tmp_path / "records") == [path.name]


def test_failed_write_leaves_the_old_record(tmp_path, monkeypatch):
    write_record(tmp_path, make_record(seconds=1.0))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_record(tmp_path, make_record(seconds=2.0))
    assert read_records(tmp_path).by_key[make_record().key].seconds == 1.0
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "Invalid JSON"),
        (b'{"key": "detector1/x", "step": ', "Invalid JSON"),
        (b"\xff\xfe\x00", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b"[1, 2]", "Input should be an object"),
        (b"{}", "not a task record"),
        (b'{"key": 3, "step": "a", "subject": "b", "filter": "c", "digest": "d", "status": ""}', "key: Input"),
        (json.dumps({**dict.fromkeys("key step subject filter digest status".split(), "x"), "products": [1]}).encode(),
         "not a task record"),
        (json.dumps({**dict.fromkeys("key step subject filter digest status".split(), "x"), "seconds": "1"}).encode(),
         "seconds: Input should be a valid number"),
        (json.dumps({**dict.fromkeys("key step subject filter digest status".split(), "x"), "inputs": []}).encode(),
         "inputs: Input should be an object"),
        (json.dumps(dict.fromkeys("key step subject filter digest status".split(), "x")).encode(), "renamed or copied"),
    ],
)  # fmt: skip
def test_torn_and_foreign_files_are_named(tmp_path, content, cause):
    write_record(tmp_path, make_record())
    (tmp_path / "bad.json").write_bytes(content)
    (tmp_path / ".hidden.json").write_bytes(b"x")
    records = read_records(tmp_path)
    assert list(records.by_key) == [make_record().key]
    assert list(records.faults) == ["bad.json"]
    assert cause in records.faults["bad.json"]


def test_no_folder_is_no_records(tmp_path):
    records = read_records(tmp_path / "none")
    assert (records.by_key, records.faults) == ({}, {})


def test_dataset_holds_every_column(tmp_path):
    awkward = make_record(
        2, status="failed", error="line 1\nline 2 \u00e5 \u2603 \0 end", error_class="never", products=()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        publish(tmp_path, to_dataset([make_record(), awkward], {"survey": "egs"}))
        frame = xr.open_zarr(tmp_path / "provenance.zarr", consolidated=False).to_dataframe()
    row = frame.loc[make_record().key]
    assert list(frame.index) == [make_record(1).key, make_record(2).key]
    assert (row["step"], row["status"], row["attempts"], row["jwst_version"]) == ("detector1", "complete", 1, "3.0.0")
    assert (row["seconds"], row["peak_memory_gb"]) == (12.5, 1.25)
    assert json.loads(row["settings"]) == {"jump": {"rejection_threshold": 4.0}}
    assert json.loads(row["products"])[0]["bytes"] == 1_234_567
    assert frame.loc[awkward.key, "error"] == awkward.error
    expected = set(
        "key step subject filter status digest seconds cpu_seconds peak_memory_gb memory_gb host job started attempts "
        "error error_class context jwst_version stcal_version crds_version survey_version inputs settings resolved "
        "references sha1 missing products measurements versions machine environment notices".split()
    )
    assert set(frame.columns) == expected


def test_writer_publishes_while_the_run_goes_on(tmp_path):
    with ProvenanceWriter(tmp_path, "egs-demo", {"program": 1345}, interval_seconds=0.0) as writer:
        writer._wait = 0.0
        writer.add(make_record(1))
        seen = xr.open_zarr(tmp_path / "provenance.zarr", consolidated=False)
        assert list(seen["status"].values) == ["complete"]
        assert seen.attrs["survey"] == "egs-demo"
        assert json.loads(seen.attrs["config"]) == {"program": 1345}
        writer._wait = 3600.0
        writer.add(make_record(2))
        writer.add(make_record(2, attempts=3))
    final = xr.open_zarr(tmp_path / "provenance.zarr", consolidated=False)
    assert list(final["attempts"].values) == [1, 3]
    assert len(os.listdir(tmp_path / ".provenance")) == 1
    assert sorted(os.listdir(tmp_path)) == [".provenance", "provenance.zarr"]
    assert os.readlink(tmp_path / "provenance.zarr").startswith(".provenance/")


def test_snapshots_take_a_small_share_of_the_time(tmp_path):
    writer = ProvenanceWriter(tmp_path, "egs", {}, interval_seconds=0.0)
    began = time.monotonic()
    writer.snapshot()
    assert writer._wait >= 10 * (time.monotonic() - began)


def test_a_run_without_tasks_has_an_empty_dataset(tmp_path):
    ProvenanceWriter(tmp_path, "egs", {}).close()
    assert xr.open_zarr(tmp_path / "provenance.zarr", consolidated=False).sizes["task"] == 0


@pytest.mark.parametrize("broken", ["symlink", "replace"])
def test_a_crash_while_publishing_leaves_the_old_snapshot(tmp_path, monkeypatch, broken):
    publish(tmp_path, to_dataset([make_record(1)]))

    def crash(*args, **_kwargs):
        if os.path.basename(os.fspath(args[1])).endswith((".zarr", ".part")):  # zarr itself goes on
            raise KeyboardInterrupt
        return original(*args)

    original = getattr(os, broken)

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, crash)
        with pytest.raises(KeyboardInterrupt):
            publish(tmp_path, to_dataset([make_record(1), make_record(2)]))
    assert xr.open_zarr(tmp_path / "provenance.zarr", consolidated=False).to_dataframe().shape[0] == 1
    publish(tmp_path, to_dataset([make_record(1), make_record(2)]))
    assert xr.open_zarr(tmp_path / "provenance.zarr", consolidated=False).to_dataframe().shape[0] == 2
    assert len(os.listdir(tmp_path / ".provenance")) == 1
    assert sorted(os.listdir(tmp_path)) == [".provenance", "provenance.zarr"]


def test_a_link_that_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".provenance.zarr.0123abcd.part").symlink_to(".provenance/000001-0123abcd.zarr")
    publish(tmp_path, to_dataset([make_record(1)]))
    assert sorted(os.listdir(tmp_path)) == [".provenance", "provenance.zarr"]


def test_a_copied_workspace_whose_link_became_a_folder_is_repaired(tmp_path):
    (tmp_path / "provenance.zarr").mkdir()
    publish(tmp_path, to_dataset([make_record(1)]))
    assert (tmp_path / "provenance.zarr").is_symlink()


@pytest.mark.slow
def test_thirteen_thousand_records_make_one_dataset(tmp_path):
    records = [make_record(number) for number in range(13_000)]
    publish(tmp_path, to_dataset(records))
    assert xr.open_zarr(tmp_path / "provenance.zarr", consolidated=False).sizes["task"] == 13_000


@pytest.mark.slow
def test_killed_writers_leave_a_whole_dataset(tmp_path):
    """kill -9 at eight moments of a process that publishes as fast as it can."""
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_provenance import make_record, publish, to_dataset\n"
        "for size in range(1, 100_000):\n"
        "    publish(Path(sys.argv[1]), to_dataset(make_record(n) for n in range(size)))\n"
        "    print('published', flush=True)\n"
    )
    for moment in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), os.path.dirname(__file__)], stdout=subprocess.PIPE
        )
        child.stdout.readline()
        time.sleep(0.037 * moment)
        child.kill()
        child.wait()
        frame = xr.open_zarr(tmp_path / "provenance.zarr", consolidated=False).to_dataframe()
        assert len(frame) > 0
        assert (frame["seconds"] == 12.5).all()


@pytest.mark.parametrize(
    "product",
    [
        "mosaics/jw01345-a3001_t001_nircam_clear-f200w_i2d.fits",
        "jw01345-a3001_t001_nircam_clear-f200w_i2d.fits",
        "mosaics/mosaics.zarr/F200W/",
        "image3/jw01345-a3001_t001_nircam_clear-f200w",
    ],
)
def test_lineage_goes_down_to_the_raw_files(chain, product):
    tree = lineage(chain, product)
    assert tree.record.step == "image3"
    assert tree.raw_files() == tuple(f"raw/jw01345001001_02201_{n:05d}_nrcb1_uncal.fits" for n in (1, 2))
    assert [node.record.step if node.record else "" for _, node in tree.walk()] == [
        "image3", "image2", "detector1", "", "image2", "detector1", "",
    ]  # fmt: skip
    assert [depth for depth, _ in tree.walk()] == [0, 1, 2, 3, 1, 2, 3]
    assert tree.parents[0].digest == f"{1:064x}"


def test_lineage_of_an_unknown_product_names_a_close_one(chain):
    with pytest.raises(KeyError, match=r"Did you mean .*f200w_i2d\.fits"):
        lineage(chain, "mosaics/jw01345-a3001_t001_nircam_clear-f200_i2d.fits")


def test_lineage_of_a_name_that_stands_twice_asks_for_the_path(chain):
    twice = make_record(77, products=(Product("other/F200W", "00", 1),))
    with pytest.raises(KeyError, match="2 products have this name"):
        lineage(chain | {twice.key: twice}, "F200W")


def test_lineage_ends_on_a_cycle():
    first = make_record(1, key="a", inputs={"b": "1"}, products=())
    second = make_record(2, key="b", inputs={"a": "2"}, products=())
    assert len(list(lineage({"a": first, "b": second}, "a").walk())) == 2


def test_a_failure_stands_beside_a_complete_record_until_the_task_is_complete_again(tmp_path):
    good, bad = make_record(seconds=1.0), make_record(status="failed", digest="f" * 64, products=())
    write_record(tmp_path, good)
    write_record(tmp_path, bad)
    found = read_records(tmp_path)
    assert found.by_key == {good.key: good}
    assert found.failures == {good.key: bad} and found.latest == {good.key: bad}
    write_record(tmp_path, make_record(seconds=2.0))
    assert read_records(tmp_path).latest[good.key].seconds == 2.0
    assert read_records(tmp_path).failures == {}
