"""The CA's keys and certificates on disk, and the two steps of a rollover.

Alone: ``ca.key`` and ``ca.pem``. In an overlap there is also ``new/`` with the CA that signs from now on (``ca.key``,
``ca.pem``) and ``cross.pem``: its key certified by the old CA (RFC 4210 section 4.4, "NewWithOld"). Certificates of the
new CA are handed out with the cross certificate behind them, so that who trusts the old CA alone accepts them too, and
nothing depends on who hears of the rollover first. Both CAs have one name: the cross certificate is thereby
self-issued and does not count against the old root's path length of 0 (RFC 5280 section 4.2.1.9).

``ca.pem`` is what may be trusted: the signing CA's root first, in an overlap the old one after it.

Every step is safe against a kill at any instruction. :func:`begin` makes all of ``next/`` and renames it to ``new/``;
:func:`finish` writes the mark ``new/finish``, after which :func:`load` repeats the rest until it is done.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.errors import StartError

CA_DAYS = 3650
BACKDATE = dt.timedelta(minutes=5)  # hosts' clocks differ


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make renames in it last through a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> str:
    """Base32 of the SHA-256 of the DER, lower case, without padding: 52 letters and digits."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    return base64.b32encode(hashlib.sha256(der).digest()).decode().rstrip("=").lower()


def usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, slots=True)
class Root:
    """A CA's key and its self-signed certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    @property
    def expires(self) -> float:
        """Unix seconds."""
        return self.certificate.not_valid_after_utc.timestamp()


@dataclass(frozen=True, slots=True)
class Kept:
    """What the folder holds. ``old`` and ``cross`` in an overlap only; an old CA that had expired certified nobody."""

    signing: Root
    old: Root | None = None
    cross: x509.Certificate | None = None

    @property
    def bundle(self) -> bytes:
        """PEM of the roots to trust, the signing one first."""
        return pem(self.signing.certificate) + (pem(self.old.certificate) if self.old else b"")


def _certify(
    subject: ec.EllipticCurvePublicKey,
    issuer: ec.EllipticCurvePrivateKey,
    name: x509.Name,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.Certificate:
    """A CA certificate; issuer and subject have the same name."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject), critical=False)
    )
    if subject != issuer.public_key():
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
    return builder.sign(issuer, hashes.SHA256())


def make_root(cluster: str, now: float) -> Root:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Wherry cluster {cluster}")])
    start = dt.datetime.fromtimestamp(now, dt.UTC)
    return Root(key, _certify(key.public_key(), key, name, start - BACKDATE, start + dt.timedelta(days=CA_DAYS)))


def load(folder: Path, cluster: str, now: float) -> Kept:
    """Read the folder, or make its CA at the first start; repeats what a kill interrupted. :class:`StartError` when
    its files do not fit, OSError when it cannot be written."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _first_start(folder, cluster, now)
    if (folder / "new" / "finish").exists():
        _adopt_new(folder)
    for leftover in ("next", "gone"):
        if (folder / leftover).exists():
            shutil.rmtree(folder / leftover)
    present = _read(folder)
    if not (folder / "new").exists():
        kept = Kept(present)
    else:
        signing = _read(folder / "new")
        cross_path = folder / "new" / "cross.pem"
        try:
            cross = x509.load_pem_x509_certificate(cross_path.read_bytes()) if cross_path.exists() else None
        except (OSError, ValueError) as exc:
            raise StartError(f"{cross_path} cannot be read: {exc}") from exc
        kept = Kept(signing, present, cross)
    if (folder / "ca.pem").read_bytes() != kept.bundle:
        write_private(folder / "ca.pem", kept.bundle)
    return kept


def _first_start(folder: Path, cluster: str, now: float) -> None:
    key_path, cert_path = folder / "ca.key", folder / "ca.pem"
    if cert_path.exists() and not key_path.exists() and not (folder / "coordinator.pem").exists():
        cert_path.unlink()  # killed between the two files of the very first start: nothing was signed yet
    if not key_path.exists() and not cert_path.exists():
        root = make_root(cluster, now)
        # The certificate goes first: a key without a certificate could not be told from a lost certificate.
        write_private(cert_path, pem(root.certificate))
        write_private(key_path, key_pem(root.key))


def _read(folder: Path) -> Root:
    """The CA whose key is in ``ca.key``, with its certificate out of ``ca.pem``."""
    key_path, cert_path = folder / "ca.key", folder / "ca.pem"
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        found = x509.load_pem_x509_certificates(cert_path.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise StartError(f"the CA in {folder} cannot be read: {exc}") from exc
    if isinstance(key, ec.EllipticCurvePrivateKey):
        for certificate in found:
            if certificate.public_key() == key.public_key():
                return Root(key, certificate)
    raise StartError(f"{key_path} is not the key of {cert_path}")


def begin(folder: Path, kept: Kept, cluster: str, now: float) -> Kept:
    """Make the next CA beside the present one, which must be alone. From the rename on it is the one that signs."""
    assert kept.old is None
    old, new = kept.signing, make_root(cluster, now)
    cross = None
    if now < old.expires:
        start = max(new.certificate.not_valid_before_utc, old.certificate.not_valid_before_utc)
        name, end = old.certificate.subject, old.certificate.not_valid_after_utc
        cross = _certify(new.key.public_key(), old.key, name, start, end)
    following = folder / "next"
    if following.exists():
        shutil.rmtree(following)
    following.mkdir(mode=0o700)
    write_private(following / "ca.pem", pem(new.certificate))
    write_private(following / "ca.key", key_pem(new.key))
    if cross is not None:
        write_private(following / "cross.pem", pem(cross))
    begun = Kept(new, old, cross)
    write_private(folder / "ca.pem", begun.bundle)  # before the rename, after which nothing may fail any more
    _sync_folder(following)
    following.rename(folder / "new")
    _sync_folder(folder)
    return begun


def finish(folder: Path, kept: Kept) -> Kept:
    """Put the new CA in the place of the old one, whose key is destroyed."""
    assert kept.old is not None
    write_private(folder / "new" / "finish", b"")
    _sync_folder(folder / "new")
    _adopt_new(folder)
    return Kept(kept.signing)


def _adopt_new(folder: Path) -> None:
    write_private(folder / "ca.pem", (folder / "new" / "ca.pem").read_bytes())
    write_private(folder / "ca.key", (folder / "new" / "ca.key").read_bytes())
    _sync_folder(folder)
    shutil.rmtree(folder / "gone", ignore_errors=True)
    (folder / "new").rename(folder / "gone")
    _sync_folder(folder)
    shutil.rmtree(folder / "gone")
