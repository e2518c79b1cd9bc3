"""Publications that SIGKILL cuts short before each of their system calls; the order in which they reach the disk."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from stub_steps import exposure

from survey.archive.ledger import Entry, Ledger, signature
from survey.archive.raw import publish as publish_raw
from survey.digest import digest, file_sha256, tree_sha256
from survey.errors import TaskError
from survey.execution.publication import publish
from survey.execution.task import blank_record
from survey.models import COMPLETE, FAILED, Task
from survey.mosaics.grid import Box, Tile
from survey.steps.base import Outcome
from survey.workspace.folders import Workspace
from survey.workspace.products import reusable, stored_record
from survey.workspace.provenance import SNAPSHOTS, STORE, to_dataset
from survey.workspace.provenance import publish as publish_provenance
from survey.workspace.records import read_records, write_record

CALLS = ("replace", "rename", "unlink", "fsync", "mkdir", "rmdir")
MOSAIC = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
GROUP = "mosaics/mosaics.zarr/F200W"
NAME = exposure(1).name


@dataclass
class Line:
    """A workspace whose tasks write what they are told."""

    root: Path
    records: dict = field(default_factory=dict)

    def __post_init__(self):
        self.workspace = Workspace(self.root)
        self.workspace.create()

    def task(self, step: str, subject: str, settings: int = 1, inputs: tuple[Task, ...] = (), at=None) -> Task:
        facts = {"group": "F200W", "n": settings} if step in ("drizzle", "mosaic", "assemble") else {"n": settings}
        digests = {item.key: item.digest for item in inputs}
        return Task(f"{step}/{subject}", step, subject, "F200W", facts, tuple(digests), digests=digests,
                    digest=digest([step, subject, settings, digests]), mosaic=MOSAIC, tile=at)  # fmt: skip

    def publish(self, task: Task, *targets: str, links: tuple[str, ...] = (), run: str = ""):
        """Publish files (or, where the name ends with '/', folders) that hold the task's digest."""
        folder = self.root / "stage1" / f".{task.step}.{task.subject}.{os.getpid():08x}"
        folder.mkdir(exist_ok=True)
        made = []
        for number, target in enumerate((*targets, *links)):
            source = folder / str(number)
            if target in links:
                source.symlink_to("../stage2/x")
            elif target.endswith("/"):
                source.mkdir(exist_ok=True)
                (source / "zarr.json").write_text(task.digest)
                (source / "chunk").write_text(task.digest)
            else:
                source.write_text(task.digest)
            made.append((str(number), target.rstrip("/")))
        record = replace(blank_record(task), status=COMPLETE)
        return publish(record, task, Outcome(tuple(made)), folder, self.workspace, run)

    def faults(self) -> list[str]:
        """Products that are not what their record says; a committed mosaic that holds other tiles than its own."""
        records = read_records(self.workspace.records).by_key
        found = []
        for record in records.values():
            for product in record.products if record.status == COMPLETE else ():
                path = self.root / product.path
                if not path.exists():
                    found.append(f"{record.key}: {product.path} is gone")
                elif (tree_sha256(path)[0] if path.is_dir() else file_sha256(path)) != product.sha256:
                    found.append(f"{record.key}: {product.path} is another")
        whole = records.get(f"assemble/{MOSAIC}")
        if (self.root / GROUP / "zarr.json").exists() and whole is not None:
            for chunk in (self.root / GROUP).glob("*/c/*/*"):
                tile = f"drizzle/{MOSAIC}_x{int(chunk.name):03d}y{int(chunk.parent.name):03d}"
                if whole.inputs[tile] != chunk.read_text():
                    found.append(f"{chunk}: not of the mosaic")
        return found


def tile_files(ix: int) -> list[str]:
    return [f"{GROUP}/{name}/c/0/{ix}" for name in ("sci", "wht")]


def tile(line: Line, ix: int, settings: int = 1) -> Task:
    at = Tile(ix, 0, Box(0, 0, 100, 100))
    return line.task("drizzle", f"{MOSAIC}_{at.name}", settings, at=at)


def assembled(line: Line, *tiles: Task, settings: int = 1) -> Task:
    return line.task("assemble", MOSAIC, settings, tiles)


def put_mosaic(line: Line) -> None:
    """A tiled mosaic of two tiles, and the crf file of a member."""
    tiles = [tile(line, ix) for ix in (0, 1)]
    for ix, task in enumerate(tiles):
        line.publish(task, *tile_files(ix))
    line.publish(line.task("outliers", f"{NAME}_a3001"), f"stage3/{NAME}_a3001_crf.fits")
    line.publish(assembled(line, *tiles), f"mosaics/{MOSAIC}_i2d.fits", f"{GROUP}/sci/zarr.json", f"{GROUP}/zarr.json")


def put_stock(line: Line) -> None:
    """The same by the pipeline's own Image3."""
    line.publish(line.task("image3", MOSAIC), f"mosaics/{MOSAIC}_i2d.fits", f"stage3/{NAME}_a3001_crf.fits")
    line.publish(line.task("mosaic", MOSAIC), f"{GROUP}/")


def nothing(_line: Line) -> None:
    """An empty workspace."""


