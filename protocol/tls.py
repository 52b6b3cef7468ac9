"""TLS 1.3 with certificates on both ends, and who the other end proved to be (SPEC.md section 7).

A certificate names its holder by one SAN URI: ``wherry://CLUSTER/node/ID`` or ``wherry://CLUSTER/coordinator``. Host
names play no part: nodes move. A listener that admits joiners (``anonymous=True``) also takes peers without a
certificate; a certificate that does not verify ends the handshake on every listener.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.authority import ANONYMOUS, COORDINATOR, NODE
from protocol.errors import PeerRejected

_URI: Final = re.compile(r"^wherry://(?P<cluster>[A-Za-z0-9_-]{1,64})/(?:node/(?P<node>[1-9][0-9]{0,9})|coordinator)$")


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a certificate proves. ``node`` is 0 for the coordinator and for anonymous peers."""

    role: str
    node: int = 0
    cluster: str = ""

    @property
    def uri(self) -> str:
        """The SAN URI for a certificate of this identity."""
        tail = COORDINATOR if self.role == COORDINATOR else f"node/{self.node}"
        return f"wherry://{self.cluster}/{tail}"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: certificate (chain), its key, the CA bundle (two CAs during a rollover)."""

    certificate: Path
    key: Path
    ca: Path


def parse_uri(uri: str) -> PeerIdentity:
    """A SAN URI as identity; :class:`PeerRejected` when it is none of ours."""
    found = _URI.match(uri)
    if not found:
        raise PeerRejected(f"certificate names {uri[:100]!r}, not wherry://CLUSTER/node/ID or .../coordinator")
    if found["node"] is None:
        return PeerIdentity(COORDINATOR, 0, found["cluster"])
    if int(found["node"]) > 0xFFFFFFFF:
        raise PeerRejected(f"certificate names node {found['node']}, allowed 1..4294967295")
    return PeerIdentity(NODE, int(found["node"]), found["cluster"])


def identity_from_certificate(certificate: dict[str, Any] | None) -> PeerIdentity:
    """From ``SSLObject.getpeercert()``, which is empty unless the certificate was verified."""
    if not certificate:
        return PeerIdentity(ANONYMOUS)
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise PeerRejected(f"certificate has {len(uris)} SAN URIs, allowed: one")
    return parse_uri(uris[0])


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For a dialling node or coordinator."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, files, ssl.CERT_REQUIRED)


def server_context(files: TlsFiles, *, anonymous: bool = False) -> ssl.SSLContext:
    """For a listener; ``anonymous`` admits peers without a certificate (they may call ``bootstrap.*`` only)."""
    return _context(ssl.PROTOCOL_TLS_SERVER, files, ssl.CERT_OPTIONAL if anonymous else ssl.CERT_REQUIRED)


def bootstrap_context() -> ssl.SSLContext:
    """For the first contact of a joiner: no certificate of its own, and the peer's is not checked by TLS.

    The joiner must compare the CA that it then fetches with the fingerprint in its token.
    """
    context = _bare(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_NONE
    return context


def _bare(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # identity is the SAN URI
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _context(protocol: ssl._SSLMethod, files: TlsFiles, verify: ssl.VerifyMode) -> ssl.SSLContext:
    context = _bare(protocol)
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.ca)
    context.verify_mode = verify
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # every session proves its certificate anew
    return context


ServerTls = ssl.SSLContext | TlsFiles
ContextSource = Callable[[], ssl.SSLContext]


def reloading(files: TlsFiles, *, anonymous: bool = False) -> ContextSource:
    """A listener's context that follows renewals: made anew when one of the files has changed."""
    made: tuple[tuple[int, ...], ssl.SSLContext] | None = None

    def current() -> ssl.SSLContext:
        nonlocal made
        stamp = tuple(path.stat().st_mtime_ns for path in (files.certificate, files.key, files.ca))
        if made is None or made[0] != stamp:
            made = (stamp, server_context(files, anonymous=anonymous))
        return made[1]

    return current
