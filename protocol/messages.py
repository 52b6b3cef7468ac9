"""The typed messages of a link: who asks what of whom.

A request class names its method and its answer; the session carries ``(method, params)`` and
:func:`protocol.codec.decode` turns untrusted builtins into a checked instance or raises
:class:`protocol.errors.RemoteProtocolError` that names the field.
Unknown fields are ignored (a newer minor version), missing ones are an error.

Units: bytes, seconds unless the name says otherwise. Times are Unix seconds (float). MACs are ``aa:bb:cc:dd:ee:ff``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

# ---- bounded scalars: limits are part of the contract -----------------------------------------------------------

Name = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Mac = Annotated[str, Meta(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
Vni = Annotated[int, Meta(ge=1, le=0xFFFFFF)]
NodeId = Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
Generation = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=4096)]
Address = Annotated[str, Meta(max_length=255)]  # host:port, [v6]:port
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Message(Struct, frozen=True, kw_only=True):
    """Base of every payload. ``method`` is empty on plain data structures."""

    method: ClassVar[str] = ""


class Empty(Message, frozen=True, kw_only=True):
    """An answer that says only "done"."""


class Request(Message, frozen=True, kw_only=True):
    """Wants exactly one answer of type ``answer`` (or an error) before its deadline."""

    answer: ClassVar[type[Message]] = Empty


class Notice(Message, frozen=True, kw_only=True):
    """One way; loss of the session loses it."""


class StreamOpen(Message, frozen=True, kw_only=True):
    """Opens a byte stream with flow control; the answerer accepts or resets it."""


# ---- data -----------------------------------------------------------------------------------------------------

GuestState = Literal[
    "pending", "starting", "running", "paused", "migrating", "stopping", "stopped", "crashed", "unknown"
]


class PortSettings(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a port lets through. What is not given is as the port's kind and network have it."""

    vlan: Annotated[str, Meta(max_length=255)] = ""  # protocol.vlans
    native: Annotated[int, Meta(ge=0, le=4094)] = 0  # of a trunk's untagged frames; 0: it takes none
    guard: bool | None = None  # a bridge's BPDU shuts it; none: TAPs only
    stations: Annotated[int, Meta(ge=0, le=1 << 20)] = 0  # learned ones at most; 0: what the network takes
    storm: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] | None = None  # flooded frames/s; 0: no bound, none: the network's


class Nic(Message, frozen=True, kw_only=True):
    network: Name
    vni: Vni
    mac: Mac
    address: Text  # "10.0.0.2/24"
    gateway: Text = ""
    mtu: Annotated[int, Meta(ge=576, le=9000)] = 1400
    settings: PortSettings = PortSettings()  # as the guest was made; port.rules has what holds now


class ImageFile(Message, frozen=True, kw_only=True):
    role: Literal["kernel", "initrd", "disk", "firmware"]
    sha256: Sha256
    size: Bytes


class ImageRef(Message, frozen=True, kw_only=True):
    """An image as a node needs it: ``digest`` is the SHA-256 of its canonical manifest."""

    name: Text
    digest: Sha256
    kind: Literal["linux", "disk", "firmware"]
    files: Annotated[list[ImageFile], Meta(min_length=1, max_length=8)]
    cmdline: Text = ""
    min_memory: Bytes = 0


class GuestSpec(Message, frozen=True, kw_only=True):
    guest: Id
    name: Name
    image: ImageRef
    memory: Annotated[int, Meta(ge=16 << 20, le=64 << 30)]
    cpus: Annotated[int, Meta(ge=1, le=64)]
    nics: Annotated[list[Nic], Meta(max_length=8)] = []
    cmdline: Text = ""  # appended to the image's
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    cpu: Literal["rva22", "rv64gc"] = "rva22"  # the CPU model, for life: csrc/cpu/model.h
    icount: bool = False  # time from instructions, for life; wants a seed


CounterName = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,39}$")]
Counter = Annotated[int, Meta(ge=0)]