# name -> (what is there, the task that is published, its files, links)
CASES = {
    "first": (nothing, lambda line: line.task("detector1", NAME), ["stage1/a.fits", "stage1/b.fits"], []),
    "other settings": (
        lambda line: line.publish(line.task("detector1", NAME), "stage1/a.fits", "stage1/ints.fits"),
        lambda line: line.task("detector1", NAME, 2), ["stage1/a.fits"], [],
    ),
    "association": (nothing, lambda line: line.task("association", MOSAIC), ["asn/x_asn.json"], ["asn/x_cal.fits"]),
    "first tile": (nothing, lambda line: tile(line, 0), tile_files(0), []),
    "tile with other pixels": (put_mosaic, lambda line: tile(line, 0, 2), tile_files(0), []),
    "mosaic again": (
        put_mosaic, lambda line: assembled(line, tile(line, 0), tile(line, 1), settings=2),
        [f"mosaics/{MOSAIC}_i2d.fits", f"{GROUP}/sci/zarr.json", f"{GROUP}/zarr.json"], [],
    ),
    "stock over tiled": (
        put_mosaic, lambda line: line.task("image3", MOSAIC),
        [f"mosaics/{MOSAIC}_i2d.fits", f"stage3/{NAME}_a3001_crf.fits"], [],
    ),
    "stock store over tiles": (put_mosaic, lambda line: line.task("mosaic", MOSAIC), [f"{GROUP}/"], []),
    "tile over a stock store": (put_stock, lambda line: tile(line, 0), tile_files(0), []),
    "crf over a stock one": (
        put_stock, lambda line: line.task("outliers", f"{NAME}_a3001"), [f"stage3/{NAME}_a3001_crf.fits"], [],
    ),
    "folder over its predecessor": (put_stock, lambda line: line.task("mosaic", MOSAIC, 2), [f"{GROUP}/"], []),
}  # fmt: skip


@contextlib.contextmanager
def watched(before):
    """Call ``before(name, arguments)`` ahead of each system call that changes the file system, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            call = getattr(os, name)

            def spy(*args, _name=name, _call=call, **kwargs):
                before(_name, args)
                return _call(*args, **kwargs)

            patch.setattr(os, name, spy)
        yield


def in_child(function) -> int:
    """Exit code of a function in a forked process."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join(60)
    return process.exitcode


def publish_and_die(line: Line, task: Task, files, links, last: int) -> None:
    seen = 0

    def count(_name, _arguments):
        nonlocal seen
        seen += 1
        if seen > last:
            os.kill(os.getpid(), signal.SIGKILL)

    with watched(count):
        line.publish(task, *files, links=tuple(links))


def kill_everywhere(folder: Path, case: str) -> int:
    """Kill a publication before each of its system calls, one after the other, and have the next run make it good.

    Returns
    -------
    points : number of system calls
    """
    put, make, files, links = CASES[case]
    points = 0
    while True:
        line = Line(folder / f"ws{points}")
        put(line)
        task = make(line)
        code = in_child(lambda line=line, task=task, last=points: publish_and_die(line, task, files, links, last))
        assert line.faults() == [], points
        if code == 0:
            assert stored_record(line.workspace, task.key).digest == task.digest
            return points
        assert code == -signal.SIGKILL
        line.workspace.sweep(0.0)
        published = line.publish(task, *files, links=tuple(links))
        assert line.faults() == [], points
        assert stored_record(line.workspace, task.key) == published == reusable(task, line.root, published)
        assert [(line.root / name.rstrip("/")).exists() for name in files] == [True] * len(files)
        points += 1


@pytest.mark.parametrize("case", CASES)
def test_a_kill_at_any_system_call_leaves_no_false_record(tmp_path, case):
    """And the next run makes of it what an undisturbed one does."""
    assert kill_everywhere(tmp_path, case) >= 5  # flush, rename, flush, and the record's own three


def trace(action) -> list[tuple[str, str]]:
    """(call, file that it is about) of an action, in their order; of a rename both names, 'from -> to'."""
    found = []

    def note(name, arguments):
        first = arguments[0]
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
        found.append((name, f"{path} -> {arguments[1]}" if name in ("rename", "replace") else path))

    with watched(note):
        action()
    return found


def place(calls, name: str, ends: str, nth: int = 0) -> int:
    """Index of the nth call of a name whose file ends so."""
    return [number for number, (call, path) in enumerate(calls) if call == name and path.endswith(ends)][nth]


