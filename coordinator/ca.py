"""The cluster's certificate authority: who may speak on links, and as whom.

One CA (ECDSA P-256) is made at the first start (:mod:`coordinator.cafiles`, which also knows a rollover's files);
whoever holds its key is the cluster, so an offline copy is advised. It signs node certificates of ``NODE_DAYS`` for
keys that never leave their nodes: a CSR proves possession of the key, and nothing else in it is believed. Identity is
one SAN URI, ``wherry://CLUSTER/node/ID`` or ``wherry://CLUSTER/coordinator`` (RFC 5280 section 4.2.1.6); the
coordinator's also carries the names and addresses it serves under, for HTTPS clients.

Between :meth:`Authority.rotate` and :meth:`Authority.finish` two CAs are trusted and the new one signs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator import cafiles
from coordinator.cafiles import BACKDATE, CA_DAYS, Kept, key_pem, pem, usage, write_private
from coordinator.errors import Conflict, Full, Invalid

__all__ = ["CA_DAYS", "NODE_DAYS", "OWN_DAYS", "Authority", "OwnFiles", "csr_key_hash", "load_csr", "write_private"]

NODE_DAYS = 7
OWN_DAYS = 30


@dataclass(frozen=True)
class OwnFiles:
    """The coordinator's own certificate chain and key as TLS wants them."""

    certificate: Path
    key: Path
    ca: Path
    expires: float  # Unix seconds


class Authority:
    """The open CA. ``now`` is passed in as Unix seconds."""

    def __init__(self, folder: Path, cluster: str, kept: Kept) -> None:
        self.folder = folder
        self.cluster = cluster
        self._kept = kept

    @classmethod
    def open(cls, folder: Path, cluster: str, now: float) -> Authority:
        """Open the CA of ``folder``, or make it at the first start; :class:`StartError` when its files do not fit."""
        return cls(folder, cluster, cafiles.load(folder, cluster, now))

    @property
    def pem(self) -> str:
        """The roots to trust, the signing one first."""
        return self._kept.bundle.decode()

    @property
    def fingerprint(self) -> str:
        """Of the root that signs."""
        return self._kept.signing.fingerprint

    @property
    def old_fingerprint(self) -> str | None:
        """Of the root that is trusted besides, in an overlap."""
        return self._kept.old.fingerprint if self._kept.old else None

    @property
    def expires(self) -> float:
        """When the signing root does, in Unix seconds."""
        return self._kept.signing.expires

    @property
    def old_expires(self) -> float | None:
        return self._kept.old.expires if self._kept.old else None

    # ---- rollover ---------------------------------------------------------------------------------------------------

    def rotate(self, now: float) -> None:
        """Begin an overlap: a new CA signs from here on. :class:`Conflict` when one is under way."""
        if self._kept.old is not None:
            raise Conflict("a rotation of the CA is under way already; finish it first (wherry ca finish)")
        try:
            self._kept = cafiles.begin(self.folder, self._kept, self.cluster, now)
        except OSError as exc:
            raise Full(f"the new CA could not be written: {exc.strerror}; nothing was changed") from exc

    def finish(self) -> None:
        """Trust the new CA alone. :class:`Conflict` when there is no overlap."""
        if self._kept.old is None:
            raise Conflict("no rotation of the CA is under way (wherry ca rotate begins one)")
        try:
            self._kept = cafiles.finish(self.folder, self._kept)
        except OSError as exc:
            raise Full(f"the rotation could not be finished: {exc.strerror}; say it again when there is room") from exc

    # ---- signing ----------------------------------------------------------------------------------------------------

    def sign_node(self, csr_pem: str, node: int, now: float) -> str:
        """A certificate chain (PEM) for a CSR's key, as node ``node``; :class:`Invalid` names the field ``csr_pem``."""
        csr = load_csr(csr_pem)
        signed = self._sign(_public_key(csr), f"node-{node}", f"node/{node}", names=[], now=now, days=NODE_DAYS)
        return self._chain(signed).decode()

    def _chain(self, certificate: x509.Certificate) -> bytes:
        """With the cross certificate behind it, while there are peers that trust the old root alone."""
        return pem(certificate) + (pem(self._kept.cross) if self._kept.cross else b"")

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
        root, signing_key = self._kept.signing.certificate, self._kept.signing.key
        identity = x509.UniformResourceIdentifier(f"wherry://{self.cluster}/{path}")
        end = min(start + dt.timedelta(days=days), root.not_valid_after_utc)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
            .issuer_name(root.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(start - BACKDATE, root.not_valid_before_utc))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([identity, *names]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
            .sign(signing_key, hashes.SHA256())
        )

    def own(self, hosts: Sequence[str], now: float) -> OwnFiles:
        """The coordinator's own certificate for ``hosts`` (names or addresses), renewed once half of its life is over,
        when the hosts changed, and at each step of a rollover."""
        files = self.folder / "coordinator.pem", self.folder / "coordinator.key", self.folder / "ca.pem"
        names = general_names(hosts)
        with contextlib.suppress(OSError, ValueError, x509.ExtensionNotFound):
            chain = x509.load_pem_x509_certificates(files[0].read_bytes())
            san = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            end = chain[0].not_valid_after_utc.timestamp()
            good = now < end - OWN_DAYS * 86400 / 2 and list(san)[1:] == names
            if good and self._is_ours(chain) and files[1].exists():
                return OwnFiles(*files, end)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(key.public_key(), "coordinator", "coordinator", names=names, now=now, days=OWN_DAYS)
        # A crash between the two writes leaves a pair that does not fit; the certificate is removed first for that.
        files[0].unlink(missing_ok=True)
        write_private(files[1], key_pem(key))
        write_private(files[0], self._chain(certificate))
        return OwnFiles(*files, certificate.not_valid_after_utc.timestamp())

    def _is_ours(self, chain: list[x509.Certificate]) -> bool:
        """Of the root that signs, with the cross certificate behind it exactly while there is one."""
        if chain[1:] != ([self._kept.cross] if self._kept.cross else []):
            return False
        try:
            chain[0].verify_directly_issued_by(self._kept.signing.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


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
