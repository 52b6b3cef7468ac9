"""Coordinator to agent: the directory, trust, guests."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from protocol.messages.base import Generation, Id, Message, Notice, Request, StreamOpen
from protocol.messages.data import GuestSpec, GuestStatus, NetworkInfo, NodeInfo


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
    """Create the guest's process and start it. Idempotent for the same (guest, generation). ``resume``: not from its
    image but from what a protected migration's target has streamed back to this node, its source; refused with
    not_found when there is no such thing."""

    method: ClassVar[str] = "guest.run"
    answer: ClassVar[type[Message]] = GuestStatus
    spec: GuestSpec
    generation: Generation
    resume: bool = False


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
