"""Certificates of one deployment: made once, kept in a folder that only its owner can read, checked before use.

Scheduler, workers and clients each show a certificate that the deployment's own authority signed, and accept no other.
The authority's key is not kept, so that no further certificate can be signed.

dask's ``Security.temporary`` is no replacement: it has one key for all roles, in the memory of one process, while
clients of a held cluster, schedulers at an address and pods need files, and a worker must not pass for a scheduler.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
import shlex
import shutil
import socket
import ssl
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survey.errors import ConfigError
from survey.messages import shown
from survey.workspace.files import is_disk_full, replace_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from dask.distributed import Security

AUTHORITY = "ca.pem"
# Whether a role accepts connections: the scheduler and the workers do, a client only opens them.
ROLES = {"scheduler": True, "worker": True, "client": False}
DAYS = 365
MAX_DAYS = 3650
CLOCKS_APART = datetime.timedelta(hours=1)  # certificates are valid this long before they are made, for slow clocks
MAX_PEM_BYTES = 100_000
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*", re.ASCII)


def file_names(role: str) -> tuple[str, str]:
    """Names of the certificate and the key of a role."""
    return f"{role}.pem", f"{role}-key.pem"


FILES = (AUTHORITY, *(name for role in ROLES for name in file_names(role)))


def make(folder: Path, *, hosts: Sequence[str] = (), days: int = DAYS, force: bool = False) -> datetime.datetime:
    """Make a deployment's authority and certificates; returns the end of their validity [UTC].

    Parameters
    ----------
    folder : is created; its mode is 0700, that of its files 0600
    hosts : names and addresses of the scheduler, in addition to this host and loopback
    days : validity of the certificates
    force : replace existing certificates; a process that has the old ones is rejected from then on

    Raises
    ------
    ConfigError
        The folder holds certificates or anything else, a host is neither a name nor an address, the number of days is
        out of range, or the folder cannot be created.
    """
    folder = Path(os.path.realpath(folder))
    names = {host: _host_name(host) for host in [*hosts, socket.gethostname(), "localhost", "127.0.0.1", "::1"]}
    wrong = [host for host in hosts if names[host] is None]
    faults = [f"--host {shown(host, ascii_only=True)}: expected a host's name or address." for host in wrong]
    if not 1 <= days <= MAX_DAYS:
        faults.append(f"--days {days}: expected 1 to {MAX_DAYS}.")
    try:
        faults += _faults_of_target(folder, force)
        if faults:
            raise ConfigError(faults)
        ends, contents = _issue([name for name in names.values() if name is not None], days)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _publish(folder, contents)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise ConfigError(f"{folder}: {error.strerror or error}; name a folder that can be created.") from error
    return ends


def security(folder: Path | None, roles: Iterable[str] = ("client",)) -> Security:
    """dask's Security of a folder of certificates; without a folder, the one of dask's own configuration.

    Parameters
    ----------
    roles : 'scheduler' and 'worker' too where they are started by this process

    Raises
    ------
    ConfigError
        The folder has `faults`.
    """
    from dask.distributed import Security

    if folder is None:
        return Security()
    roles = tuple(roles)
    found = faults(folder, roles)
    if found:
        raise ConfigError(found)
    folder = Path(folder).absolute()
    paths = {"tls_ca_file": str(folder / AUTHORITY)}
    for role in roles:
        certificate, key = file_names(role)
        paths |= {f"tls_{role}_cert": str(folder / certificate), f"tls_{role}_key": str(folder / key)}
    return Security(require_encryption=True, **paths)


def faults(folder: Path, roles: Iterable[str] = ("client",)) -> list[str]:
    """Why the certificates of a folder cannot be used: files that are missing, readable by others, or do not match;
    certificates of another authority, or out of date.
    """
    folder = Path(folder)
    pairs = [file_names(role) for role in roles]
    found = [fault for name in (AUTHORITY, *sum(pairs, ())) if (fault := _file_fault(folder / name))]
    for certificate, key in () if found else pairs:
        found += _pair_faults(folder / AUTHORITY, folder / certificate, folder / key)
    if found:
        found.append(
            f"{folder}: make certificates with 'survey tls DIR', or copy the whole folder where they were made."
        )
    return found


def commands(folder: Path, host: str) -> list[str]:
    """Commands that start a scheduler and a worker with these certificates, and run a survey on them."""
    quoted = {name: shlex.quote(str(folder / name)) for name in FILES}
    address = shlex.quote(f"tls://[{host}]:8786" if ":" in host else f"tls://{host}:8786")

    def flags(role: str) -> str:
        certificate, key = file_names(role)
        return f"--tls-ca-file {quoted[AUTHORITY]} --tls-cert {quoted[certificate]} --tls-key {quoted[key]}"

    # Dashboards have no TLS: they listen on loopback, and ssh brings them to other hosts.
    dashboard = "--dashboard-address 127.0.0.1:"
    memory = "--memory-limit 8.5GB --resources memory_gb=8"
    return [
        f"dask scheduler --protocol tls --port 8786 {dashboard}8787 {flags('scheduler')}",
        f"dask worker {address} --nthreads 1 {memory} {dashboard}0 {flags('worker')}",
        f"survey run CONFIG --cluster {address} --tls {shlex.quote(str(folder))}",
    ]


def _faults_of_target(folder: Path, force: bool) -> list[str]:
    if not folder.exists():
        return []
    present = sorted(path.name for path in folder.iterdir())  # NotADirectoryError: a file
    others = [name for name in present if name not in FILES]
    if others:
        return [f"{folder}: holds other files ({', '.join(map(ascii, others[:3]))}); name another folder."]
    if present and not force:
        return [f"{folder}: holds certificates already. Name another folder, or replace them with --force."]
    return []


def _host_name(host: str) -> Any:
    """A host's name or address as certificates hold it; None if it is neither."""
    from cryptography import x509

    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host) if _HOST.fullmatch(host) else None


