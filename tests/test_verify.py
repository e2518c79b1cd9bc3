"""`survey verify` finds a changed byte of whatever a run left, and what does not belong there."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stub_steps import exposure

from survey.archive.ledger import Entry, Ledger, signature
from survey.config.model import SurveyConfig
from survey.digest import file_sha256
from survey.execution.task import blank_record
from survey.models import COMPLETE, Product, Task
from survey.mosaics.groups import ensure_store
from survey.reduction.inspection import explain, verify
from survey.workspace.folders import Workspace
from survey.workspace.provenance import ProvenanceWriter
from survey.workspace.records import read_records, write_record

NAME = exposure(1).name
MOSAIC = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
GROUP = "mosaics/mosaics.zarr/F200W"
# Every kind of product: task -> its files.
PRODUCTS = {
    f"detector1/{NAME}": [f"stage1/{NAME}_rate.fits"],
    f"image2/{NAME}": [f"stage2/{NAME}_cal.fits"],
    f"association/{MOSAIC}": [f"asn/{MOSAIC}_asn.json"],
    f"align/{MOSAIC}": [f"stage3/{MOSAIC}_layout.json", f"stage3/{MOSAIC}_grid.asdf", f"stage3/{NAME}_a3001_wcs.asdf"],
    f"sources/{NAME}": [f"stage3/{NAME}_cat.ecsv"],
    f"outliers/{NAME}_a3001": [f"stage3/{NAME}_a3001_crf.fits"],
    f"pixmap/{NAME}_a3001": [f"stage3/{NAME}_a3001_pixmap.npy"],
    f"drizzle/{MOSAIC}_x000y000": [f"{GROUP}/sci/c/0/0", f"{GROUP}/con/c/0/0/0"],
    f"assemble/{MOSAIC}": [f"mosaics/{MOSAIC}_i2d.fits", f"{GROUP}/sci/zarr.json", f"{GROUP}/zarr.json"],
    f"source_catalog/{MOSAIC}": [f"mosaics/{MOSAIC}_segm.fits"],
}
ROOT = "mosaics/mosaics.zarr/zarr.json"
RAW = f"raw/{NAME}_uncal.fits"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with a product of every kind."""
    root = tmp_path_factory.mktemp("verify") / "ws"
    Workspace(root).create()
    (root / RAW).write_bytes(random.Random(0).randbytes(500))
    for number, (key, files) in enumerate(PRODUCTS.items()):
        products = []
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(random.Random(f"{number}{name}").randbytes(300))
            products.append(Product(name, file_sha256(root / name), 300))
        step, subject = key.split("/")
        reads = {RAW: file_sha256(root / RAW)} if step == "detector1" else {}
        task = Task(key, step, subject, "F200W", {"a": number}, digests=reads, digest=f"{number:064d}")
        write_record(root / "records", replace(blank_record(task), status=COMPLETE, products=tuple(products)))
    path = root / RAW
    Ledger(root / "raw" / "ledger.jsonl").append(
        Entry(path.name, 500, file_sha256(path), "mast:x", signature(path), {"filter": "F200W"})
    )
    ensure_store(root / "mosaics" / "mosaics.zarr")
    with ProvenanceWriter(root, "t", {"a": 1}, read_records(root / "records").latest.values()):
        pass
    assert verify(config_of(root)) == {}
    return root


def config_of(root):
    return SurveyConfig(
        survey="t", program=1345, workspace=root, references={"context": "jwst_0001.pmap", "cache": root}
    )


