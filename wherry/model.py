"""What the API tells, as small frozen dataclasses. Unknown fields are ignored (a newer coordinator), missing ones take
their default; a field of the wrong type is an :class:`ApiError`, never a crash in a table."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from wherry.errors import ApiError

T = TypeVar("T")


@dataclass(frozen=True)
class Guest:
    """``memory`` in bytes; ``created`` in Unix seconds; ``booted_s``: seconds from start to user space, None before."""

    name: str
    id: str = ""
    state: str = "unknown"
    desired: str = ""
    reason: str = ""
    node: str | None = None
    generation: int = 0
    image: str = ""
    memory: int = 0
    cpus: int = 0
    cpu: str = ""
    icount: bool = False
    seed: int | None = None  # only of a guest with icount
    nics: list[dict[str, Any]] = field(default_factory=list)
    created: float = 0.0
    booted_s: float | None = None
    pid: int = 0

    @property
    def addresses(self) -> list[str]:
        """Without prefix length, in the order of the NICs."""
        return [str(nic.get("address", "")).split("/")[0] for nic in self.nics]


@dataclass(frozen=True)
class GuestStats:
    """Memory in bytes; ``age_s``: how old the figures are. ``resident``, ``counters`` and ``rates`` are None where the
    guest's node has told none lately; their names are those of ``GET /v1/stats``."""

    name: str
    node: str | None = None
    state: str = "unknown"
    generation: int = 0
    cpus: int = 0
    memory: int = 0
    resident: int | None = None
    age_s: float | None = None
    counters: dict[str, Any] | None = None
    rates: dict[str, Any] | None = None

    def rate(self, name: str) -> float | None:
        value = (self.rates or {}).get(name)
        return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Node:
    """Memory in bytes; ``last_seen_s`` is an age."""

    name: str
    id: int = 0
    state: str = "unknown"
    link: str = ""
    tunnel: str = ""
    cpus: int = 0
    memory: int = 0
    memory_free: int = 0
    memory_used: int = 0
    guests: int = 0
    last_seen_s: float | None = None
    software: str = ""


@dataclass(frozen=True)
class Network:
    """``carries``: the largest packet that the paths between its nodes carry; ``narrow``: the two nodes with the
    narrowest path, if that is less than ``mtu``. ``stations``: learned ones at most, 0: as many as a switch takes.
    ``storm``: frames a second that a port may have flooded, 0: any. ``proxy``: switches answer address requests.
    ``bound``: guests send from the address that they were given only."""

    name: str
    vni: int = 0
    subnet: str = ""
    mtu: int = 0
    carries: int = 0
    narrow: list[str] = field(default_factory=list)
    stations: int = 0
    storm: int = 0
    proxy: bool = True
    bound: bool = False
    guests: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Port:
    """``kind``: guest, tap, unix, udp; ``id``: of an attached one; ``key``: what changes it; ``port``: its number on
    its node. ``held``: stations in two places: ``mac``, ``here`` (held here, else at the other), ``other``."""

    name: str
    kind: str = ""
    id: str | None = None
    network: str | None = None
    node: str | None = None
    state: str = ""
    reason: str = ""
    remote: str = ""
    port: int | None = None
    mac: str | None = None
    key: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    held: list[dict[str, Any]] = field(default_factory=list)
    counters: dict[str, Any] | None = None


@dataclass(frozen=True)
class Net:
    """What the switches have counted; entries as ``GET /v1/net`` gives them."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    ports: list[dict[str, Any]] = field(default_factory=list)
    tunnels: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class RemoteImage:
    """An image that the coordinator holds; ``size`` in bytes."""

    name: str
    digest: str = ""
    kind: str = ""
    size: int = 0
    created: float = 0.0


@dataclass(frozen=True)
class Operation:
    """Long work. ``progress`` and ``result`` are as docs/architecture.md says for the kind."""

    id: str
    kind: str = ""
    subject: str = ""
    state: str = "pending"
    progress: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    created: float = 0.0
    updated: float = 0.0

    @property
    def finished(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Event:
    id: int
    time: float = 0.0
    kind: str = ""
    message: str = ""
    guest: str | None = None
    node: str | None = None
    generation: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JoinToken:
    """``token`` is the whole of what ``wherry node --join`` takes before the ``@``; only there when just made."""

    token: str = ""
    join: str = ""
    id: str = ""
    created: float = 0.0
    expires: float = 0.0
    state: str = ""


@dataclass(frozen=True)
class ApiToken:
    """``token``: only there when just made. ``expires``: None for one that is good until it is revoked."""

    id: str = ""
    name: str = ""
    role: str = ""
    created: float = 0.0
    expires: float | None = None
    token: str = ""


@dataclass(frozen=True)
class Ca:
    """``state``: ``single`` or ``overlap``. Times in Unix seconds; ``rotates``: when a rotation begins by itself;
    ``old``: fingerprint and expires, in an overlap; ``nodes``: name, state, follows, reason; ``pem``: what to trust."""

    state: str = ""
    fingerprint: str = ""
    expires: float = 0.0
    rotates: float = 0.0
    old: dict[str, Any] | None = None
    nodes: list[dict[str, Any]] = field(default_factory=list)
    pem: str = ""


@dataclass(frozen=True)
class ExecResult:
    """``exit_code`` is negative where a signal ended the command."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "list[dict[str, Any]]": (list,),
    "list[str]": (list,),
    "dict[str, Any]": (dict,),
    "dict[str, Any] | None": (dict, type(None)),
}


def parse(cls: type[T], data: Any) -> T:
    """Check and convert one JSON object."""
    if not isinstance(data, dict):
        raise ApiError(502, "invalid", f"the coordinator sent {type(data).__name__} where a {cls.__name__} belongs")
    known: dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name not in data:
            continue
        value, kinds = data[item.name], _KINDS.get(str(item.type))
        if kinds is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise ApiError(
                502, "invalid", f"the coordinator sent {cls.__name__}.{item.name} = {value!r}; expected {item.type}"
            )
        known[item.name] = value
    try:
        return cls(**known)
    except TypeError:
        raise ApiError(
            502, "invalid", f"the coordinator sent a {cls.__name__} without its name: {str(data)[:120]}"
        ) from None