def test_products_reach_the_disk_before_their_names_and_these_before_the_record(tmp_path):
    line = Line(tmp_path / "ws")
    put_mosaic(line)
    task = tile(line, 0, 2)
    calls = trace(lambda: line.publish(task, *tile_files(0)))
    record = f"records/drizzle.{task.subject}.json"
    bytes_ = [place(calls, "fsync", f".{task.subject}.{os.getpid():08x}/{number}") for number in (0, 1)]
    gone = [place(calls, "unlink", record), place(calls, "unlink", f"records/assemble.{MOSAIC}.json")]
    gone_for_good = [number for number, call in enumerate(calls) if call == ("fsync", str(line.workspace.records))]
    mark, mark_for_good = place(calls, "unlink", f"{GROUP}/zarr.json"), place(calls, "fsync", GROUP)
    names = [place(calls, "replace", f"-> {line.root / name}") for name in tile_files(0)]
    folders = [place(calls, "fsync", f"{GROUP}/{name}/c/0") for name in ("sci", "wht")]
    written = place(calls, "fsync", ".part")
    last = place(calls, "replace", f"-> {line.root / record}")
    assert max(bytes_) < min(gone) and gone[0] < gone_for_good[0] < mark and gone[1] < gone_for_good[1] < mark
    assert mark < mark_for_good < min(names)
    assert max(names) < min(folders) and max(folders) < written < last < gone_for_good[-1]


def test_new_folders_reach_the_disk_with_what_is_in_them(tmp_path):
    line = Line(tmp_path / "ws")
    calls = trace(lambda: line.publish(tile(line, 0), *tile_files(0)))
    last = place(calls, "replace", "x000y000.json")
    for folder in ("mosaics", "mosaics/mosaics.zarr", GROUP, f"{GROUP}/sci", f"{GROUP}/sci/c", f"{GROUP}/sci/c/0"):
        assert place(calls, "fsync", f"/{folder}") < last


def test_a_raw_file_reaches_the_disk_before_its_name_and_its_line(tmp_path):
    from astropy.io import fits

    item, raw = exposure(1), tmp_path / "raw"
    raw.mkdir()
    part = raw / f".{item.file}.part"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU([[1.0]], name="SCI")]).writeto(part)
    ledger = Ledger(raw / "ledger.jsonl")
    calls = trace(lambda: publish_raw(item, part, raw, ledger))
    steps = [place(calls, "fsync", part.name), place(calls, "replace", f"-> {raw / item.file}"),
             place(calls, "fsync", "/raw"), place(calls, "fsync", "ledger.jsonl")]  # fmt: skip
    assert steps == sorted(steps)
    entry, path = Ledger(raw / "ledger.jsonl").get(item.file), raw / item.file
    assert entry == Entry(item.file, path.stat().st_size, file_sha256(path), "", signature(path), entry.facts)


def test_a_snapshot_reaches_the_disk_before_the_link_leads_to_it(tmp_path):
    dataset = to_dataset([blank_record(Line(tmp_path / "ws").task("detector1", NAME))])
    publish_provenance(tmp_path, dataset)
    calls = trace(lambda: publish_provenance(tmp_path, dataset))
    link = place(calls, "replace", f"-> {tmp_path / STORE}")
    snapshot = (tmp_path / STORE).resolve()
    # It is flushed under the name it is written under, and bears its sha256 once it is whole.
    flushed = {
        re.sub(r"/\d{6}-[0-9a-f]{8}\.zarr", f"/{snapshot.name}", path) for name, path in calls[:link] if name == "fsync"
    }
    below = {str(path) for path in (snapshot, *snapshot.rglob("*"))}
    assert below | {str(tmp_path / SNAPSHOTS)} <= flushed
    assert place(calls, "fsync", str(tmp_path)) > link


def test_a_run_that_lost_the_workspace_publishes_and_records_nothing(tmp_path):
    line = Line(tmp_path / "ws")
    task = line.task("detector1", NAME)
    with line.workspace.lock() as run:
        line.publish(task, "stage1/a.fits", run=run)
        with pytest.raises(TaskError, match="no longer holds") as raised:
            line.publish(line.task("detector1", NAME, 2), "stage1/a.fits", run="an earlier run")
    assert raised.value.retry == "again"
    with pytest.raises(TaskError, match="no longer holds"):
        line.publish(line.task("detector1", NAME, 2), "stage1/a.fits", run=run)
    assert (
        stored_record(line.workspace, task.key).digest == (line.root / "stage1" / "a.fits").read_text() == task.digest
    )


def test_a_tile_that_is_made_anew_leaves_the_mosaic_that_stands_on_it(tmp_path):
    """Its record was lost as well: a kill in the middle of the first try to replace it."""
    line = Line(tmp_path / "ws")
    put_mosaic(line)
    task = tile(line, 0)
    (line.workspace.records / f"drizzle.{task.subject}.json").unlink()
    line.publish(task, *tile_files(0))
    assert (line.root / GROUP / "zarr.json").is_file()
    assert stored_record(line.workspace, f"assemble/{MOSAIC}") is not None
    line.publish(tile(line, 0, 2), *tile_files(0))
    assert not (line.root / GROUP / "zarr.json").exists()
    assert stored_record(line.workspace, f"assemble/{MOSAIC}") is None


def test_failures_of_a_run_that_lost_the_workspace_are_not_recorded(tmp_path):
    from survey.execution.task import Site, run_task

    line = Line(tmp_path / "ws")
    task = line.task("detector1", NAME)
    write_record(line.workspace.records, replace(blank_record(task), status=FAILED, error="of the new run"))
    with pytest.raises(TaskError, match="no longer holds"):
        run_task(task, Site(str(line.root), "t", run="an earlier run"))
    assert stored_record(line.workspace, task.key).error == "of the new run"