def kinds(root):
    """Every file of a product, the records, the provenance and the raw files; not what is known about the latter."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    hidden = (".lock", ".locks", "ledger.jsonl")
    return [path.relative_to(root) for path in files if not set(hidden) & set(path.relative_to(root).parts)]


def test_a_byte_of_every_file_that_is_changed_is_found(made):
    """Each file once, at a random place, by a random amount."""
    chance = random.Random(7)
    names = kinds(made)
    assert len(names) > 25 + len(PRODUCTS)
    for name in names:
        path = made / name
        content = path.read_bytes()
        if not content:
            continue
        place = chance.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 + chance.randrange(255)
        path.write_bytes(changed)
        faults = verify(config_of(made))
        path.write_bytes(content)
        assert faults, (name, place)
    assert verify(config_of(made)) == {}


def test_every_file_that_is_deleted_is_found(made):
    """But records, which are all that is known, and products that may go once they were read."""
    links = [path.relative_to(made) for path in made.iterdir() if path.is_symlink()]
    gone = [name for name in kinds(made) if name.parts[0] != "records" and name.suffix != ".npy"] + links
    assert any(str(name) == "provenance.zarr" for name in gone) and any(str(name) == ROOT for name in gone)
    for name in gone:
        aside = made.parent / "aside"
        (made / name).rename(aside)
        faults = verify(config_of(made))
        aside.rename(made / name)
        assert faults, name
    assert verify(config_of(made)) == {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_byte_of_any_record_that_is_changed_is_found(made, data):
    path = data.draw(st.sampled_from(sorted((made / "records").glob("*.json"))))
    content = path.read_bytes()
    place, byte = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 255))
    changed = content[:place] + bytes([byte]) + content[place + 1 :]
    path.write_bytes(changed)
    try:
        faults = verify(config_of(made))
    finally:
        path.write_bytes(content)
    assert bool(faults) == (changed != content)


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "ws", symlinks=True)
    return tmp_path / "ws"


def test_what_is_missing_and_what_does_not_belong_there(copy):
    (copy / GROUP / "con/c/0/0/0").unlink()
    (copy / GROUP / "sci/c/0/1").write_text("a tile of nobody's")
    (copy / GROUP / "con/c/0/0/1").symlink_to("../../../../elsewhere")
    (copy / f"stage3/{NAME}_a3001_pixmap.npy").unlink()  # intermediate: it may go
    faults = verify(config_of(copy))
    assert faults == {
        f"{GROUP}/con/c/0/0/0": "cannot be read: No such file or directory",
        f"{GROUP}/sci/c/0/1": "is in no record",
        f"{GROUP}/con/c/0/0/1": "is in no record",
    }


def test_chunks_of_a_mosaic_that_is_none_yet_are_no_fault(copy):
    """A run was killed between the chunks and their record."""
    (copy / GROUP / "zarr.json").unlink()
    (copy / "records" / f"assemble.{MOSAIC}.json").unlink()
    (copy / GROUP / "sci/c/0/1").write_text("the next tile")
    assert verify(config_of(copy)) == {}


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("elsewhere", path)])
@pytest.mark.parametrize("name", [ROOT, "provenance.zarr"])
def test_what_took_the_place_of_a_file_is_a_fault_beside_the_others(copy, name, make):
    (copy / f"asn/{MOSAIC}_asn.json").unlink()
    (copy / name).unlink()
    make(copy / name)
    found = set(verify(config_of(copy)))
    assert f"asn/{MOSAIC}_asn.json" in found
    assert name in found


def test_a_run_that_was_killed_before_its_first_snapshot_is_no_fault(copy):
    (copy / "provenance.zarr").unlink()
    assert list(verify(config_of(copy))) == ["provenance.zarr"]
    shutil.rmtree(copy / ".provenance")
    assert verify(config_of(copy)) == {}


def test_a_raw_file_that_the_ledger_lost_is_a_fault(copy):
    path = copy / "raw" / "ledger.jsonl"
    path.write_bytes(b"{" + path.read_bytes()[1:-20])
    assert list(verify(config_of(copy))) == [RAW]
    assert "survey fetch" in verify(config_of(copy))[RAW]


def test_records_and_snapshots_of_earlier_versions_are_no_fault(copy):
    import json

    path = copy / "records" / f"image2.{NAME}.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    assert verify(config_of(copy)) == {}


def test_a_run_writes_a_damaged_provenance_anew(copy):
    chunk = next(path for path in (copy / "provenance.zarr").resolve().rglob("c/0"))
    chunk.write_bytes(b"\0" + chunk.read_bytes()[1:])
    assert list(verify(config_of(copy))) == ["provenance.zarr"]
    with ProvenanceWriter(copy, "t", {"a": 1}, read_records(copy / "records").latest.values()):
        pass
    assert verify(config_of(copy)) == {}


@pytest.mark.parametrize(
    ("step", "members"), [("nobody", []), ("", []), ("assemble", [["a"]]), ("assemble", [{}]), ("assemble", 5)]
)
def test_a_record_of_odd_parts_is_explained(copy, step, members):
    task = Task("odd/x", step, "x", "F200W", {"members": members}, digest="0" * 64)
    write_record(copy / "records", replace(blank_record(task), status=COMPLETE))
    tree, stale = explain(config_of(copy), "odd/x")
    assert tree.record.step == step and set(stale) <= {"odd/x"}
