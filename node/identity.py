"""Who this node is: joining by a one-time token, the certificate and its renewal.

Joining takes two connections. The first is unverified and asks for the CA certificate only; its SHA-256 must equal the
fingerprint in the token, so an impostor learns nothing and changes nothing. The second verifies the coordinator against
that CA before the token's secret and the CSR are sent. The private key is made here and never leaves.

In a rotation of the CA the coordinator names two: the one of the token is what the second connection is verified with,
and what that connection then brings is the bundle that is kept. :class:`TrustKeeper` follows later rotations.

Files in ``identity/`` (0700, files 0600): ``node.pem`` holds key and certificate together, so that a renewal replaces
both by one rename; ``ca.pem``; ``identity.json`` is written last - without it nothing else counts.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.record import write_atomically
from protocol.errors import LinkError, PeerRejected, Refused, RemoteError
from protocol.messages import CaFetch, CaFetched, Join, Joined, Renew, Renewed, Trust, Trusted
from protocol.tls import TlsFiles, bootstrap_context, client_context, parse_uri
from protocol.transport import Handlers, Link, LocalIdentity, connect_tls, open_link

log = logging.getLogger("wherry.node.identity")

RENEW_AT = 0.5  # of a certificate's life
_RETRY_S = 600.0


class IdentityError(Exception):
    """Joining or loading failed; the text is for people and names what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """``ID.SECRET.FINGERPRINT`` as the coordinator prints it; ``text`` goes back to it whole."""

    text: str
    fingerprint: str

    @classmethod
    def parse(cls, text: str) -> Token:
        parts = text.strip().lower().split(".")
        if len(parts) != 3 or not all(parts) or len(parts[2]) != 52:
            raise IdentityError("join token: it has the form ID.SECRET.FINGERPRINT (52 letters and digits at the end)")
        return cls(".".join(parts), parts[2])


def split_join(text: str) -> tuple[Token, str]:
    """``TOKEN@HOST:PORT``, the argument of --join."""
    token, at, address = text.rpartition("@")
    if not at or ":" not in address:
        shown = address if at else ""  # without an @ it may be the token alone, which is secret
        raise IdentityError(f"join: ...@{shown}: it has the form TOKEN@HOST:PORT")
    return Token.parse(token), address


@dataclass(frozen=True, slots=True)
class Identity:
    """A node that has joined. ``coordinator`` is the address that it dials."""

    folder: Path
    node: int
    name: str
    cluster: str
    coordinator: str
    lock: trio.Lock = field(default_factory=trio.Lock, compare=False, repr=False)  # one writer of the files at a time

    @property
    def tls(self) -> TlsFiles:
        return TlsFiles(self.folder / "node.pem", self.folder / "node.pem", self.folder / "ca.pem")

    @classmethod
    def load(cls, folder: Path) -> Identity | None:
        """None before the first join; IdentityError when the files are damaged."""
        try:
            data = json.loads((folder / "identity.json").read_text())
            identity = cls(folder, int(data["node"]), str(data["name"]), str(data["cluster"]), str(data["coordinator"]))
            identity.lifetime()
            client_context(identity.tls)  # certificate and key fit, and there is a CA: else no link would ever come up
        except FileNotFoundError:
            if (folder / "identity.json").exists():
                raise IdentityError(f"{folder}: node.pem or ca.pem is missing, join again") from None
            return None
        except OSError as error:
            raise IdentityError(f"{folder} cannot be used ({error}); mend it, or remove it and join again") from error
        except (ValueError, KeyError, TypeError) as error:
            raise IdentityError(f"{folder} is damaged ({error}); remove it and join again") from error
        return identity

    def lifetime(self) -> tuple[float, float]:
        """Unix seconds from which and until which the certificate is valid."""
        certificate = x509.load_pem_x509_certificate((self.folder / "node.pem").read_bytes())
        return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def fingerprint(ca_pem: str) -> str:
    """Base32 of the SHA-256 of the first certificate's DER, lower case, without padding. ValueError: no certificate."""
    return next(iter(roots(ca_pem)))


