"""A guest's debugger stub as a WebSocket: binary messages are bytes of GDB's remote protocol, both ways.

One debugger a guest (409 for a second one), and none follows a guest that moves: a guest with a debugger does not move.
The socket closes with 1000 when either side has ended it; a debugger that vanishes lets its guest go on.
"""

from __future__ import annotations

import trio
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from coordinator.api.console import CHUNK, close, deny
from coordinator.api.deps import authenticate, services
from coordinator.api.guests import owner
from coordinator.errors import CoordinatorError
from coordinator.store import journal
from protocol.errors import WherryError
from protocol.messages import DebuggerOpen
from protocol.transport import LinkStream

router = APIRouter()


@router.websocket("/v1/guests/{name}/debugger")
async def debugger(socket: WebSocket, name: str) -> None:
    svc = services(socket)
    try:
        who = await authenticate(socket, svc, "operator")
        guest, link = await owner(svc, name)
        stream = await link.open_stream(DebuggerOpen(guest=guest.id))
    except (CoordinatorError, WherryError) as exc:
        await deny(socket, exc)
        return
    source = socket.client.host if socket.client else "?"
    await svc.cluster.db.run(
        journal.audit, who=who.name, role=who.role, source=source, action=f"debugger {name}", outcome="opened"
    )
    await socket.accept()
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(_from_guest, stream, socket, nursery.cancel_scope)
        await _to_guest(socket, stream)
        nursery.cancel_scope.cancel()
    with trio.move_on_after(1):
        await close(socket, 1000)


async def _to_guest(socket: WebSocket, stream: LinkStream) -> None:
    try:
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            await stream.send_all(message.get("bytes") or (message.get("text") or "").encode())
    except (WebSocketDisconnect, trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def _from_guest(stream: LinkStream, socket: WebSocket, scope: trio.CancelScope) -> None:
    try:
        while data := await stream.receive_some(CHUNK):
            await socket.send_bytes(bytes(data))
    except (WebSocketDisconnect, RuntimeError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # either end is gone: so is the debugging
    scope.cancel()
