"""Coordinator to agent: ports, their rules and what is seen at them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from protocol.messages.base import Id, Mac, Message, Name, NodeId, Request, Text, Vni
from protocol.messages.data import Counter, CounterName, PortSettings
from protocol.messages.reports import PortKey


class Attachment(Message, frozen=True, kw_only=True):
    """A port of a node that leads to something of its host: a TAP, or a datagram socket of another program."""

    id: Id
    network: Name
    vni: Vni
    mtu: Annotated[int, Meta(ge=576, le=9000)] = 1400
    kind: Literal["tap", "unix", "udp"]
    local: Annotated[str, Meta(min_length=1, max_length=255)]  # the TAP's name; our socket's path or HOST:PORT
    remote: Annotated[str, Meta(max_length=255)] = ""  # the other's; empty: whoever sent the last frame


class AttachmentState(Message, frozen=True, kw_only=True):
    id: Id
    state: Literal["up", "failed"]
    code: Text = ""  # an error code of section 3.4
    reason: Text = ""


class PortsSet(Request, frozen=True, kw_only=True):
    """All attachments that this node shall have; others go. The node keeps the list and has them again after a
    restart, before it has reached the coordinator. One that fails is tried again every few seconds."""

    method: ClassVar[str] = "port.set"
    attachments: Annotated[list[Attachment], Meta(max_length=1024)]


class PortsDone(Message, frozen=True, kw_only=True):
    states: Annotated[list[AttachmentState], Meta(max_length=1024)]


PortsSet.answer = PortsDone


class NetworkRule(Message, frozen=True, kw_only=True):
    vni: Vni
    mtu: Annotated[int, Meta(ge=576, le=9000)]
    stations: Annotated[int, Meta(ge=0, le=1 << 20)] = 0  # learned ones at most, in each switch; 0: the switch's
    storm: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 10000  # frames/s that a port may have flooded; 0: no bound
    proxy: bool = True  # switches answer ARP and neighbour solicitations for stations that they know
    bound: bool = False  # guests send IPv4 from the address that they were given only, and nobody else does


class PortRule(Message, frozen=True, kw_only=True):
    port: PortKey
    settings: PortSettings


class TunnelRate(Message, frozen=True, kw_only=True):
    """What a node sends to another one, in bits of IP packets a second."""

    node: NodeId
    to: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0  # 0: each node that is not named by another of these
    rate: Annotated[int, Meta(ge=0, le=10**12)]  # 0: no bound


class PortRules(Request, frozen=True, kw_only=True):
    """All networks, all ports of the cluster with settings of their own (whichever node a guest comes to knows its
    ports' already), and all rates of tunnels. Each list replaces the former one; the node keeps it, and has it before
    it opens a port."""

    method: ClassVar[str] = "port.rules"
    networks: Annotated[list[NetworkRule], Meta(max_length=65536)]
    ports: Annotated[list[PortRule], Meta(max_length=65536)]
    rates: Annotated[list[TunnelRate], Meta(max_length=65536)] = []


class PortOpen(Request, frozen=True, kw_only=True):
    """Open a port that the guard has shut. One that is open stays so."""

    method: ClassVar[str] = "port.open"
    port: PortKey


class PortRelease(Request, frozen=True, kw_only=True):
    """Stations that are held may move again: in one network, or, with ``vni`` 0, in all that the node has."""

    method: ClassVar[str] = "port.release"
    vni: Annotated[int, Meta(ge=0, le=0xFFFFFF)]
    macs: Annotated[list[Mac], Meta(max_length=256)]


class PortReleased(Message, frozen=True, kw_only=True):
    macs: Annotated[list[Mac], Meta(max_length=256)]  # those that were held here


PortRelease.answer = PortReleased


class HeldStation(Message, frozen=True, kw_only=True):
    """A station that is in two places, at a port and at another (``other_port`` of this node, or ``other_node``).
    ``here``: it is held at the port of which this is said, else at the other: what comes from here is dropped."""

    mac: Mac
    here: bool = True
    other_port: Annotated[str, Meta(max_length=64)] = ""
    other_node: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0


class PortStatus(Message, frozen=True, kw_only=True):
    """``owner``: the guest's or the attachment's id. Counters as wh_counters in csrc/api.cdef."""

    port: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
    vni: Vni
    kind: Literal["guest", "tap", "unix", "udp"]
    owner: Id
    name: Text  # of an attachment: its local end; of a guest: empty
    mac: Text = ""  # the locked one
    counters: Annotated[dict[CounterName, Counter], Meta(max_length=64)] = {}
    shut_by: Text = ""  # the MAC whose BPDU shut it; empty: it is open
    held: Annotated[list[HeldStation], Meta(max_length=256)] = []


class TunnelStatus(Message, frozen=True, kw_only=True):
    node: NodeId
    via: NodeId | None = None  # the next hop, the node itself when direct; none: no way is known
    path: Literal["", "udp", "tcp"] = ""  # by which the node itself is reached; empty: by none
    counters: Annotated[dict[CounterName, Counter], Meta(max_length=64)] = {}


class NetLook(Request, frozen=True, kw_only=True):
    """What the node's switch has and what it has counted."""

    method: ClassVar[str] = "port.look"


class NetLooked(Message, frozen=True, kw_only=True):
    sampled: float  # by the node's monotonic clock
    ports: Annotated[list[PortStatus], Meta(max_length=65536)]
    tunnels: Annotated[list[TunnelStatus], Meta(max_length=4096)]
    attachments: Annotated[list[AttachmentState], Meta(max_length=1024)]
    counters: Annotated[dict[CounterName, Counter], Meta(max_length=64)]


NetLook.answer = NetLooked


class PortTrace(Request, frozen=True, kw_only=True):
    """Watch a port's incoming frames for a while: one in ``every``; at most 256 notes, the last ones."""

    method: ClassVar[str] = "port.trace"
    port: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
    every: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    seconds: Annotated[float, Meta(gt=0, le=10)] = 2.0


class FrameNote(Message, frozen=True, kw_only=True):
    """``way``: what the table said of the destination; ``to``: that port or node; ``reason``: the counter that rose."""

    when: float  # the node's monotonic clock
    length: int
    way: Literal["flood", "port", "node", "back"]
    to: int = 0
    reason: Text = ""
    head: Annotated[bytes, Meta(max_length=64)]


class PortTraced(Message, frozen=True, kw_only=True):
    notes: Annotated[list[FrameNote], Meta(max_length=1024)]
    lost: int = 0


PortTrace.answer = PortTraced
