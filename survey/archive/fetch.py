"""Fetch and verify the raw files of a program."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from survey.archive.download import MAX_FILE_BYTES, FetchSettings, Part, RemoteFile, Source
from survey.archive.headers import DamagedFileError, OtherModeError
from survey.archive.ledger import LEDGER, Ledger
from survey.archive.raw import kept, publish, reject, rejection
from survey.archive.transfers import Progress, Transfers, WrongFileError
from survey.errors import AccessRefusedError, ConfigError, DiskFullError, DownloadError, SurveyError
from survey.models import Exposure
from survey.names import parse_exposure

DOWNLOAD_PATH = "/api/v0.1/Download/file"
_FITS = b"SIMPLE  ="


@dataclass(frozen=True)
class FetchReport:
    """Which files are there, which were fetched, and which could not be."""

    exposures: tuple[Exposure, ...]  # with complete files: sha256 and header facts added; in input order
    left_out: tuple[Exposure, ...] = ()  # that are excluded, among them those of another mode than their row says
    fetched: tuple[str, ...] = ()  # names of those downloaded by this call
    missing: dict[str, str] = field(default_factory=dict)  # name -> cause
    refused: dict[str, str] = field(default_factory=dict)  # name -> cause, 401 or 403
    bytes: int = 0  # downloaded by this call

    @property
    def error(self) -> SurveyError | None:
        """The error for a caller that needs every file: refused ones first; None when all are there."""
        if self.refused:
            lines = [f"{len(self.refused)} file(s) refused; the others are kept:"]
            lines += [f"{name}: {cause}" for name, cause in sorted(self.refused.items())]
            others = str(DownloadError(self.missing)).splitlines() if self.missing else []
            return AccessRefusedError("\n".join([*lines, *others]))
        return DownloadError(self.missing) if self.missing else None


def fetch(
    exposures: Sequence[Exposure],
    directory: Path | str,
    *,
    server: str,
    token: str | None = None,
    settings: FetchSettings | None = None,
    progress: Progress | None = None,
) -> FetchReport:
    """Download the raw files of these exposures into a folder, and verify those that are there.

    Single files that cannot be fetched do not stop the others: they are in the report, whose ``error`` is for callers
    that need all of them. Excluded exposures are not fetched. A file that turns out to be of another mode than its row
    says, or of another filter, is not kept: its exposure is excluded, and the ledger remembers why.

    Parameters
    ----------
    directory : ``raw/`` of the workspace; created if it is missing
    server : root URL of the archive
    token : MAST_API_TOKEN, sent to this server alone, over TLS or on this machine
    progress : called from several threads with exposure, bytes so far, bytes in total

    Raises
    ------
    ServiceUnreachableError
        The server gives no answer, or nothing but server errors; what arrived is kept.
    DiskFullError
        The file system has no space left for the files.
    ConfigError
        The token has characters that no header may have.
    """
    directory = Path(directory)
    for exposure in exposures:
        parse_exposure(exposure.name)  # a name becomes a path: never one that the grammar does not know
    source = Source(server.rstrip("/"), _checked_token(token))
    settings = settings or FetchSettings()
    directory.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(directory / LEDGER)
    usable = [exposure for exposure in exposures if not exposure.excluded]
    with ThreadPoolExecutor(settings.downloads) as pool:
        verified = list(pool.map(lambda exposure: kept(exposure, directory, ledger), usable))
    there = {exposure.name: exposure for exposure in verified if exposure is not None}
    for exposure in usable:
        if exposure.name not in there and (cause := rejection(exposure, ledger)):
            there[exposure.name] = replace(exposure, excluded=cause)
    wanted = {exposure.name: exposure for exposure in usable if exposure.name not in there}
    files = [_remote_file(exposure, directory, source.server) for exposure in wanted.values()]
    _check_space(files, directory)

    def accept(file: RemoteFile) -> Exposure:
        try:
            published = publish(wanted[file.name], file.part.path, directory, ledger)
        except OtherModeError as error:  # another attempt would bring the same
            size = file.part.size
            file.part.discard()
            return reject(wanted[file.name], size, str(error), ledger)
        except DamagedFileError as error:
            raise WrongFileError(f"what came {error}") from error
        file.part.drop_tag()
        return published

    outcome = Transfers(files, source, settings, accept, progress, has_others=bool(there)).run()
    there |= outcome.done
    ordered = [there.get(exposure.name, exposure) for exposure in exposures]
    return FetchReport(
        tuple(item for item in ordered if item.name in there and not item.excluded),
        tuple(item for item in ordered if item.excluded),
        tuple(sorted(name for name, item in outcome.done.items() if not item.excluded)),
        outcome.missing, outcome.refused, outcome.bytes,
    )  # fmt: skip


def _remote_file(exposure: Exposure, directory: Path, server: str) -> RemoteFile:
    return RemoteFile(
        exposure.name,
        f"{server}{DOWNLOAD_PATH}?uri={quote(exposure.uri, safe=':/')}",
        Part(directory, exposure.file),
        exposure.size,
        _FITS,
        f"observation {exposure.observation} of program {exposure.program} is not open to you. Set MAST_API_TOKEN to a "
        "valid token (https://auth.mast.stsci.edu/token), or leave it out by 'observations:' in the config.",
    )


def _checked_token(token: str | None) -> str | None:
    token = (token or "").strip()
    if token and not (token.isascii() and token.isprintable() and not set(token) & set(' ",;\\')):
        raise ConfigError(
            "MAST_API_TOKEN has characters that no token has. Copy it again from https://auth.mast.stsci.edu/token."
        )
    return token or None


def _check_space(files: Sequence[RemoteFile], directory: Path) -> None:
    real = [file for file in files if (file.size or 0) <= MAX_FILE_BYTES]  # the download refuses the others
    needed = sum(max(0, (file.size or 0) - file.part.size) for file in real)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise DiskFullError(
            f"{directory}: {needed / 1e9:.2f} GB to fetch, {free / 1e9:.2f} GB free. "
            "Make room, or use another --workspace."
        )
