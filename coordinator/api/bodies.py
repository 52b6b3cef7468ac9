"""The bodies that the API takes. Unknown fields are refused: a typing error must not pass as a default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
CpuModel = Literal["rva22", "rv64gc"]
MIB = 1 << 20
LEAST_RATE = 64_000  # bit/s; below, a large packet takes longer than a queue may wait


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


Stations = Annotated[int, Field(ge=0, le=1 << 20, description="learned ones at most; 0: as many as the switch takes")]
Storm = Annotated[int, Field(ge=0, le=1_000_000_000, description="frames/s a port may have flooded; 0: no bound")]
Vlan = Annotated[
    str,
    Field(max_length=255, description='"10": access; "10:20", "10:100-199", "10:": trunk; "": frames pass as they are'),
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
]


class PortBody(Body):
    """A port's settings; null: as its kind and its network have it. ``native``: the VLAN of a trunk's untagged frames.
    ``guard``: a bridge's BPDU shuts the port. ``broadcast``, ``multicast``, ``unknown`` (unicasts to nobody known):
    flooded frames/s of that kind, apart from ``storm``, which is for all that have no rate of their own."""

    vlan: Vlan | None = None
    native: Annotated[int, Field(ge=0, le=4094)] | None = None
    guard: bool | None = None
    stations: Stations | None = None
    storm: Storm | None = None
    broadcast: Storm | None = None
    multicast: Storm | None = None
    unknown: Storm | None = None

    def wish(self) -> dict[str, Any]:
        """What was given, null included."""
        return {key: getattr(self, key) for key in PortBody.model_fields if key in self.model_fields_set}


class PortChangeBody(PortBody):
    open: Annotated[bool, Field(description="open it if the guard has shut it")] = False


class ReleaseBody(Body):
    """``mac``: that station, in one network or in all; else ``port``: all that are held at it (a MAC or an id)."""

    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")] | None = None
    network: Name | None = None
    port: Annotated[str, Field(max_length=64)] | None = None


class NicBody(PortBody):
    network: Name


Nic = Annotated[NicBody, BeforeValidator(lambda value: {"network": value} if isinstance(value, str) else value)]


class RunBody(Body):
    name: Name
    image: Annotated[str, Field(min_length=1, max_length=255)]
    memory: Annotated[int, Field(ge=16 * MIB, le=64 << 30, description="bytes, a multiple of 2 MiB")] = 256 * MIB
    cpus: Annotated[int, Field(ge=1, le=64)] = 1
    cpu: Annotated[CpuModel, Field(description="CPU model; a cluster's baseline")] = "rva22"
    icount: Annotated[bool, Field(description="time from instructions: the same seed and inputs give the same run")] = (
        False
    )
    seed: Annotated[int, Field(ge=1, lt=2**53, description="only with icount")] | None = None
    networks: Annotated[list[Nic], Field(max_length=8, description="one NIC each: a name, or with its port")] = []
    on: Name | None = None
    cmdline: Annotated[str, Field(max_length=2048, description="appended to the image's")] | None = None
    explain: bool = False


class StopBody(Body):
    force: bool = False
    grace_s: Annotated[float, Field(ge=0, le=600)] = 10.0


class MigrateBody(Body):
    """``on_stall``: what is done when pre-copy alone would not end. ``protect``: of a post-copy, that what the guest
    writes goes back until the target has all pages, so that its source can run it again. ``dry_run``: only say what it
    would take."""

    to: Name | None = None
    mode: Literal["auto", "precopy", "postcopy", "hybrid", "stop-and-copy", "cold"] | None = None
    on_stall: Literal["abort", "throttle", "postcopy"] | None = None
    streams: Annotated[int, Field(ge=1, le=16)] | None = None
    protect: bool | None = None
    dry_run: bool = False
    max_blackout_ms: Annotated[float, Field(gt=0, le=60000)] | None = None
    max_rounds: Annotated[int, Field(ge=1, le=1000)] | None = None
    bandwidth: Annotated[int, Field(ge=0, lt=2**63, description="bytes/s; 0: unlimited")] | None = None
    deadline_s: Annotated[float, Field(gt=0, le=86400)] | None = None
    verify: bool | None = None


Parallel = Annotated[int, Field(ge=1, le=16, description="guests that move at a time")]


class DrainBody(Body):
    parallel: Parallel = 2


class MoveAllBody(MigrateBody):
    """As for one guest; without ``to`` each goes where there is room."""

    parallel: Parallel = 2
    dry_run: Literal[False] = False


class ExecBody(Body):
    argv: Annotated[list[Annotated[str, Field(max_length=131072)]], Field(min_length=1, max_length=1024)]
    stdin_b64: Annotated[str, Field(max_length=(1 << 20) * 4 // 3 + 4)] = ""
    timeout_s: Annotated[float, Field(gt=0, le=86400)] = 60.0


class NetworkBody(Body):
    name: Name
    subnet: Annotated[str, Field(max_length=64)] | None = None
    mtu: Annotated[int, Field(ge=576, le=9000)] = 1400
    stations: Stations = 0
    storm: Storm = 10000
    proxy: Annotated[bool, Field(description="switches answer address requests for stations that they know")] = True
    bound: Annotated[bool, Field(description="guests send IPv4 from the address that they were given only")] = False


class NetworkChangeBody(Body):
    """What is not given stays."""

    mtu: Annotated[int, Field(ge=576, le=9000)] | None = None
    stations: Stations | None = None
    storm: Storm | None = None
    proxy: bool | None = None
    bound: bool | None = None


class AttachBody(PortBody):
    """``local``: the TAP's name, a socket's absolute path, or HOST:PORT, by ``kind``; ``on``: the node, which may be
    left out where there is one only."""

    network: Name
    kind: Literal["tap", "unix", "udp"]
    local: Annotated[str, Field(min_length=1, max_length=255)]
    remote: Annotated[str, Field(max_length=255)] = ""
    on: Name | None = None


class TunnelRateBody(Body):
    """``rate``: bits of IP packets a second from ``node`` to ``to`` (null: to each node that has no other rate); 0: no
    bound, null: as if it had never been set."""

    node: Name
    to: Name | None = None
    rate: Annotated[int, Field(ge=0, le=10**12)] | None

    @field_validator("rate")
    @classmethod
    def _not_too_small(cls, rate: int | None) -> int | None:
        if rate is not None and 0 < rate < LEAST_RATE:
            raise ValueError(f"{rate} bit/s is less than {LEAST_RATE}")
        return rate


class JoinTokenBody(Body):
    ttl_s: Annotated[float, Field(gt=0, le=30 * 86400)] = 3600.0


class CaFinishBody(Body):
    force: Annotated[bool, Field(description="drop nodes that do not follow the new CA")] = False


class ApiTokenBody(Body):
    name: Name
    role: Literal["viewer", "operator", "admin"] = "operator"
    ttl_s: Annotated[float, Field(gt=0, le=3650 * 86400, description="else: until it is revoked")] | None = None


class OperationBody(Body):
    """The only change that people make to an operation."""

    state: Literal["cancelled"] = "cancelled"
