"""The cluster's certificate authority: who may speak on links, and as whom.

One CA (ECDSA P-256) is made at the first start in ``ca/ca.key`` (mode 0600) and ``ca/ca.pem``; whoever holds the key is
the cluster, so an offline copy is advised. It signs node certificates of ``NODE_DAYS`` for keys that never leave their
nodes: a CSR proves possession of the key, and nothing else in it is believed. Identity is one SAN URI, ``wherry://CLUSTER/node/ID``
or ``wherry://CLUSTER/coordinator`` (RFC 5280 section 4.2.1.6); the coordinator's also carries the names and addresses
it serves under, for HTTPS clients.

Files are written under another name and renamed, so that a crash leaves either the old or the new one.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.errors import Invalid, StartError

CA_DAYS = 3650
NODE_DAYS = 7
OWN_DAYS = 30
_BACKDATE = dt.timedelta(minutes=5)  # hosts' clocks differ


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


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _usage(*, ca: bool) -> x509.KeyUsage:
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


@dataclass(frozen=True)
class OwnFiles:
    """The coordinator's own certificate chain and key as TLS wants them."""

    certificate: Path
    key: Path
    ca: Path
    expires: float  # Unix seconds


class Authority:
    """The open CA. ``now`` is passed in as Unix seconds."""

    def __init__(self, folder: Path, cluster: str, key: ec.EllipticCurvePrivateKey, root: x509.Certificate) -> None:
        self.folder = folder
        self.cluster = cluster
        self._key = key
        self._root = root
        self.pem = _pem(root).decode()
        der = root.public_bytes(serialization.Encoding.DER)
        self.fingerprint = base64.b32encode(hashlib.sha256(der).digest()).decode().rstrip("=").lower()

    @classmethod
    def open(cls, folder: Path, cluster: str, now: float) -> Authority:
        """Open the CA of ``folder``, or make it at the first start; :class:`StartError` when its files do not fit."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_path, cert_path = folder / "ca.key", folder / "ca.pem"
        if not key_path.exists() and not cert_path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            # The certificate goes first: a key without a certificate could not be told from a lost certificate.
            write_private(cert_path, _pem(cls._make_root(key, cluster, now)))
            write_private(key_path, _key_pem(key))
        if not key_path.exists() and cert_path.exists() and not (folder / "coordinator.pem").exists():
            # Killed between the two files of the very first start: nothing was signed yet, so begin again.
            cert_path.unlink()
            return cls.open(folder, cluster, now)
        try:
            loaded = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
            root = x509.load_pem_x509_certificate(cert_path.read_bytes())
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise StartError(f"the CA in {folder} cannot be read: {exc}") from exc
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != root.public_key():
            raise StartError(f"{key_path} is not the key of {cert_path}")
        return cls(folder, cluster, loaded, root)

    @staticmethod
    def _make_root(key: ec.EllipticCurvePrivateKey, cluster: str, now: float) -> x509.Certificate:
        start = dt.datetime.fromtimestamp(now, dt.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Wherry cluster {cluster}")])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - _BACKDATE)
            .not_valid_after(start + dt.timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )

    def sign_node(self, csr_pem: str, node: int, now: float) -> str:
        """A certificate for the key of a CSR, as node ``node``; :class:`Invalid` names the field ``csr_pem``."""
        csr = load_csr(csr_pem)
        return _pem(
            self._sign(_public_key(csr), f"node-{node}", f"node/{node}", names=[], now=now, days=NODE_DAYS)
        ).decode()

    def _sign(
        self,
        public: ec.EllipticCurvePublicKey,
        common: str,
        path: str,
        *,
        names: Iterable[x509.GeneralName],
        now: float,
        days: int,
    ) -> x509.Certificate:
        start = dt.datetime.fromtimestamp(now, dt.UTC)
        identity = x509.UniformResourceIdentifier(f"wherry://{self.cluster}/{path}")
        end = min(start + dt.timedelta(days=days), self._root.not_valid_after_utc)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
            .issuer_name(self._root.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(start - _BACKDATE, self._root.not_valid_before_utc))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([identity, *names]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def own(self, hosts: Sequence[str], now: float) -> OwnFiles:
        """The coordinator's own certificate for ``hosts`` (names or addresses), renewed once half of its life is over
        or when the hosts changed."""
        files = self.folder / "coordinator.pem", self.folder / "coordinator.key", self.folder / "ca.pem"
        names = general_names(hosts)
        with contextlib.suppress(OSError, ValueError, x509.ExtensionNotFound):
            present = x509.load_pem_x509_certificate(files[0].read_bytes())
            san = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            half = present.not_valid_after_utc.timestamp() - OWN_DAYS * 86400 / 2
            if now < half and list(san)[1:] == names and files[1].exists():
                return OwnFiles(*files, present.not_valid_after_utc.timestamp())
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(key.public_key(), "coordinator", "coordinator", names=names, now=now, days=OWN_DAYS)
        # A crash between the two writes leaves a pair that does not fit; the certificate is removed first for that.
        files[0].unlink(missing_ok=True)
        write_private(files[1], _key_pem(key))
        write_private(files[0], _pem(certificate))
        return OwnFiles(*files, certificate.not_valid_after_utc.timestamp())


def general_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    out: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            out.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if host.isascii():
                out.append(x509.DNSName(host))
    return out


def load_csr(pem: str) -> x509.CertificateSigningRequest:
    """A CSR whose signature is right; :class:`Invalid` otherwise."""
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        if not csr.is_signature_valid:
            raise Invalid("the CSR's signature is wrong", field="csr_pem")
        _public_key(csr)
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise Invalid(f"not a certificate signing request: {exc}", field="csr_pem") from None
    return csr


def _public_key(csr: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("the CSR's key must be ECDSA P-256", field="csr_pem")
    return key


def csr_key_hash(pem: str) -> bytes:
    """SHA-256 of the CSR's public key: recognises a joiner that asks again with the same key."""
    spki = (
        load_csr(pem)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return hashlib.sha256(spki).digest()
