"""Who may stand in the doorway: connections that have not yet proved who they are, bounded so that they keep nobody
out.

A stranger can open connections and say nothing, or never show a certificate. So they have places of their own, apart
from those of proven peers: :data:`PLACES` in all, :data:`PER_SOURCE` of one source. One source too many is turned away;
when all places are taken the one that has stood longest goes, for an honest handshake takes milliseconds. Many sources
can still keep the processor busy with handshakes: that is for a firewall.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from protocol.errors import LinkClosed

PLACES: Final = 256
PER_SOURCE: Final = 64  # of one host, which may have many nodes behind its address


def source_of(host: str) -> str:
    """Whom a connection counts for: an IPv4 address, or an IPv6 host's /64."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


class Doorway:
    def __init__(self, places: int = PLACES, per_source: int = PER_SOURCE) -> None:
        self._places = places
        self._per_source = per_source
        self._standing: dict[trio.CancelScope, str] = {}  # in the order in which they came
        self._of: Counter[str] = Counter()

    @contextmanager
    def enter(self, host: str) -> Iterator[trio.CancelScope]:
        """For as long as the block lasts; it is cancelled if its place is needed. Raises :class:`LinkClosed` at once
        when the host has too many."""
        source = source_of(host)
        if self._of[source] >= self._per_source:
            raise LinkClosed(f"{self._per_source} connections of {source} have not proved who they are yet")
        if len(self._standing) >= self._places:
            oldest = next(iter(self._standing))
            self._leave(oldest)
            oldest.cancel()
        with trio.CancelScope() as scope:
            self._standing[scope] = source
            self._of[source] += 1
            try:
                yield scope
            finally:
                self._leave(scope)

    def _leave(self, scope: trio.CancelScope) -> None:
        """Its place is free; twice is fine."""
        source = self._standing.pop(scope, None)
        if source is None:
            return
        self._of[source] -= 1
        if not self._of[source]:
            del self._of[source]
