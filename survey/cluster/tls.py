"""Certificates of one deployment: made once, kept in a folder that its owner alone can read, checked before use.

A scheduler, its workers and its clients all show a certificate of the deployment's own authority, and believe no other.
The authority's key is forgotten as soon as the three certificates are signed: nobody can ever issue a fourth.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import ipaddress
import os
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

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder
    from dask.distributed import Security

AUTHORITY = "ca.pem"
# A scheduler calls its workers and is called by them; a client only calls. A client's certificate is no server's.
ROLES = {"scheduler": True, "worker": True, "client": False}
DAYS = 365
MAX_DAYS = 3650
CLOCKS_APART = datetime.timedelta(hours=1)  # hosts whose clock is behind must not find the certificates too young
MAX_PEM_BYTES = 100_000


def file_names(role: str) -> tuple[str, str]:
    """Certificate and key of a role."""
    return f"{role}.pem", f"{role}-key.pem"


FILES = (AUTHORITY, *(name for role in ROLES for name in file_names(role)))


def make(folder: Path, *, hosts: Sequence[str] = (), days: int = DAYS, force: bool = False) -> datetime.datetime:
    """Make a deployment's authority and certificates; returns when they end [UTC].

    Parameters
    ----------
    folder : made; files are 0600, the folder 0700
    hosts : names and addresses of the scheduler, beside this host's and loopback
    days : how long the certificates hold
    force : replace those that are there; whoever holds the old ones is turned away from then on

    Raises
    ------
    ConfigError
        The folder holds certificates already, or anything else; a host that is neither a name nor an address; a number
        of days that is out of range; a folder that cannot be made.
    """
    folder = Path(os.path.realpath(folder))
    faults = [f"--host {ascii(host)}: expected a host's name or address." for host in hosts if not _is_host(host)]
    if not 1 <= days <= MAX_DAYS:
        faults.append(f"--days {days}: expected 1 to {MAX_DAYS}.")
    try:
        faults += _in_the_way(folder, force)
        if faults:
            raise ConfigError(faults)
        here = [name for name in (socket.gethostname(),) if _is_host(name)]
        ends, contents = _issue([*hosts, *here, "localhost", "127.0.0.1", "::1"], days)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _publish(folder, contents)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigError(f"{folder}: {error.strerror or error}; name a folder that can be made.") from error
    return ends


def settings(folder: Path, roles: Iterable[str] = ("client",)) -> dict[str, str]:
    """What dask's ``Security`` takes for these roles: {'tls_ca_file': ..., 'tls_client_cert': ..., ...}.

    Raises
    ------
    ConfigError
        As `faults` says; all of it.
    """
    wanted = tuple(roles)
    found = faults(folder, wanted)
    if found:
        raise ConfigError(found)
    folder = Path(folder).absolute()
    paths = {"tls_ca_file": str(folder / AUTHORITY)}
    for role in wanted:
        certificate, key = file_names(role)
        paths |= {f"tls_{role}_cert": str(folder / certificate), f"tls_{role}_key": str(folder / key)}
    return paths


def security(folder: Path | None, roles: Iterable[str] = ("client",)) -> Security:
    """dask's Security of a folder of certificates; without a folder, the one of dask's own configuration.

    Parameters
    ----------
    roles : 'scheduler' and 'worker' too where they are started by this process

    Raises
    ------
    ConfigError
        See `faults`.
    """
    from dask.distributed import Security

    return Security() if folder is None else Security(require_encryption=True, **settings(folder, roles))


def faults(folder: Path, roles: Iterable[str] = ("client",)) -> list[str]:
    """Why a folder's certificates do not serve: files that are missing, open to others, no pair, foreign or too old."""
    folder = Path(folder)
    pairs = [file_names(role) for role in roles]
    found = [fault for name in (AUTHORITY, *sum(pairs, ())) if (fault := _file_fault(folder / name))]
    for certificate, key in () if found else pairs:
        found += _pair_faults(folder / AUTHORITY, folder / certificate, folder / key)
    if found:
        found.append(
            f"{folder}: make certificates with 'survey tls DIR', or copy them whole from where they were made."
        )
    return found


def commands(folder: Path, host: str) -> list[str]:
    """How to start a scheduler and a worker with these certificates, and run on them."""
    shown = {name: shlex.quote(str(folder / name)) for name in FILES}
    address = shlex.quote(f"tls://[{host}]:8786" if ":" in host else f"tls://{host}:8786")

    def flags(role: str) -> str:
        certificate, key = file_names(role)
        return f"--tls-ca-file {shown[AUTHORITY]} --tls-cert {shown[certificate]} --tls-key {shown[key]}"

    # Dashboards have no TLS of their own: on loopback they are seen through ssh alone.
    closed = "--dashboard-address 127.0.0.1:"
    memory = "--memory-limit 8.5GB --resources memory_gb=8"
    return [
        f"dask scheduler --protocol tls --port 8786 {closed}8787 {flags('scheduler')}",
        f"dask worker {address} --nthreads 1 {memory} {closed}0 {flags('worker')}",
        f"survey run CONFIG --cluster {address} --tls {shlex.quote(str(folder))}",
    ]