class GuestStatus(Message, frozen=True, kw_only=True):
    guest: Id
    generation: Generation
    state: GuestState
    reason: Text = ""
    pid: int = 0
    started: float = 0.0
    booted: float = 0.0  # when user space first spoke on the agent channel; 0: not yet
    instructions: int = 0
    resident: Bytes = 0
    migration: str = ""  # id of the migration that this copy takes part in
    sampled: float = 0.0  # when the counters were read, by the node's monotonic clock; 0: never
    counters: Annotated[dict[CounterName, Counter], Meta(max_length=64)] = {}  # as wh_machine_stats in csrc/api.cdef


class Resources(Message, frozen=True, kw_only=True):
    cpus: Annotated[int, Meta(ge=1, le=4096)]
    memory: Bytes  # what the node offers to guests
    memory_free: Bytes  # of the host right now
    disk_free: Bytes
    load: float = 0.0


class NodeInfo(Message, frozen=True, kw_only=True):
    node: NodeId
    name: Name
    link: Address  # where its link listener answers
    tunnel: Address  # where its UDP socket answers
    alive: bool = True


class NetworkInfo(Message, frozen=True, kw_only=True):
    name: Name
    vni: Vni
    subnet: Text
    mtu: Annotated[int, Meta(ge=576, le=9000)] = 1400


# ---- bootstrap: the only calls that a peer without a certificate may make ---------------------------------------


class CaFetch(Request, frozen=True, kw_only=True):
    """First, unauthenticated contact: the joiner checks the answer against the fingerprint in its token."""

    method: ClassVar[str] = "bootstrap.ca"


class CaFetched(Message, frozen=True, kw_only=True):
    ca_pem: Annotated[str, Meta(max_length=65536)]


class Join(Request, frozen=True, kw_only=True):
    method: ClassVar[str] = "bootstrap.join"
    token: Annotated[str, Meta(max_length=256)]
    name: Name
    csr_pem: Annotated[str, Meta(max_length=65536)]


class Joined(Message, frozen=True, kw_only=True):
    node: NodeId
    cluster: Id
    certificate_pem: Annotated[str, Meta(max_length=65536)]
    ca_pem: Annotated[str, Meta(max_length=65536)]


CaFetch.answer = CaFetched
Join.answer = Joined

# ---- agent → coordinator ----------------------------------------------------------------------------------------


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
    phase: Literal["prepare", "copy", "switch", "commit", "done", "aborted"]
    round: int
    pages_sent: int
    zero_pages: int
    bytes_sent: Bytes
    bytes_per_s: float
    dirty_pages: int
    remaining: Bytes
    predicted_blackout_ms: float


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
    verify_ms: float = 0.0
    source_checksum: Text = ""
    target_checksum: Text = ""


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

# ---- coordinator → agent ----------------------------------------------------------------------------------------


class Directory(Notice, frozen=True, kw_only=True):
    """The cluster as the coordinator knows it; sent whole on every change. Higher ``version`` wins."""

    method: ClassVar[str] = "cluster.directory"
    version: int
    nodes: Annotated[list[NodeInfo], Meta(max_length=4096)]
    networks: Annotated[list[NetworkInfo], Meta(max_length=65536)]


class Trust(Request, frozen=True, kw_only=True):
    """The roots to trust from here on, the one that signs first (``issuer`` is its fingerprint). The node keeps them,
    renews its certificate if it is of another root, and answers with what it then has."""

    method: ClassVar[str] = "cluster.trust"
    ca_pem: Annotated[str, Meta(max_length=65536)]
    issuer: Annotated[str, Meta(max_length=64)]


class Trusted(Message, frozen=True, kw_only=True):
    """Fingerprints: of the root that the node's certificate is of, and of all roots that it trusts."""

    issuer: Annotated[str, Meta(max_length=64)]
    roots: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=8)]


Trust.answer = Trusted