def _issue(names: Sequence[Any], days: int) -> tuple[datetime.datetime, dict[str, bytes]]:
    """End of validity, and the contents of all files by name; the names are those of the scheduler."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    ends = now + datetime.timedelta(days=days)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    # The number tells two authorities apart in messages.
    authority = x509.Name.from_rfc4514_string(f"CN=survey deployment {x509.random_serial_number() >> 96:016x}")
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())

    def certificate(name: x509.Name, key: EllipticCurvePrivateKey, extensions: Mapping[Any, bool]) -> bytes:
        builder = x509.CertificateBuilder(serial_number=x509.random_serial_number())
        builder = builder.subject_name(name).issuer_name(authority).public_key(key.public_key())
        builder = builder.not_valid_before(now - CLOCKS_APART).not_valid_after(ends)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        for extension, critical in {own: False, issuer: False, **extensions}.items():
            builder = builder.add_extension(extension, critical)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    # Of nine uses, the sixth and seventh: key_cert_sign and crl_sign.
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    contents = {AUTHORITY: certificate(authority, authority_key, {x509.BasicConstraints(True, 0): True, usage: True})}
    for role, serves in ROLES.items():
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])]
        extensions = {
            x509.BasicConstraints(False, None): True,
            x509.ExtendedKeyUsage(purposes): False,
            x509.SubjectAlternativeName(
                names if role == "scheduler" else [x509.DNSName(f"{role}.survey.invalid")]
            ): False,
        }
        certificate_file, key_file = file_names(role)
        contents[certificate_file] = certificate(x509.Name.from_rfc4514_string(f"CN=survey {role}"), key, extensions)
        contents[key_file] = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return ends, contents


def _publish(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files into a new folder and rename it, so that a folder never mixes files of two authorities."""
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))  # mode 0700
    try:
        for name, content in contents.items():
            with open(part / name, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
                stream.write(content)
        replace_folder(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _file_fault(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        return f"{path}: {getattr(error, 'strerror', None) or error}."
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_PEM_BYTES:
        return f"{path}: not a PEM file."
    if path.name.endswith("-key.pem") and found.st_mode & 0o007:
        mode = stat.S_IMODE(found.st_mode)
        return f"{path}: every user of this host can use this key (mode {mode:04o}); run: chmod 600 {path}"
    return ""


def _pair_faults(authority: Path, certificate: Path, key: Path) -> list[str]:
    """Faults of a certificate beside its key and the authority that should have signed it."""
    from cryptography import x509

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=str(authority))
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return [f"{certificate}: does not match its key and {authority.name}, or is not a certificate ({error})."]
    try:
        issuer, own = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (authority, certificate))
        own.verify_directly_issued_by(issuer)
    except Exception as error:  # noqa: BLE001 - of many kinds; each means that the two do not belong together
        return [f"{certificate}: not signed by {authority} ({type(error).__name__}); both must be of one 'survey tls'."]
    begins, ends, now = own.not_valid_before_utc, own.not_valid_after_utc, datetime.datetime.now(datetime.UTC)
    if ends <= now:
        return [f"{certificate}: expired on {ends:%Y-%m-%d}; make new certificates for the whole deployment."]
    if begins > now:
        return [f"{certificate}: not valid before {begins:%Y-%m-%d %H:%M} UTC; set this host's clock."]
    return []
