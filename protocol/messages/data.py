"""Data that several messages carry: guests, images, nodes, networks."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from protocol.messages.base import Address, Bytes, Generation, Id, Mac, Message, Name, NodeId, Sha256, Text, Vni

GuestState = Literal[
    "pending", "starting", "running", "paused", "migrating", "stopping", "stopped", "crashed", "unknown"
]

MigrationMode = Literal["auto", "precopy", "postcopy", "hybrid", "stop-and-copy", "cold"]
Percent = Annotated[int, Meta(ge=0, le=100)]


class PortSettings(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a port lets through. What is not given is as the port's kind and network have it."""

    vlan: Annotated[str, Meta(max_length=255)] = ""  # protocol.vlans
    native: Annotated[int, Meta(ge=0, le=4094)] = 0  # of a trunk's untagged frames; 0: it takes none
    guard: bool | None = None  # a bridge's BPDU shuts it; none: TAPs only
    stations: Annotated[int, Meta(ge=0, le=1 << 20)] = 0  # learned ones at most; 0: what the network takes
    storm: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] | None = None  # flooded frames/s; 0: no bound, none: the network's
    # Of these, with rates of their own, not counted in ``storm``; none: they share it.
    broadcast: Annotated[int, Meta(ge=0, le=0xFFFFFFFE)] | None = None
    multicast: Annotated[int, Meta(ge=0, le=0xFFFFFFFE)] | None = None
    unknown: Annotated[int, Meta(ge=0, le=0xFFFFFFFE)] | None = None  # unicasts to nobody known


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

    @property
    def disk(self) -> ImageFile | None:
        """Of which each guest has a disk of its own."""
        return next((file for file in self.files if file.role == "disk"), None)


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
