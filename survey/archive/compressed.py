"""Raw files that are compressed with gzip (``*_uncal.fits.gz``), as some transfers leave them."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from survey.archive.headers import DamagedFileError

SUFFIX = ".gz"
MAX_BYTES = 16 * 1000**3  # of a file's content: no raw file is larger, and a small file can hold any number of zeros
_BLOCK = 1 << 20


def is_compressed(path: Path | str) -> bool:
    """Whether a raw file is compressed, by its name."""
    return str(path).endswith(SUFFIX)


def plain_name(path: Path) -> str:
    """Name of a raw file without compression: jw..._uncal.fits."""
    return path.name.removesuffix(SUFFIX)


def decompress(path: Path, target: BinaryIO) -> None:
    """Write the content of a compressed file to an open file; its checksum is compared.

    Raises
    ------
    DamagedFileError
        The file is no gzip file, is cut short, does not match its checksum, or holds more than `MAX_BYTES`.
    OSError
        It cannot be read, or the content cannot be written.
    """
    written = 0
    try:
        with gzip.open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                written += len(block)
                if written > MAX_BYTES:
                    raise DamagedFileError(f"holds more than {MAX_BYTES / 1e9:.0f} GB, which no raw file does.")
                target.write(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedFileError(f"cannot be decompressed: {error}.") from error


@contextlib.contextmanager
def decompressed(path: Path) -> Iterator[Path]:
    """Context manager: the path of a raw file itself, or of a temporary file with the content of a compressed one."""
    if not is_compressed(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="survey-raw-") as folder:
        place = Path(folder, plain_name(path))
        with open(place, "wb") as target:
            decompress(path, target)
        yield place
