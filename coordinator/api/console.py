"""A guest's console as a WebSocket: binary messages are bytes, both ways.

The socket follows a guest that moves: when the stream to its node ends while the guest lives on elsewhere, a new one is
opened there. It closes with 1000 when the guest is gone and 1012 when its node cannot be reached.
"""

from __future__ import annotations

import logging

import trio
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from coordinator.api.deps import Services
from coordinator.api.guests import owner
from coordinator.api.sockets import CHUNK, close, open_stream
from coordinator.errors import CoordinatorError, Unavailable
from coordinator.model import Guest
from protocol.errors import RemoteError, WherryError
from protocol.messages import ConsoleOpen
from protocol.transport import LinkStream

log = logging.getLogger(__name__)
router = APIRouter()

RESTART = 1012
MOVE_S, RETRY_S = 10.0, 0.1


@router.websocket("/v1/guests/{name}/console")
async def console(socket: WebSocket, name: str) -> None:
    opened = await open_stream(socket, name, "console", lambda guest: ConsoleOpen(guest=guest))
    if opened is None:
        return
    svc, guest, stream = opened
    code = 1000
    async with trio.open_nursery() as nursery:
        current = _Current(stream)
        nursery.start_soon(_typed, socket, current, nursery.cancel_scope)
        while True:
            await _shown(stream, socket)
            try:
                moved = await _moved(svc, name, guest)
            except (CoordinatorError, WherryError) as exc:
                log.info("guest=%s console ends: %s", name, exc)
                code = RESTART if getattr(exc, "code", "") == "unavailable" else 1000
                break
            if moved is None:
                break  # the stream ended by itself: the guest has stopped or its console is gone
            guest, stream = moved
            current.stream = stream
        nursery.cancel_scope.cancel()
    with trio.move_on_after(1):
        await close(socket, code)


async def _moved(svc: Services, name: str, guest: Guest) -> tuple[Guest, LinkStream] | None:
    """The console at the guest's new owner, None if it has none.

    The old owner's stream may end before the commit is here, and the new owner may need a moment to take the guest up.
    """
    with trio.move_on_after(MOVE_S):
        while True:
            now, link = await owner(svc, name)
            if (now.node, now.generation) != (guest.node, guest.generation):
                try:
                    return now, await link.open_stream(ConsoleOpen(guest=now.id))
                except RemoteError as exc:
                    log.debug("guest=%s console not there yet: %s", name, exc)
            elif now.state != "migrating":
                return None
            await trio.sleep(RETRY_S)
    raise Unavailable(f"the console of {name} did not come up at its new node")


class _Current:
    """The stream that typing goes to: another one after a move."""

    def __init__(self, stream: LinkStream) -> None:
        self.stream = stream


async def _typed(socket: WebSocket, current: _Current, scope: trio.CancelScope) -> None:
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                scope.cancel()
                return
            data = message.get("bytes") or (message.get("text") or "").encode()
            try:
                await current.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                continue  # what is typed while the guest moves is lost, as with a pulled serial cable
    except WebSocketDisconnect:
        scope.cancel()


async def _shown(stream: LinkStream, socket: WebSocket) -> None:
    async with stream:
        try:
            while data := await stream.receive_some(CHUNK):
                await socket.send_bytes(bytes(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
