"""What the coordinator may order of the guests here: run, stop, exec, log, console ... Checks, then Guests."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from node.channel.console import bridge
from node.channel.qga import QgaError, QgaUnavailable
from node.core import CoreError, CoreExists
from node.guest import GuestGone
from node.guestcopy import Guest
from node.host import Host
from node.machine import CH_UART
from protocol.errors import Refused
from protocol.messages import (
    ConsoleOpen,
    DebuggerOpen,
    GuestExec,
    GuestExecuted,
    GuestForget,
    GuestLog,
    GuestLogged,
    GuestRun,
    GuestStatus,
    GuestStop,
)
from protocol.transport import Handlers, Link, LinkStream

log = logging.getLogger("wherry.node")


class Orders:
    """``take_back``: of the migrations (node/migration/manager.py)."""

    def __init__(self, host: Host, take_back: Callable[[str, int], Awaitable[GuestStatus]]) -> None:
        self._host = host
        self._take_back = take_back

    def register(self, handlers: Handlers) -> None:
        handlers.on_request(GuestRun, self._run)
        handlers.on_request(GuestStop, self._stop)
        handlers.on_request(GuestForget, self._forget)
        handlers.on_request(GuestExec, self._exec)
        handlers.on_request(GuestLog, self._log)
        handlers.on_stream(ConsoleOpen, self._console)
        handlers.on_stream(DebuggerOpen, self._debugger)

    async def _run(self, link: Link, order: GuestRun) -> GuestStatus:
        if order.resume:
            return await self._host.detached(lambda: self._take_back(order.spec.guest, order.generation))
        return await self._host.detached(lambda: self._host.guests.run(order.spec, order.generation))

    async def _stop(self, link: Link, order: GuestStop) -> GuestStatus:
        guests = self._host.guests
        return await self._host.detached(lambda: guests.stop(order.guest, order.generation, order.force, order.grace_s))

    async def _forget(self, link: Link, order: GuestForget) -> None:
        await self._host.detached(lambda: self._host.guests.forget(order.guest, order.generation))

    async def _exec(self, link: Link, order: GuestExec) -> GuestExecuted:
        guest = self._running(order.guest)
        try:
            channel = await guest.agent()
            done = await channel.execute(order.argv, order.stdin, timeout=order.timeout_s)
        except QgaError as error:
            raise Refused("invalid", f"the guest says: {error}", field="argv") from error
        except trio.TooSlowError:
            raise Refused("timeout", f"not finished within {order.timeout_s:g} s, killed") from None
        except (QgaUnavailable, GuestGone, CoreError) as error:
            _unavailable(guest, error)
        return GuestExecuted(exit_code=done.exit_code, stdout=done.stdout, stderr=done.stderr, truncated=done.truncated)

    async def _log(self, link: Link, order: GuestLog) -> GuestLogged:
        guest = self._host.guests.get(order.guest)
        if guest.handle is not None:
            try:
                return GuestLogged(data=(await guest.handle.call("log"))["data"])
            except (GuestGone, CoreError):
                pass  # it has just ended and wrote its log down
        try:
            return GuestLogged(data=(guest.folder / "console.log").read_bytes())
        except FileNotFoundError:
            return GuestLogged(data=b"")

    async def _console(self, link: Link, opening: ConsoleOpen, stream: LinkStream) -> None:
        guest = self._host.guests.get(opening.guest)
        try:
            channel = await guest.live.attach(CH_UART)
        except (GuestGone, CoreError) as error:
            _unavailable(guest, error)
        async with channel:
            await bridge(channel, stream)

    async def _debugger(self, link: Link, opening: DebuggerOpen, stream: LinkStream) -> None:
        guest = self._running(opening.guest)
        try:
            channel = await guest.live.debug()
        except CoreExists as error:
            raise Refused("exists", f"guest {guest.record.spec.name}: {error.message}", field="debugger") from error
        except (GuestGone, CoreError) as error:
            _unavailable(guest, error)
        log.info("%s: a debugger is attached", guest.tag)
        async with channel:
            await bridge(channel, stream)
        log.info("%s: the debugger has left", guest.tag)

    def _running(self, guest_id: str) -> Guest:
        guest = self._host.guests.get(guest_id)
        if guest.handle is None or guest.record.role != "run":
            raise Refused("conflict", f"guest {guest.record.spec.name} is {guest.state}", state=guest.state)
        return guest


def _unavailable(guest: Guest, error: Exception) -> NoReturn:
    raise Refused("unavailable", f"guest {guest.record.spec.name}: {error}") from error
