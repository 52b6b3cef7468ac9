"""The ports of this node that lead to its host: TAPs and sockets of other programs, as the coordinator lists them.

The list is kept in ``attachments.msgpack`` of the state folder, so that the ports are there again when the agent is,
also without a coordinator. One that cannot be opened is failed, with the reason, and tried again every ``RETRY_S``; so
is one whose TAP somebody has removed. What this node made itself (a TAP, a socket's file) goes with the attachment, and
nothing else does.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgpack
from msgspec.structs import replace

from node import endpoints
from node.core import CoreError
from node.record import write_atomically
from node.switchctl import Switch
from node.switchnets import Claims, Networks
from protocol.codec import decode
from protocol.errors import Refused, RemoteProtocolError
from protocol.messages import Attachment, AttachmentState, PortsDone, PortsSet, to_builtins
from protocol.transport import Handlers, Link

log = logging.getLogger("wherry.node.attachments")

FORMAT = 1
RETRY_S = 5.0


class Endpoint(Protocol):
    """What a port is made of. ``made``: this node made it, now or earlier."""

    fd: int
    made: bool

    def add(self, switch: Switch, port: int, vni: int) -> None: ...
    def set_mtu(self, mtu: int) -> None: ...
    def remove(self) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class _Port:
    wish: Attachment
    number: int = 0
    endpoint: Endpoint | None = None
    made: bool = False
    code: str = ""
    reason: str = ""

    def state(self) -> AttachmentState:
        state = "up" if self.endpoint is not None else "failed"
        return AttachmentState(id=self.wish.id, state=state, code=self.code, reason=self.reason)  # type: ignore[arg-type]


def _same(had: Attachment, wish: Attachment | None) -> bool:
    """Of the same thing; only its MTU may be another."""
    return wish is not None and replace(had, mtu=wish.mtu) == wish


class Attachments:
    """``file``: where the list is kept, None: nowhere. Owner of the endpoints' descriptors."""

    def __init__(self, file: Path | None, switch: Switch, claims: Claims, networks: Networks) -> None:
        self._file = file
        self._switch = switch
        self._claims = claims
        self._networks = networks
        self._ports: dict[str, _Port] = {}
        self._trying = False

    def register(self, handlers: Handlers) -> None:
        handlers.on_request(PortsSet, self._set)

    def __iter__(self) -> Iterator[tuple[int, Attachment]]:
        """Number and attachment of each port that is up."""
        for port in self._ports.values():
            if port.endpoint is not None:
                yield port.number, port.wish

    def number_of(self, ident: str) -> int | None:
        port = self._ports.get(ident)
        return port.number if port is not None and port.endpoint is not None else None

    def states(self) -> list[AttachmentState]:
        return [port.state() for port in self._ports.values()]

    def restore(self) -> None:
        """Open what an earlier agent had. A list that cannot be read is left for a person to look at: none is open
        then, until the coordinator tells them anew."""
        if self._file is None:
            return
        try:
            kept = msgpack.unpackb(self._file.read_bytes())
            if kept["format"] != FORMAT:
                raise ValueError(f"format {kept['format']}, {FORMAT} is known")
            made = set(kept["made"])
            wishes = [decode(Attachment, item) for item in kept["attachments"]]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, RemoteProtocolError, msgpack.UnpackException) as error:
            log.error("%s cannot be read: %s", self._file, error)
            return
        for wish in wishes:
            self._ports[wish.id] = _Port(wish, made=wish.id in made)
            self._open(self._ports[wish.id])
        self._retry_later()

    async def _set(self, link: Link, order: PortsSet) -> PortsDone:
        self.apply(order.attachments)
        return PortsDone(states=self.states())

    def apply(self, wishes: list[Attachment]) -> None:
        """Make the ports those of ``wishes``. Raises Refused when they cannot be written down; nothing changes then."""
        wanted = {wish.id: wish for wish in wishes}
        gone = [port for port in self._ports.values() if not _same(port.wish, wanted.get(port.wish.id))]
        kept = {port.wish.id for port in self._ports.values()} - {port.wish.id for port in gone}
        self._save(wishes, {port.wish.id for port in self._ports.values() if port.made and port.wish.id in wanted})
        for port in gone:
            self._close(port, remove=True)
            del self._ports[port.wish.id]
        for wish in wishes:
            if wish.id not in kept:
                self._ports[wish.id] = _Port(wish)
            elif self._ports[wish.id].wish != wish:
                self._resize(self._ports[wish.id], wish)
            if self._ports[wish.id].endpoint is None:
                self._open(self._ports[wish.id])
        self._save(wishes, {port.wish.id for port in self._ports.values() if port.made})
        self._retry_later()

    def down(self, number: int) -> bool:
        """The switch gave a port up. True if it is one of ours: it is failed, and tried again."""
        for port in self._ports.values():
            if port.endpoint is not None and port.number == number:
                self._close(port, remove=False)
                port.code, port.reason = "unavailable", f"{port.wish.local} went away"
                log.warning("attachment %s: %s", port.wish.id, port.reason)
                self._retry_later()
                return True
        return False

    def close(self) -> None:
        """The agent ends: TAPs and sockets' files stay for the next one."""
        for port in self._ports.values():
            if port.endpoint is not None:
                port.endpoint.close()
                port.endpoint = None

    # -- one port

    def _open(self, port: _Port) -> None:
        wish = port.wish
        try:
            endpoint = endpoints.open_endpoint(wish, made_before=port.made)
        except Refused as error:
            self._failed(port, error.code, error.message)
            return
        port.made = endpoint.made
        try:
            port.number = self._networks.enter(wish.vni, wish.mtu)
            try:
                endpoint.add(self._switch, port.number, wish.vni)
                self._set_up(port.number, wish)
            except BaseException:
                self._networks.leave(wish.vni)
                raise
        except CoreError as error:
            endpoint.close()
            self._failed(port, "internal", str(error))
            return
        port.endpoint, port.code, port.reason = endpoint, "", ""
        log.info("attachment %s: %s %s is port %d of %s", wish.id, wish.kind, wish.local, port.number, wish.network)

    def _set_up(self, number: int, wish: Attachment) -> None:
        try:
            self._networks.rules.port_added(number, wish.id, wish.vni, guarded=wish.kind == "tap")
            self._switch.enable_port(number, True)
        except CoreError:
            self._switch.remove_port(number)
            raise

    @staticmethod
    def _resize(port: _Port, wish: Attachment) -> None:
        """The network has another MTU: the port stays, with all its host has made of it."""
        port.wish = wish
        if port.endpoint is not None:
            try:
                port.endpoint.set_mtu(wish.mtu)
            except OSError as error:
                log.warning("attachment %s: %s keeps its MTU: %s", wish.id, wish.local, os.strerror(error.errno or 0))

    @staticmethod
    def _failed(port: _Port, code: str, reason: str) -> None:
        if reason != port.reason:
            log.warning("attachment %s: %s", port.wish.id, reason)
        port.code, port.reason = code, reason

    def _close(self, port: _Port, *, remove: bool) -> None:
        endpoint, port.endpoint = port.endpoint, None
        if endpoint is None:
            return
        if remove and port.made:
            with contextlib.suppress(OSError):  # it is gone already
                endpoint.remove()
        with contextlib.suppress(CoreError):
            self._switch.remove_port(port.number)
        self._networks.rules.port_removed(port.number)
        endpoint.close()
        self._networks.leave(port.wish.vni)

    def _retry_later(self) -> None:
        if not self._trying and any(port.endpoint is None for port in self._ports.values()):
            self._trying = True
            self._claims.later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._trying = False
        made = {port.wish.id for port in self._ports.values() if port.made}
        for port in self._ports.values():
            if port.endpoint is None:
                self._open(port)
        now = {port.wish.id for port in self._ports.values() if port.made}
        if now != made:
            with contextlib.suppress(Refused):
                self._save([port.wish for port in self._ports.values()], now)
        self._retry_later()

    def _save(self, wishes: list[Attachment], made: set[str]) -> None:
        if self._file is None:
            return
        items = [to_builtins(wish) for wish in wishes]
        data = msgpack.packb({"format": FORMAT, "attachments": items, "made": sorted(made)})
        try:
            write_atomically(self._file, data, sync=True)
        except OSError as error:
            raise Refused("full", f"{self._file}: {os.strerror(error.errno or 0)}") from error