def roots(ca_pem: str) -> dict[str, x509.Certificate]:
    """The certificates of a bundle by fingerprint, in its order. ValueError: there is none."""
    found = x509.load_pem_x509_certificates(ca_pem.encode())

    def name(certificate: x509.Certificate) -> str:
        der = certificate.public_bytes(serialization.Encoding.DER)
        return base64.b32encode(hashlib.sha256(der).digest()).decode().rstrip("=").lower()

    return {name(certificate): certificate for certificate in found}


def make_request(name: str) -> tuple[bytes, str]:
    """A fresh P-256 key (PEM) and a CSR for it (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, csr.public_bytes(serialization.Encoding.PEM).decode()


def check_certificate(certificate_pem: str, key_pem: bytes, ca_pem: str, node: int) -> None:
    """Is this really ours: for our key, of this CA, naming this node? IdentityError says what is not."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        key = serialization.load_pem_private_key(key_pem, None)
        issuers = x509.load_pem_x509_certificates(ca_pem.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        who = parse_uri(uris[0] if len(uris) == 1 else "")
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, PeerRejected) as error:
        raise IdentityError(f"the coordinator sent a certificate that cannot be used: {error}") from error
    if certificate.public_key() != key.public_key():
        raise IdentityError("the coordinator sent a certificate for another key")
    if who.node != node:
        raise IdentityError(f"the coordinator sent a certificate of node {who.node}, not {node}")
    if not any(_issued(certificate, issuer) for issuer in issuers):
        raise IdentityError("the coordinator sent a certificate of another CA")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


async def join(folder: Path, token: Token, address: str, name: str, *, timeout: float = 15.0) -> Identity:
    """Become a node of the cluster at ``address``. Raises IdentityError; nothing is stored then."""
    ca_pem = await _fetch_ca(token, address, timeout)
    key_pem, csr_pem = make_request(name)
    context = bootstrap_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca_pem)
    try:
        stream = await connect_tls(address, tls=context, expect="coordinator", timeout=timeout)
        async with open_link(stream, identity=LocalIdentity(name), handlers=Handlers(), client=True) as link:
            joined: Joined = await link.call(Join(token=token.text, name=name, csr_pem=csr_pem), timeout=timeout)
    except RemoteError as error:
        raise IdentityError(f"join refused by {address}: {error.message}") from error
    except LinkError as error:
        raise IdentityError(f"cannot join at {address}: {error}") from error
    check_certificate(joined.certificate_pem, key_pem, joined.ca_pem, joined.node)
    identity = Identity(folder, joined.node, name, joined.cluster, address)
    _store(identity, key_pem, joined.certificate_pem, joined.ca_pem)
    log.info("node=%d joined cluster %s as %s", identity.node, identity.cluster, name)
    return identity


async def _fetch_ca(token: Token, address: str, timeout: float) -> str:
    """The root that the token pins."""
    try:
        stream = await connect_tls(address, tls=bootstrap_context(), expect=None, timeout=timeout)
        async with open_link(stream, identity=LocalIdentity("joiner"), handlers=Handlers(), client=True) as link:
            fetched: CaFetched = await link.call(CaFetch(), timeout=timeout)
        found = roots(fetched.ca_pem)
    except (LinkError, ValueError) as error:
        raise IdentityError(f"cannot reach a coordinator at {address}: {error}") from error
    if token.fingerprint not in found:
        theirs = next(iter(found))[:12]
        raise IdentityError(
            f"{address} is another cluster than the token's (CA {theirs}..., token's differs), or its CA was rotated"
            " since the token was made: ask for a new token"
        )
    # Nothing proves the rest of what this connection said: the pinned root alone is trusted for the next one.
    return found[token.fingerprint].public_bytes(serialization.Encoding.PEM).decode()


