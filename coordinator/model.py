"""The coordinator's nouns, as rows come out of the store: frozen, with no behaviour but their JSON.

Units: bytes, seconds; times are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import to_builtins

from protocol.messages import GuestSpec, ImageRef, PortSettings

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")  # each includes those before it
AttachmentKind = Literal["tap", "unix", "udp"]
OperationState = Literal["pending", "running", "succeeded", "failed", "cancelled"]
UNFINISHED: tuple[OperationState, ...] = ("pending", "running")

# A guest in one of these holds its memory on its node; the others hold nothing but their name and addresses.
HOLDS_MEMORY = ("pending", "starting", "running", "paused", "migrating", "stopping", "unknown")


def plain(settings: PortSettings) -> dict[str, Any]:
    """As JSON: what is not given is as the port's kind and network have it."""
    found: dict[str, Any] = to_builtins(settings)
    return found


@dataclass(frozen=True, slots=True)
class Guest:
    id: str
    name: str
    state: str
    desired: Literal["running", "stopped", "removed"]
    reason: str
    node: int | None
    generation: int
    spec: GuestSpec
    created: float
    started: float = 0.0
    booted: float = 0.0
    pid: int = 0

    def to_json(self, node_name: str | None) -> dict[str, Any]:
        """The guest JSON of ``docs/architecture.md``; ``booted_s`` is null until user space spoke."""
        return {
            "name": self.name,
            "id": self.id,
            "state": self.state,
            "desired": self.desired,
            "reason": self.reason,
            "node": node_name,
            "generation": self.generation,
            "image": self.spec.image.name,
            "memory": self.spec.memory,
            "cpus": self.spec.cpus,
            "cpu": self.spec.cpu,
            "icount": self.spec.icount,
            "seed": self.spec.seed if self.spec.icount else None,  # elsewhere it is what the guest's keys come from
            "nics": [
                {"network": n.network, "mac": n.mac, "address": n.address, "mtu": n.mtu, "settings": plain(n.settings)}
                for n in self.spec.nics
            ],
            "created": self.created,
            "booted_s": round(self.booted - self.started, 3) if self.booted >= self.started > 0 else None,
            "pid": self.pid,
        }


@dataclass(frozen=True, slots=True)
class Node:
    id: int
    name: str
    link: str
    tunnel: str
    cordoned: bool
    cpus: int
    memory: int
    memory_free: int
    load: float
    disk_free: int
    last_seen: float
    software: str
    joined: float


@dataclass(frozen=True, slots=True)
class Network:
    name: str
    vni: int
    subnet: str
    mtu: int
    created: float
    stations: int = 0  # learned ones at most, in each switch; 0: the switch's own bound
    storm: int = 10000  # frames/s that each port may have flooded; 0: no bound
    proxy: bool = True  # switches answer address requests for stations that they know
    bound: bool = False  # guests send from the address that they were given only


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    digest: str
    manifest: dict[str, Any]

    def ref(self) -> ImageRef:
        from msgspec import convert

        m = self.manifest
        return convert(
            {
                "name": self.name,
                "digest": self.digest,
                "kind": m["kind"],
                "files": m["files"],
                "cmdline": m.get("cmdline", ""),
                "min_memory": m.get("min_memory", 0),
            },
            ImageRef,
        )

    def to_json(self) -> dict[str, Any]:
        size = sum(int(f["size"]) for f in self.manifest["files"])
        return {**self.manifest, "name": self.name, "digest": self.digest, "size": size}


@dataclass(frozen=True, slots=True)
class Operation:
    id: str
    kind: str
    subject: str  # the name that people know: a guest's or a node's
    target: str  # guest id, node id: what the work is done on
    state: OperationState
    args: dict[str, Any]
    progress: dict[str, Any]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    created: float
    updated: float

    @property
    def finished(self) -> bool:
        return self.state not in UNFINISHED

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "subject": self.subject,
            "state": self.state,
            "progress": self.progress,
            "result": self.result,
            "error": self.error,
            "created": self.created,
            "updated": self.updated,
        }


@dataclass(frozen=True, slots=True)
class Migration:
    id: str
    guest: str
    generation: int  # before the decision; the owner's is one more after "committed"
    source: int
    target: int
    decision: Literal["pending", "committed", "aborted"]
    reason: str
    operation: str
    created: float
    decided: float


@dataclass(frozen=True, slots=True)
class AttachedPort:
    """A port of a node that is no guest's; ``local`` and ``remote`` as in ``protocol.messages.Attachment``."""

    id: str
    node: int
    network: str
    kind: AttachmentKind
    local: str
    remote: str
    created: float
    settings: PortSettings


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    time: float
    kind: str
    message: str
    guest: str | None = None
    node: str | None = None
    generation: int | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"id": self.id, "time": self.time, "kind": self.kind, "message": self.message}
        for key in ("guest", "node", "generation"):
            value = getattr(self, key)
            if value is not None:
                out[key] = value
        out["data"] = self.data
        return out


@dataclass(frozen=True, slots=True)
class ApiToken:
    """``expires``: None for one that is good until it is revoked."""

    id: str
    name: str
    role: Role
    created: float
    expires: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "role": self.role, "created": self.created, "expires": self.expires}
