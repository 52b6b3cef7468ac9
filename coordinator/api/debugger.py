"""A guest's debugger stub as a WebSocket: binary messages are bytes of GDB's remote protocol, both ways.

One debugger a guest (409 for a second one), and none follows a guest that moves: a guest with a debugger does not move.
The socket closes with 1000 when either side has ended it; a debugger that vanishes lets its guest go on.
"""

from __future__ import annotations

import trio
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from coordinator.api.sockets import CHUNK, close, open_stream
from protocol.messages import DebuggerOpen
from protocol.transport import LinkStream

router = APIRouter()


@router.websocket("/v1/guests/{name}/debugger")
async def debugger(socket: WebSocket, name: str) -> None:
    opened = await open_stream(socket, name, "debugger", lambda guest: DebuggerOpen(guest=guest))
    if opened is None:
        return
    _, _, stream = opened
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
