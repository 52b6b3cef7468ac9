"""Agent to agent: tunnels, stations, the state of links."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from protocol.messages.base import Mac, Message, NodeId, Notice, Request, Sequence, Text, Vni


class PeerHello(Request, frozen=True, kw_only=True):
    method: ClassVar[str] = "peer.hello"
    node: NodeId
    cipher: Literal[0, 1]  # the sender's preference; the lower node id's wins


class TunnelKey(Request, frozen=True, kw_only=True):
    """The sender will seal to the receiver with this key once the receiver answered."""

    method: ClassVar[str] = "peer.key"
    epoch: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
    cipher: Literal[0, 1]
    key: Annotated[bytes, Meta(min_length=32, max_length=32)]

    def __repr__(self) -> str:  # keys must not reach logs
        return f"TunnelKey(epoch={self.epoch}, cipher={self.cipher})"


class TunnelStream(Request, frozen=True, kw_only=True):
    """The sender wants to carry the tunnel over TCP, since UDP does not come through (SPEC 8.10)."""

    method: ClassVar[str] = "peer.stream"


class TunnelCookie(Message, frozen=True, kw_only=True):
    """What the connection begins with. Good for one, soon."""

    cookie: Annotated[bytes, Meta(min_length=32, max_length=32)]

    def __repr__(self) -> str:  # who has it may be taken for the peer
        return "TunnelCookie(...)"


TunnelStream.answer = TunnelCookie


class MacAdvert(Message, frozen=True, kw_only=True):
    """In the manner of an EVPN type-2 route (RFC 7432 §7.2, mobility §7.7)."""

    vni: Vni
    mac: Mac
    address: Text = ""
    generation: Sequence  # 0: a MAC that no guest owns (learned on a TAP)
    sequence: Sequence
    node: NodeId
    withdrawn: bool = False


class MacAdverts(Notice, frozen=True, kw_only=True):
    method: ClassVar[str] = "peer.macs"
    adverts: Annotated[list[MacAdvert], Meta(max_length=8192)]
    vnis: Annotated[list[Vni], Meta(max_length=65536)]  # networks in which the sender has ports: BUM goes there
    full: bool = False  # the sender's whole table: what it does not list is withdrawn


class LinkStateEntry(Message, frozen=True, kw_only=True):
    node: NodeId
    cost: Annotated[int, Meta(ge=1, le=0xFFFFFF)]  # microseconds of RTT, clamped


class LinkState(Message, frozen=True, kw_only=True):
    """One node's LSA: the peers that it reaches directly."""

    origin: NodeId
    sequence: Sequence
    entries: Annotated[list[LinkStateEntry], Meta(max_length=4096)]


class LinkStates(Notice, frozen=True, kw_only=True):
    method: ClassVar[str] = "peer.lsa"
    lsas: Annotated[list[LinkState], Meta(max_length=4096)]
