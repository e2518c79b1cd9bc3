"""Running one task: reuse, atomic publication, classes of failure; stub steps in real children."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from stub_steps import ENVIRONMENT, exposure

import survey.execution.publication as publication
import survey.execution.task as execute
from survey.config.limits import Limits
from survey.digest import digest, file_sha256
from survey.errors import TaskError
from survey.execution.children import close_idle
from survey.execution.task import Site, blank_record, failure_class, run_task
from survey.models import COMPLETE, FAILED, SKIPPED, Task, TaskRecord
from survey.steps.base import Outcome
from survey.versions import installed_versions
from survey.workspace.folders import Workspace
from survey.workspace.products import reusable, stored_record
from survey.workspace.records import read_record, record_path, write_record


@pytest.fixture(scope="module", autouse=True)
def servers():
    yield
    close_idle()


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "ws")
    made.create()
    return made


@pytest.fixture
def site(workspace):
    return Site(str(workspace.root), "t", ENVIRONMENT)


@pytest.fixture
def task(workspace) -> Task:
    return detector1(workspace, 1)


def detector1(workspace: Workspace, number: int, **changes) -> Task:
    item = exposure(number)
    path = workspace.raw / item.file
    path.write_text(f"raw {number}")
    sha256 = file_sha256(path)
    name = f"raw/{item.file}"
    made = Task(
        key=f"detector1/{item.name}", step="detector1", subject=item.name, filter=item.filter, settings={"a": 1},
        files=(name,), digests={name: sha256}, versions=installed_versions(),
    )  # fmt: skip
    made = replace(made, **changes)
    return replace(made, digest=digest([made.key, dict(made.settings), dict(made.digests)]))


def give_fault(workspace: Workspace, key: str, *faults: str) -> None:
    (workspace.root / "faults.json").write_text(json.dumps({key: faults}))


def attempts(workspace: Workspace, key: str) -> int:
    path = workspace.root / "attempts" / key.replace("/", ".")
    return len(path.read_text().splitlines()) if path.exists() else 0


def leftovers(workspace: Workspace) -> list[str]:
    return [str(path) for path in workspace.root.glob("stage*/.*")] + [
        str(path) for path in workspace.records.glob(".*.part")
    ]


def test_a_task_runs_and_its_record_says_how(workspace, site, task):
    record = run_task(task, site)
    assert (record.status, record.key, record.digest) == (COMPLETE, task.key, task.digest)
    (product,) = record.products
    path = workspace.root / product.path
    assert product.path == f"stage1/{task.subject}_rate.fits"
    assert (product.sha256, product.bytes) == (file_sha256(path), path.stat().st_size)
    assert record.resolved == {"a": 1}
    assert record.measurements == {"inputs": 1}
    assert record.seconds > 0
    assert record.peak_memory_gb > 0
    assert stored_record(workspace, task.key) == record
    assert "attempt 0" in (workspace.root / record.log).read_text()
    assert leftovers(workspace) == []


def test_the_same_digest_is_reused_and_another_runs_again(workspace, site, task):
    first = run_task(task, site)
    assert run_task(task, site) == first
    assert attempts(workspace, task.key) == 1
    other = detector1(workspace, 1, settings={"a": 2})
    second = run_task(other, site)
    assert second.digest != first.digest
    assert second.products[0].sha256 != first.products[0].sha256
    assert stored_record(workspace, task.key) == second
    assert attempts(workspace, task.key) == 2


def test_a_task_waits_for_a_record_that_another_process_is_about_to_write(workspace, site, task):
    first = run_task(task, site)
    with ThreadPoolExecutor(1) as other, publication._locked(workspace, task.key):
        record_path(workspace.records, task.key).unlink()
        second = other.submit(run_task, task, site)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.5)
        write_record(workspace.records, first)
    assert second.result() == first
    assert attempts(workspace, task.key) == 1


@pytest.mark.parametrize("loss", ["product gone", "product shorter", "record torn", "record gone", "record foreign"])
def test_what_is_not_whole_is_made_again(workspace, site, task, loss):
    first = run_task(task, site)
    product, record = workspace.root / first.products[0].path, record_path(workspace.records, task.key)
    content = product.read_bytes()
    if loss == "product gone":
        product.unlink()
    elif loss == "product shorter":
        product.write_bytes(content[:-1])
    elif loss == "record torn":
        record.write_text(record.read_text()[:100])
    elif loss == "record gone":
        record.unlink()
    else:
        record.write_text(json.dumps({"key": task.key, "digest": task.digest, "status": COMPLETE}))
    again = run_task(task, site)
    assert again.status == COMPLETE
    assert attempts(workspace, task.key) == 2
    assert product.read_bytes() == content


def test_an_input_with_other_bytes_is_refused(workspace, site, task):
    (workspace.root / task.files[0]).write_text("raw 2")
    record = run_task(task, site)
    assert (record.status, record.error_class) == (FAILED, "never")
    assert task.files[0] in record.error
    assert "has changed" in record.error
    assert not (workspace.root / task.files[0]).exists()  # worth nothing: the next run fetches it again
    with pytest.raises(TaskError, match="is missing") as raised:
        run_task(task, site)
    assert raised.value.retry == "again"  # a network file system may show it late
    assert attempts(workspace, task.key) == 0


def test_a_products_changed_bytes_are_found_by_the_task_that_reads_them(workspace, site, task):
    first = run_task(task, site)
    below = Task(key=f"image2/{task.subject}", step="image2", subject=task.subject, filter="F200W", settings={},
                 inputs=(task.key,), digests={task.key: task.digest}, digest="d" * 64)  # fmt: skip
    path = workspace.root / first.products[0].path
    path.write_bytes(path.read_bytes()[::-1])
    record = run_task(below, site, [first])
    assert record.status == FAILED
    assert first.products[0].path in record.error


def test_a_task_behind_a_failure_is_skipped_and_names_it(workspace, site, task):
    lost = TaskRecord("a/b", "a", "b", "F200W", "", FAILED, error="broken")
    record = run_task(task, site, [lost])
    assert record.status == SKIPPED
    assert "a/b failed: broken" in record.error
    assert attempts(workspace, task.key) == 0


@pytest.mark.parametrize(
    ("fault", "error_class", "words"),
    [
        ("never", "never", "ValueError: bad pixels"),
        ("memory", "memory", "MemoryError"),
        ("kill", "memory", "signal 9"),
        ("abort", "never", "signal 6"),
        ("exit", "never", "code 70 and no result"),
        ("os_exit", "never", "code 3 and no result"),
        ("disk", "disk", "No space left"),
    ],
)
def test_classes_of_failure(workspace, site, task, fault, error_class, words):
    give_fault(workspace, task.key, fault)
    record = run_task(task, site)
    assert (record.status, record.error_class) == (FAILED, error_class)
    assert words in record.error
    stored = stored_record(workspace, task.key)
    assert stored is not None
    assert stored.status == FAILED
    assert f"fault {fault}" in (workspace.root / stored.log).read_text()
    assert not list(workspace.folder("stage1").iterdir())
    assert run_task(task, site).status == COMPLETE  # the second attempt has no fault


@pytest.mark.parametrize("fault", ["again", "io"])
def test_what_may_pass_is_raised_for_dask_to_try_again(workspace, site, task, fault):
    give_fault(workspace, task.key, fault)
    with pytest.raises(TaskError) as raised:
        run_task(task, site)
    assert raised.value.retry == "again"
    assert leftovers(workspace) == []
    noted = read_record(record_path(workspace.records, task.key))
    assert (noted.status, noted.error_class, noted.attempts) == (FAILED, "again", 1)
    record = run_task(task, site)
    assert (record.status, record.attempts) == (COMPLETE, 2)


def test_a_task_beyond_its_limit_is_a_failure(workspace, site, task):
    give_fault(workspace, task.key, "sleep")
    record = run_task(task, replace(site, limits=Limits(task_hours=1 / 3600)))
    assert (record.status, record.error_class) == (FAILED, "never")
    assert "limit of 1 s" in record.error


def test_temporary_files_go_into_the_tasks_own_folder(workspace, site, task):
    give_fault(workspace, task.key, "tell_temporary")
    error = run_task(task, site).error
    assert error.startswith(f"ValueError: {workspace.root}/stage1/.detector1.{task.subject}.")


def test_failure_classes_of_errors():
    assert failure_class(ValueError()) == "never"
    assert failure_class(MemoryError()) == "memory"
    assert failure_class(OSError(errno.ENOSPC, "")) == "disk"
    assert failure_class(OSError(errno.EDQUOT, "")) == "disk"
    assert failure_class(OSError(errno.ESTALE, "")) == "again"
    assert failure_class(FileNotFoundError(errno.ENOENT, "")) == "never"
    assert failure_class(TaskError("", retry="memory")) == "memory"


def test_a_full_disk_in_the_worker_is_its_own_class(workspace, site, task, monkeypatch):
    first = run_task(detector1(workspace, 2), site)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(execute, "publish", full)
    record = run_task(task, site)
    assert (record.status, record.error_class) == (FAILED, "disk")
    assert "No space left" in record.error
    assert leftovers(workspace) == []
    assert stored_record(workspace, first.key) == first


def test_the_old_record_goes_first_and_the_new_one_comes_last(workspace, site, task, monkeypatch):
    run_task(task, site)
    record = record_path(workspace.records, task.key)
    seen = []

    def watched(name):
        call = getattr(publication, name)
        monkeypatch.setattr(publication, name, lambda *a: (seen.append((name, record.exists())), call(*a))[1])

    watched("_replace")
    watched("write_record")
    run_task(detector1(workspace, 1, settings={"a": 2}), site)
    assert seen == [("_replace", False), ("write_record", False)]
    assert record.exists()


def test_a_crash_between_product_and_record_leaves_no_record(workspace, site, task, monkeypatch):
    run_task(task, site)
    other = detector1(workspace, 1, settings={"a": 2})
    with monkeypatch.context() as patch:
        patch.setattr(publication, "write_record", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_task(other, site)
    assert stored_record(workspace, task.key) is None
    assert run_task(other, site).status == COMPLETE


def test_two_publications_at_once_leave_one_product_and_one_record(workspace, site, task):
    give_fault(workspace, task.key, "wait", "wait")
    records = []
    threads = [threading.Thread(target=lambda: records.append(run_task(task, site))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert attempts(workspace, task.key) == 2
    assert records[0] == records[1] == stored_record(workspace, task.key)
    assert leftovers(workspace) == []


def publish_alone(root: str, task: Task, barrier) -> None:
    workspace = Workspace(root)
    folder = workspace.folder("stage1") / f".detector1.{task.subject}.{os.getpid()}"
    folder.mkdir()
    (folder / "x.fits").write_text("x" * 1000)
    barrier.wait()
    outcome = Outcome((("x.fits", f"stage1/{task.subject}_rate.fits"),))
    for _ in range(5):
        (folder / "x.fits").write_text("x" * 1000)
        publication.publish(
            replace(blank_record(task), status=COMPLETE, seconds=os.getpid()), task, outcome, folder, workspace
        )


def test_publications_of_several_processes_exclude_each_other(workspace, task):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [context.Process(target=publish_alone, args=(workspace.root, task, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    record = stored_record(workspace, task.key)
    assert reusable(task, workspace.root, record) == record


def test_a_folder_is_a_product_and_replaces_its_predecessor(workspace, site, task):
    below = Task(
        key="mosaic/m", step="mosaic", subject="m", filter="F200W", settings={"group": "F200W", "n": 1},
        digest="1" * 64, mosaic="jw01345-a3001_t001_nircam_clear-f200w",
    )  # fmt: skip
    first = run_task(below, site)
    assert [item.path for item in first.products] == ["mosaics/mosaics.zarr/F200W"]
    second = run_task(replace(below, settings={"group": "F200W", "n": 2}, digest="2" * 64), site)
    assert second.products[0].sha256 != first.products[0].sha256
    assert [path.name for path in (workspace.root / "mosaics/mosaics.zarr").iterdir()] == ["F200W"]


def test_links_are_published_and_not_recorded(workspace, site, task):
    rate = run_task(task, site)
    below = Task(
        key=f"image2/{task.subject}", step="image2", subject=task.subject, filter="F200W", settings={},
        inputs=(task.key,), digests={task.key: task.digest}, digest="c" * 64,
    )  # fmt: skip
    cal = run_task(below, site, [rate])
    record = run_task(
        Task(key="association/m", step="association", subject="m", filter="F200W", settings={}, digest="a" * 64),
        site,
        [cal],
    )
    assert [item.path for item in record.products] == ["asn/m_asn.json"]
    link = workspace.root / "asn" / f"{task.subject}_cal.fits"
    assert link.is_symlink()
    assert not os.path.isabs(os.readlink(link))
    assert link.resolve() == (workspace.root / cal.products[0].path).resolve()


def test_reusable_asks_for_status_digest_and_products(workspace, task):
    complete = replace(blank_record(task), status=COMPLETE)
    assert reusable(task, workspace.root, complete) is complete
    assert reusable(task, workspace.root, None) is None
    assert reusable(task, workspace.root, replace(complete, status=FAILED)) is None
    assert reusable(task, workspace.root, replace(complete, digest="0" * 64)) is None
    unknown = replace(task, digest="")
    assert reusable(unknown, workspace.root, replace(complete, digest="")) is None


def test_a_torn_record_is_no_record(workspace, task):
    path = write_record(workspace.records, blank_record(task))
    assert stored_record(workspace, task.key) is not None
    path.write_bytes(path.read_bytes()[:-20])
    assert stored_record(workspace, task.key) is None
    path.write_bytes(b"\xff\x00")
    assert stored_record(workspace, task.key) is None