def _store(identity: Identity, key_pem: bytes, certificate_pem: str, ca_pem: str) -> None:
    identity.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    identity.folder.chmod(0o700)
    write_atomically(identity.folder / "ca.pem", ca_pem.encode(), sync=True)
    write_atomically(identity.folder / "node.pem", key_pem + certificate_pem.encode(), sync=True)
    about = {
        "node": identity.node,
        "name": identity.name,
        "cluster": identity.cluster,
        "coordinator": identity.coordinator,
    }
    write_atomically(identity.folder / "identity.json", json.dumps(about).encode(), sync=True)


async def renew(identity: Identity, link: Link) -> None:
    """One renewal over a live link: new key, new certificate, and the CA bundle of the day."""
    async with identity.lock:
        await _renew(identity, link)


async def _renew(identity: Identity, link: Link) -> None:
    key_pem, csr_pem = make_request(identity.name)
    renewed: Renewed = await link.call(Renew(csr_pem=csr_pem), timeout=30.0)
    check_certificate(renewed.certificate_pem, key_pem, renewed.ca_pem, identity.node)
    # The bundle first: a kill in between leaves a certificate that is still trusted, and more roots than needed.
    write_atomically(identity.folder / "ca.pem", renewed.ca_pem.encode(), sync=True)
    write_atomically(identity.folder / "node.pem", key_pem + renewed.certificate_pem.encode(), sync=True)
    log.info("node=%d has a new certificate until %.0f", identity.node, identity.lifetime()[1])


async def keep_renewed(identity: Identity, link: Link, now: Callable[[], float]) -> None:
    """Renew when half of the life is over, for as long as the link lives; failures are tried again."""
    while True:
        start, end = identity.lifetime()
        await trio.sleep(max(0.0, start + (end - start) * RENEW_AT - now()))
        try:
            await renew(identity, link)
        except (LinkError, IdentityError, OSError) as error:
            log.warning("node=%d: certificate not renewed, again in %.0f s: %s", identity.node, _RETRY_S, error)
            await trio.sleep(_RETRY_S)


class TrustKeeper:
    """Answers ``cluster.trust``: takes over the roots of the day, renews where the certificate is of another one."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def register(self, handlers: Handlers) -> None:
        handlers.on_request(Trust, self._trust)

    async def _trust(self, link: Link, request: Trust) -> Trusted:
        """Raises Refused: nothing was changed, or the certificate could not be renewed (it is still trusted then)."""
        identity = self._identity
        try:
            async with identity.lock:
                wanted = roots(request.ca_pem)
                if request.issuer not in wanted:
                    raise ValueError("the root that signs is not in the bundle")
                if issuer_of(identity, wanted) != request.issuer:
                    # A bundle without the root of the present certificate may come to a node that was away for long;
                    # the renewal brings the bundle together with the certificate that is good under it.
                    await _renew(identity, link)
                elif (identity.folder / "ca.pem").read_bytes() != request.ca_pem.encode():
                    write_atomically(identity.folder / "ca.pem", request.ca_pem.encode(), sync=True)
                    log.info("node=%d trusts %d roots", identity.node, len(wanted))
                kept = roots((identity.folder / "ca.pem").read_text())
                return Trusted(issuer=issuer_of(identity, kept), roots=list(kept)[:8])
        except (IdentityError, ValueError) as error:
            raise Refused("invalid", f"the roots cannot be used: {error}", field="ca_pem") from error
        except LinkError as error:
            raise Refused("unavailable", f"the certificate was not renewed: {error}") from error
        except OSError as error:
            raise Refused("full", f"{identity.folder}: {error.strerror}") from error


def issuer_of(identity: Identity, known: dict[str, x509.Certificate]) -> str:
    """Fingerprint of the root that the node's certificate is of; empty when it is none of these."""
    certificate = x509.load_pem_x509_certificate((identity.folder / "node.pem").read_bytes())
    return next((name for name, root in known.items() if _issued(certificate, root)), "")