class GuestRun(Request, frozen=True, kw_only=True):
    """Create the guest's process and start it. Idempotent for the same (guest, generation)."""

    method: ClassVar[str] = "guest.run"
    answer: ClassVar[type[Message]] = GuestStatus
    spec: GuestSpec
    generation: Generation


class GuestStop(Request, frozen=True, kw_only=True):
    """``force`` kills; else the guest agent is asked to power off, and killed ``grace_s`` later."""

    method: ClassVar[str] = "guest.stop"
    answer: ClassVar[type[Message]] = GuestStatus
    guest: Id
    generation: Generation
    force: bool = False
    grace_s: Annotated[float, Meta(ge=0, le=600)] = 10.0


class GuestForget(Request, frozen=True, kw_only=True):
    """Kill if it runs, and remove every trace. Unknown guests are fine."""

    method: ClassVar[str] = "guest.forget"
    guest: Id
    generation: Generation


class GuestExec(Request, frozen=True, kw_only=True):
    method: ClassVar[str] = "guest.exec"
    guest: Id
    argv: Annotated[list[Annotated[str, Meta(max_length=131072)]], Meta(min_length=1, max_length=1024)]
    stdin: Annotated[bytes, Meta(max_length=1 << 20)] = b""
    timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0


class GuestExecuted(Message, frozen=True, kw_only=True):
    exit_code: int  # -signal when a signal ended it
    stdout: bytes
    stderr: bytes
    truncated: bool = False


GuestExec.answer = GuestExecuted


class GuestLog(Request, frozen=True, kw_only=True):
    """The kept part of the console."""

    method: ClassVar[str] = "guest.log"
    guest: Id


class GuestLogged(Message, frozen=True, kw_only=True):
    data: bytes


GuestLog.answer = GuestLogged


class ConsoleOpen(StreamOpen, frozen=True, kw_only=True):
    """Duplex bytes to the guest's UART; starts with the kept output."""

    method: ClassVar[str] = "guest.console"
    guest: Id


class DebuggerOpen(StreamOpen, frozen=True, kw_only=True):
    """Duplex bytes to the guest's debugger stub (the GDB remote serial protocol). Refused with `exists` while another
    debugger is attached."""

    method: ClassVar[str] = "guest.debugger"
    guest: Id


# ---- coordinator → agent: ports that are no guest's --------------------------------------------------------------


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


class PortRule(Message, frozen=True, kw_only=True):
    port: PortKey
    settings: PortSettings


class PortRules(Request, frozen=True, kw_only=True):
    """All networks, and all ports of the cluster with settings of their own: whichever node a guest comes to knows its
    ports' already. Each list replaces the former one; the node keeps it, and has it before it opens a port."""

    method: ClassVar[str] = "port.rules"
    networks: Annotated[list[NetworkRule], Meta(max_length=65536)]
    ports: Annotated[list[PortRule], Meta(max_length=65536)]


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


# ---- coordinator → agent: migrations -----------------------------------------------------------------------------


class MigrationParams(Message, frozen=True, kw_only=True):
    max_blackout_ms: Annotated[float, Meta(gt=0, le=60000)] = 30.0
    max_rounds: Annotated[int, Meta(ge=1, le=1000)] = 30
    bandwidth: Bytes = 0  # bytes/s; 0: unlimited
    deadline_s: Annotated[float, Meta(gt=0, le=86400)] = 600.0
    verify: bool = False  # checksum all RAM on both ends before COMMIT


class MigrationStart(Request, frozen=True, kw_only=True):
    """To the source. Answered when PREPARE succeeded; progress and result follow as notices."""

    method: ClassVar[str] = "migration.start"
    migration: Id
    guest: Id
    generation: Generation
    target: NodeInfo
    params: MigrationParams = MigrationParams()


class MigrationCancel(Request, frozen=True, kw_only=True):
    method: ClassVar[str] = "migration.cancel"
    migration: Id


