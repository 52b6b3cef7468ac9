"""Agent to coordinator: who it is, how it fares, what happened."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from protocol.messages.base import Address, Bytes, Generation, Id, Message, Name, NodeId, Notice, Request, Text
from protocol.messages.data import GuestStatus, MigrationMode, NetworkInfo, NodeInfo, Percent, Resources


class Register(Request, frozen=True, kw_only=True):
    """First call on each new session: what this node is and what really runs on it (the coordinator reconciles)."""

    method: ClassVar[str] = "node.register"
    name: Name
    link: Address
    tunnel: Address
    resources: Resources
    guests: Annotated[list[GuestStatus], Meta(max_length=4096)]
    software: Text


class Registered(Message, frozen=True, kw_only=True):
    node: NodeId
    nodes: list[NodeInfo]
    networks: list[NetworkInfo]
    forget: list[tuple[Id, Generation]] = []  # copies that are fenced: kill and remove them


class Report(Notice, frozen=True, kw_only=True):
    """Every few seconds and whenever a guest changes state."""

    method: ClassVar[str] = "node.report"
    resources: Resources
    guests: Annotated[list[GuestStatus], Meta(max_length=4096)]


class Renew(Request, frozen=True, kw_only=True):
    method: ClassVar[str] = "node.renew"
    csr_pem: Annotated[str, Meta(max_length=65536)]


PortKey = Annotated[str, Meta(min_length=1, max_length=64)]  # a guest NIC's MAC, or an attachment's id


class NetEvent(Message, frozen=True, kw_only=True):
    """What a switch noticed. ``port`` and ``node``: where; of a duplicate where the station is held, one of the two,
    and ``other_port`` or ``other_node`` where it was besides. ``value``: of a storm the flooded frames/s that the port
    still has, of path_mtu the largest MTU of a network whose frames the path to ``node`` carries. ``count``: how many
    of its kind this one stands for."""

    kind: Literal["duplicate", "storm", "guard", "path_mtu"]
    time: float
    vni: Annotated[int, Meta(ge=0, le=0xFFFFFF)] = 0
    mac: Text = ""
    port: Annotated[str, Meta(max_length=64)] = ""
    node: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0
    other_port: Annotated[str, Meta(max_length=64)] = ""
    other_node: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0
    value: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    count: Annotated[int, Meta(ge=1, le=2**63 - 1)] = 1


class NetEvents(Notice, frozen=True, kw_only=True):
    """Soon after they happen; one of a kind and place at most twice a minute. ``lost``: how many were left out since
    the last notice. All paths' MTUs come again with each session."""

    method: ClassVar[str] = "node.events"
    events: Annotated[list[NetEvent], Meta(max_length=256)]
    lost: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class MigrationProgress(Notice, frozen=True, kw_only=True):
    """From the source, at each round and at least every half second."""

    method: ClassVar[str] = "migration.progress"
    migration: Id
    phase: Literal["prepare", "copy", "switch", "commit", "pull", "done", "aborted"]
    round: int
    pages_sent: int
    zero_pages: int
    bytes_sent: Bytes
    bytes_per_s: float
    dirty_pages: int
    remaining: Bytes
    predicted_blackout_ms: float
    mode: MigrationMode = "precopy"
    throttle: Percent = 0  # of its time that the guest rests
    dirty_rate: float = 0.0  # pages/s that it writes first in a round
    elapsed_ms: float = 0.0  # since the source was told
    predicted_ms: float = 0.0  # the same, of the pause to come; 0: not known yet
    disk_sent: Bytes = 0  # of bytes_sent
    disk_left: Bytes = 0  # of the guest's disk, still to be sent or looked at


class Predicted(Message, frozen=True, kw_only=True):
    """Of a whole migration. ``blackout_ms``: transfer of the last pages. Not ``converges``: the figures are those of
    the point at which pre-copy stops to gain."""

    rounds: int
    bytes: Bytes
    total_ms: float
    blackout_ms: float
    converges: bool


class MigrationResult(Notice, frozen=True, kw_only=True):
    """From the source, once; lost with the session, so it also answers :class:`MigrationLookup`."""

    method: ClassVar[str] = "migration.result"
    migration: Id
    outcome: Literal["committed", "aborted"]
    reason: Text = ""
    rounds: int = 0
    pages_sent: int = 0
    zero_pages: int = 0
    bytes_sent: Bytes = 0
    total_ms: float = 0.0
    blackout_ms: float = 0.0  # source's last instruction to target's first, clock offset bounded by RTT (SPEC.md)
    blackout_error_ms: float = 0.0
    postcopy: bool = False  # pages were left to be pulled after the switch
    pull_ms: float = 0.0  # from COMMIT until the target had the last of them
    faults: Annotated[int, Meta(ge=0)] = 0  # that the target's guest waited for a page; how long, median and longest
    fault_us: Annotated[int, Meta(ge=0)] = 0
    fault_max_us: Annotated[int, Meta(ge=0)] = 0
    verify_ms: float = 0.0
    source_checksum: Text = ""
    target_checksum: Text = ""
    mode: MigrationMode = "precopy"
    throttle: Percent = 0  # the most
    prepare_ms: float = 0.0
    copy_ms: float = 0.0
    predicted: Predicted | None = None  # after the first round
    disk_bytes: Bytes = 0  # of bytes_sent: blocks of the guest's disk
    final_bytes: Bytes = 0  # of bytes_sent: while the guest stood still, the state document left out


class Decide(Request, frozen=True, kw_only=True):
    """Ask the store for the final word on a migration. ``ask`` "commit" and "abort" are compare-and-set on
    (guest, generation); "query" only looks. The first of commit and abort to arrive wins for ever."""

    method: ClassVar[str] = "migration.decide"
    migration: Id
    guest: Id
    generation: Generation
    ask: Literal["commit", "abort", "query"]
    reason: Text = ""


class Decision(Message, frozen=True, kw_only=True):
    decision: Literal["pending", "committed", "aborted"]
    generation: Generation  # of the owner after the decision
    owner: NodeId


Register.answer = Registered
Decide.answer = Decision


class Renewed(Message, frozen=True, kw_only=True):
    certificate_pem: Annotated[str, Meta(max_length=65536)]
    ca_pem: Annotated[str, Meta(max_length=65536)]


Renew.answer = Renewed
