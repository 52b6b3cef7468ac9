"""Byte streams that either side opens."""

from __future__ import annotations

from typing import ClassVar

from protocol.messages.base import Bytes, NodeId, Sha256, StreamOpen


class BlobOpen(StreamOpen, frozen=True, kw_only=True):
    """The bytes of a blob from ``offset`` to its end; the receiver verifies the hash."""

    method: ClassVar[str] = "blob.get"
    sha256: Sha256
    offset: Bytes = 0


class RelayOpen(StreamOpen, frozen=True, kw_only=True):
    """Agent to coordinator: bridge this stream to ``node``. Both ends then run TLS inside it, end to end."""

    method: ClassVar[str] = "link.relay"
    node: NodeId


class RelayAccept(StreamOpen, frozen=True, kw_only=True):
    """Coordinator to the called agent: the other half of the bridge."""

    method: ClassVar[str] = "link.relayed"
    node: NodeId
