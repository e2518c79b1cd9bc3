"""A file whose time alone changed counts as what it holds: raw files, and what CRDS was asked about them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
from astropy.io import fits
from stub_steps import exposure

from survey.archive.held import known
from survey.archive.ledger import Entry, Ledger, signature
from survey.digest import file_sha1, file_sha256
from survey.references.record import Question, References, read_answers, read_record, write_record


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "raw" / exposure(1).file
    path.parent.mkdir()
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU([[1.0]], name="SCI")]).writeto(path)
    return path


def rewrite(path, place):
    """Change a byte and leave the length."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_touched_raw_file_is_still_held_and_a_changed_one_is_not(raw):
    sha256 = file_sha256(raw)
    ledger = Ledger(raw.parent / "ledger.jsonl")
    ledger.append(Entry(raw.name, raw.stat().st_size, sha256, "mast:x", signature(raw)))
    bare = replace(exposure(1), sha256=None)
    os.utime(raw, (1.0, 1.0))
    assert known([bare], raw.parent)[0].sha256 == sha256
    rewrite(raw, -1)
    assert known([bare], raw.parent)[0].sha256 is None


def test_an_answer_of_crds_outlives_touched_files_and_no_changed_ones(raw, tmp_path):
    cache = tmp_path / "cache"
    flat, rules = cache / "references/jwst/nircam/flat_1.fits", cache / "mappings/jwst/jwst_0001.pmap"
    for path in (flat, rules, cache / "config/jwst/server_config"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 100)
    name = exposure(1).name
    paths = {"flat_1.fits": "references/jwst/nircam/flat_1.fits"}
    found = References("jwst_0001.pmap", str(cache), ({"flat": "flat_1.fits"},), {name: 0},
                       {"flat_1.fits": file_sha1(flat)}, paths, {"jwst_0001.pmap": file_sha1(rules)})  # fmt: skip
    question, record = Question({name: raw}, "jwst_0001.pmap", cache, None), tmp_path / "references.json"
    write_record(record, question, found)
    assert read_record(record, question) == found
    for path in (raw, flat, rules):
        os.utime(path, (1.0, 1.0))
        assert read_record(record, question) == found
    assert read_record(record, replace(question, context="jwst_0002.pmap")) is None
    rewrite(flat, 5)
    assert read_record(record, question) is None
    rewrite(flat, 5)
    assert read_record(record, question) == found
    rewrite(raw, 100)  # in its primary header
    assert read_record(record, question) is None


def test_an_answer_of_crds_is_that_of_a_moved_workspace_and_of_fewer_exposures(raw, tmp_path):
    cache, record = tmp_path / "cache", tmp_path / "references.json"
    flat = cache / "references/jwst/nircam/flat_1.fits"
    for path in (flat, cache / "config/jwst/server_config"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 100)
    one, two = exposure(1).name, exposure(2).name
    second = raw.with_name(exposure(2).file)
    fits.HDUList([fits.PrimaryHDU(header=fits.Header({"A": 1}))]).writeto(second)
    found = References("jwst_0001.pmap", str(cache), ({"flat": "N/A"}, {"flat": "flat_1.fits"}), {one: 0, two: 1},
                       {"flat_1.fits": file_sha1(flat)}, {"flat_1.fits": "references/jwst/nircam/flat_1.fits"},
                       {})  # fmt: skip
    write_record(record, Question({one: raw, two: second}, "jwst_0001.pmap", cache, None), found)
    there, moved = tmp_path / "elsewhere", tmp_path / "cache_2"
    shutil.copytree(raw.parent, there / "raw", copy_function=shutil.copyfile)
    shutil.copytree(cache, moved, copy_function=shutil.copyfile)
    question = Question(
        {one: there / "raw" / raw.name, two: there / "raw" / second.name}, "jwst_0001.pmap", moved, None
    )
    assert read_record(record, question) == replace(found, cache=str(moved))
    fewer = read_record(record, replace(question, raw={two: second}))
    assert fewer.exposures == {two: 0} and fewer.of(two) == {"flat": "flat_1.fits"}
    more = replace(question, raw={**question.raw, "another": second})
    assert read_record(record, more) is None
    assert read_answers(record, more).exposures.keys() == {one, two}
    (moved / "references/jwst/nircam/flat_1.fits").unlink()
    assert read_record(record, question) is None  # has to be fetched again
    gone = read_answers(record, replace(question, raw={two: None}))  # the raw file was removed
    assert gone.files == found.files
