"""Atomic writes: what a reader sees before, during and after them, and what is left when they fail."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from survey.errors import DiskFullError
from survey.workspace import files


@pytest.fixture
def calls(monkeypatch):
    """System calls that decide about atomicity, in order, with the paths they were given."""
    made = []

    def watch(name):
        real = getattr(os, name)

        def call(first, *rest, **options):
            place = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
            made.append((name, os.path.basename(place)))
            return real(first, *rest, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("replace", "rename", "fsync", "link", "unlink"):
        watch(name)
    return made


def failing(number):
    """A system call that fails with this error number."""

    def call(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(("content", "stored"), [("é\n", b"\xc3\xa9\n"), (b"\x00\xff", b"\x00\xff")])
def test_a_file_is_written_and_replaced(tmp_path, content, stored):
    path = tmp_path / "a.json"
    path.write_text("old")
    files.write_file(path, content)
    assert path.read_bytes() == stored
    assert os.listdir(tmp_path) == ["a.json"]


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, calls):
    files.write_file(tmp_path / "a", "x")
    (first, part), second, third = calls
    assert first == "fsync" and part.startswith(".a.") and part.endswith(".part")
    assert [second, third] == [("replace", part), ("fsync", tmp_path.name)]


def test_a_file_that_need_not_be_durable_is_not_flushed(tmp_path, calls):
    files.write_file(tmp_path / "a", "x", durable=False)
    assert [name for name, _ in calls] == ["replace"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, call, failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        files.write_file(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "other").write_text("other")
    (tmp_path / "a").symlink_to("other")
    files.write_file(tmp_path / "a", "new")
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "other").read_text() == "other"


def test_one_of_many_creates_a_file(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: files.create_file(tmp_path / "lock", str(number)), range(40)))
    assert made.count(True) == 1
    assert (tmp_path / "lock").read_text() == str(made.index(True))
    assert os.listdir(tmp_path) == ["lock"]


def test_a_file_is_created_where_there_are_no_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    assert files.create_file(tmp_path / "lock", "first")
    assert not files.create_file(tmp_path / "lock", "second")
    assert (tmp_path / "lock").read_text() == "first"
    assert os.listdir(tmp_path) == ["lock"]


def test_a_finished_file_is_flushed_renamed_and_its_folder_flushed(tmp_path, calls):
    (tmp_path / "part").write_text("x")
    files.replace_file(tmp_path / "part", tmp_path / "a")
    assert calls == [("fsync", "part"), ("replace", "part"), ("fsync", tmp_path.name)]
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("before", ["nothing", "folder", "link"])
def test_a_folder_takes_the_place_of_what_was_there(tmp_path, before):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "x").write_text("new")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_text("kept")
    if before == "folder":
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "y").write_text("old")
    elif before == "link":
        (tmp_path / "a").symlink_to("elsewhere")
    files.replace_folder(tmp_path / "new", tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"] and not (tmp_path / "a").is_symlink()
    assert (tmp_path / "elsewhere" / "x").read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["a", "elsewhere"]


def test_a_link_is_written_and_replaced(tmp_path):
    for target in ("one", "two"):
        files.write_link(tmp_path / "a", target)
        assert os.readlink(tmp_path / "a") == target
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_link_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    files.write_link(tmp_path / "a", "one")
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        files.write_link(tmp_path / "a", "two")
    assert os.readlink(tmp_path / "a") == "one"
    assert os.listdir(tmp_path) == ["a"]


def test_a_tree_is_flushed_from_its_leaves_up_without_what_links_lead_to(tmp_path, calls):
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "x").write_text("x")
    (tmp_path / "other").write_text("x")
    (tmp_path / "tree" / "link").symlink_to("../other")
    files.sync_tree(tmp_path / "tree")
    assert calls == [("fsync", "x"), ("fsync", "below"), ("fsync", "tree")]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_folders_is_accepted(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", failing(number))
    files.sync_folder(tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_did_not_reach_the_disk_is_an_error(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        files.sync_folder(tmp_path)


def chained(cause):
    try:
        try:
            raise cause
        except OSError as error:
            raise ValueError("not written") from error
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError("Not enough space on disk: requested 1, available 0."), True),  # astropy
        (chained(OSError(errno.ENOSPC, "x")), True),
        (OSError(errno.EIO, "x"), False),
        (chained(OSError(errno.EACCES, "x")), False),
        (ValueError("No space left on device"), False),
    ],
)
def test_what_a_full_disk_is(error, full):
    assert files.is_disk_full(error) is full


def test_a_full_disk_has_exit_code_5_and_names_the_place():
    said = r"^/ws: No space left on device; make room and run again\.$"
    with pytest.raises(DiskFullError, match=said) as raised, files.disk_full_named("/ws"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.exit_code == 5
    with pytest.raises(PermissionError), files.disk_full_named("/ws"):
        raise PermissionError(errno.EACCES, "no")