class MigrationLookup(Request, frozen=True, kw_only=True):
    method: ClassVar[str] = "migration.lookup"
    answer: ClassVar[type[Message]] = MigrationResult
    migration: Id


class Settle(Request, frozen=True, kw_only=True):
    """The store's word pushed to both ends as soon as it is known, so that nobody waits for a dead peer."""

    method: ClassVar[str] = "migration.settle"
    migration: Id
    guest: Id
    decision: Literal["committed", "aborted"]
    generation: Generation
    owner: NodeId


# ---- agent ↔ agent -----------------------------------------------------------------------------------------------


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
    """One node's LSA: the peers that it reaches directly over UDP."""

    origin: NodeId
    sequence: Sequence
    entries: Annotated[list[LinkStateEntry], Meta(max_length=4096)]


class LinkStates(Notice, frozen=True, kw_only=True):
    method: ClassVar[str] = "peer.lsa"
    lsas: Annotated[list[LinkState], Meta(max_length=4096)]


class MigrationPrepare(Request, frozen=True, kw_only=True):
    """Source to target: reserve memory, make the guest process, map its RAM."""

    method: ClassVar[str] = "migration.prepare"
    migration: Id
    spec: GuestSpec
    generation: Generation  # the present one; after COMMIT it is this + 1
    source: NodeId


class Prepared(Message, frozen=True, kw_only=True):
    state_version: int


MigrationPrepare.answer = Prepared


class MigrationPages(StreamOpen, frozen=True, kw_only=True):
    """Page batches (api.cdef wh_ramview_pack), each behind a big-endian u32 length. An empty batch ends a round and is
    answered with one byte once everything before it lies in RAM. The last round, of the paused guest, ends with the
    stream's end; ``migration.state`` is answered when its pages are in place too."""

    method: ClassVar[str] = "migration.pages"
    migration: Id


class MigrationWarm(Request, frozen=True, kw_only=True):
    """COPY, once after the first round: what the source's translator found hot, so that the target translates it before
    the switch. A hint: nothing depends on it, and a target that does not know it answers unsupported. Answered when it
    is done, after 250 ms at the latest."""

    method: ClassVar[str] = "migration.warm"
    migration: Id
    hot: Annotated[bytes, Meta(max_length=128 << 10)]  # api.cdef wh_machine_hot_list; opaque here


class Warmed(Message, frozen=True, kw_only=True):
    blocks: int = 0


MigrationWarm.answer = Warmed


class MigrationState(Request, frozen=True, kw_only=True):
    """SWITCH: everything but RAM. Answered when the target could run."""

    method: ClassVar[str] = "migration.state"
    migration: Id
    state: Annotated[bytes, Meta(max_length=8 << 20)]
    paused_at: float  # source CLOCK_REALTIME of its last instruction
    verify: bool


class TargetReady(Message, frozen=True, kw_only=True):
    checksum: Text = ""
    verify_ms: float = 0.0


MigrationState.answer = TargetReady


class MigrationFinish(Request, frozen=True, kw_only=True):
    """Source to target, after the store's answer. On "committed" the answer tells when the target began to run."""

    method: ClassVar[str] = "migration.finish"
    migration: Id
    decision: Literal["committed", "aborted"]
    generation: Generation


class Finished(Message, frozen=True, kw_only=True):
    resumed_at: float = 0.0  # target CLOCK_REALTIME of its first possible instruction
    clock: float = 0.0  # target CLOCK_REALTIME when it answered: with the RTT this bounds the offset


MigrationFinish.answer = Finished

# ---- either side ---------------------------------------------------------------------------------------------------


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


_ALL: list[type[Message]] = [
    cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, Message) and cls.method
]
BY_METHOD: dict[str, type[Message]] = {cls.method: cls for cls in _ALL}


def to_builtins(message: Message) -> dict[str, Any]:
    """The map that goes on the wire."""
    import msgspec

    result: dict[str, Any] = msgspec.to_builtins(message, builtin_types=(bytes,))
    return result