# --- making -----------------------------------------------------------------------------------------------------


def _in_the_way(folder: Path, force: bool) -> list[str]:
    if not folder.exists():
        return []
    there = sorted(path.name for path in folder.iterdir())  # NotADirectoryError: a file
    strangers = [name for name in there if name not in FILES]
    if strangers:
        return [f"{folder}: holds other files ({', '.join(map(ascii, strangers[:3]))}); name a folder of its own."]
    if there and not force:
        return [f"{folder}: holds certificates already. Name another folder, or replace them by --force."]
    return []


def _is_host(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    labels = text.split(".")
    return len(text) <= 253 and all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "a").isalnum() and label.strip("-") == label
        for label in labels
    )


def _issue(hosts: Sequence[str], days: int) -> tuple[datetime.datetime, dict[str, bytes]]:
    """Names and contents of the files, and the certificates' end."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    ends = now + datetime.timedelta(days=days)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    deployment = x509.random_serial_number() >> 96  # tells two authorities apart in messages
    authority_name = _name(f"survey deployment {deployment:016x}")

    def start(common_name: x509.Name, key: EllipticCurvePrivateKey) -> CertificateBuilder:
        builder = x509.CertificateBuilder(serial_number=x509.random_serial_number())
        builder = builder.subject_name(common_name).issuer_name(authority_name).public_key(key.public_key())
        builder = builder.not_valid_before(now - CLOCKS_APART).not_valid_after(ends)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        return builder.add_extension(own, critical=False).add_extension(issuer, critical=False)

    def pem(certificate: Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)

    builder = start(authority_name, authority_key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    contents = {AUTHORITY: pem(builder.sign(authority_key, hashes.SHA256()))}
    for role, serves in ROLES.items():
        key = ec.generate_private_key(ec.SECP256R1())
        builder = start(_name(f"survey {role}"), key)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(_purposes(serves), critical=False)
        names = _alternative_names(hosts if role == "scheduler" else [f"{role}.survey.invalid"])
        builder = builder.add_extension(names, critical=False)
        certificate_name, key_name = file_names(role)
        contents[certificate_name] = pem(builder.sign(authority_key, hashes.SHA256()))
        contents[key_name] = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return ends, contents


def _name(text: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _usage(signs_certificates: bool) -> Any:
    from cryptography import x509

    others = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    others |= dict.fromkeys(("encipher_only", "decipher_only"), False)
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        **others,
    )


def _purposes(serves: bool) -> Any:
    from cryptography.x509 import ExtendedKeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID

    called = [ExtendedKeyUsageOID.SERVER_AUTH] if serves else []
    return ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, *called])


def _alternative_names(hosts: Sequence[str]) -> Any:
    from cryptography import x509

    names: list[Any] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _publish(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files into a folder beside, and give it its name: there is never a mix of two authorities."""
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))  # 0700, of a name nobody can guess
    try:
        for name, content in contents.items():
            descriptor = os.open(part / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        if folder.exists():  # nothing but certificates in it
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            folder.rename(aside)
            part.rename(folder)
            shutil.rmtree(aside)
        else:
            part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


# --- checking ---------------------------------------------------------------------------------------------------


def _file_fault(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        return f"{path}: {getattr(error, 'strerror', None) or error}."
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_PEM_BYTES:
        return f"{path}: not a PEM file."
    if path.name.endswith("-key.pem") and found.st_mode & 0o007:
        mode = stat.S_IMODE(found.st_mode)
        return f"{path}: everyone on this host may use this key (mode {mode:04o}); run: chmod 600 {path}"
    return ""


def _pair_faults(authority: Path, certificate: Path, key: Path) -> list[str]:
    """Faults of a certificate with its key, below an authority."""
    from cryptography import x509

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=str(authority))
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return [f"{certificate}: not a certificate with its key below {authority.name} ({error})."]
    try:
        issuer, own = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (authority, certificate))
        own.verify_directly_issued_by(issuer)
    except Exception as error:  # noqa: BLE001 - of many kinds; each means that the two do not belong together
        return [f"{certificate}: not signed by {authority} ({type(error).__name__}); both must be of one 'survey tls'."]
    ends, now = own.not_valid_after_utc, datetime.datetime.now(datetime.UTC)
    if ends <= now:
        return [f"{certificate}: ended {ends:%Y-%m-%d}; make new certificates for the whole deployment."]
    if own.not_valid_before_utc > now:
        return [f"{certificate}: holds from {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; set this host's clock."]
    return []
