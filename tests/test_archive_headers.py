"""Headers of FITS files: the values are astropy's, the bounds are ours."""

from __future__ import annotations

import os

import pytest
from astropy.io import fits

from survey.archive.headers import CARD, MAX_HEADER_BLOCKS, DamagedFileError, read_primary_header

CARDS = {"INSTRUME": "NIRCAM", "TARGNAME": "O'NEIL", "TSOVISIT": False, "NGROUPS": 5, "TGROUP": 10.5, "OBSERVTN": "001",
         "S_REGION": "POLYGON ICRS  " + " ".join(f"{value:.9f}" for value in range(200, 212))}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    header = fits.Header(CARDS)
    header["EMPTY"] = None
    header.add_comment("NGROUPS =                    7")
    header.append(("NGROUPS", 9))  # of a repeated keyword the first counts
    fits.PrimaryHDU(header=header).writeto(tmp_path / "a.fits")
    return tmp_path / "a.fits"


def test_values_are_those_of_astropy(path):
    header, theirs = read_primary_header(path), fits.getheader(path)
    assert header.values([*CARDS, "EMPTY", "MISSING"]) == CARDS == {key: theirs[key] for key in CARDS}
    assert header.text("TARGNAME") == "O'NEIL" and header.text("NGROUPS") is None and header.text("MISSING") is None
    assert (header.integer("NGROUPS"), header.integer("TGROUP"), header.logical("SIMPLE")) == (5, None, True)
    assert header.end == path.stat().st_size and header.start == 0


def test_no_byte_after_the_header_is_read(path):
    whole = path.read_bytes()
    path.write_bytes(whole + b"\xff" * 100)
    assert read_primary_header(path).content == whole


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda content: b"", "ends within the header of HDU 0 \\(byte 0"),
        (lambda content: content[:2879], "ends within the header of HDU 0"),
        (lambda content: content.replace(b"END     ", b"ENX     "), "ends within the header"),
        (lambda content: b"<html>".ljust(2880), "no FITS header at byte 0: found b'<html>"),
        (lambda content: content.replace(b"NIRCAM", b"NIRCA\xcd"), "not ASCII"),
    ],
)
def test_damage_is_named(path, change, cause):
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DamagedFileError, match=cause):
        read_primary_header(path)


def test_header_without_end_is_read_up_to_the_bound(path):
    content = path.read_bytes().replace(b"END     ", b"ENX     ")
    with path.open("wb") as stream:
        stream.write(content + b" " * (MAX_HEADER_BLOCKS + 10) * 2880)
    with pytest.raises(DamagedFileError, match="without END"):
        read_primary_header(path)


def test_card_that_astropy_cannot_read_is_damage(path):
    content = path.read_bytes()
    at = content.index(b"TARGNAME")
    path.write_bytes(content[:at] + b"TARGNAME= 'never closed".ljust(CARD) + content[at + CARD :])
    with pytest.raises(DamagedFileError, match="cannot be read"):
        read_primary_header(path).values(["TARGNAME"])


def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.fits")
    with pytest.raises(DamagedFileError, match="regular file"):
        read_primary_header(tmp_path / "pipe.fits")
