"""WebSockets that end in a stream of a guest: who may open one, what is written down of it, how it is refused."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from coordinator.api.deps import Services, authenticate, services
from coordinator.api.failures import failure
from coordinator.api.guests import owner
from coordinator.errors import CoordinatorError
from coordinator.model import Guest
from coordinator.store import journal
from protocol.errors import WherryError
from protocol.messages import StreamOpen
from protocol.transport import LinkStream

CHUNK = 64 * 1024
REFUSED = 1008


async def open_stream(
    socket: WebSocket, name: str, action: str, opening: Callable[[str], StreamOpen]
) -> tuple[Services, Guest, LinkStream] | None:
    """Check the caller, open the stream at the guest's node, audit, accept. None: refused, and the caller was told."""
    svc = services(socket)
    try:
        who = await authenticate(socket, svc, "operator")
        guest, link = await owner(svc, name)
        stream = await link.open_stream(opening(guest.id))
    except (CoordinatorError, WherryError) as exc:
        await deny(socket, exc)
        return None
    source = socket.client.host if socket.client else "?"
    await svc.cluster.db.run(
        journal.audit, who=who.name, role=who.role, source=source, action=f"{action} {name}", outcome="opened"
    )
    await socket.accept()
    return svc, guest, stream


async def deny(socket: WebSocket, exc: Exception) -> None:
    """The API's error as the answer to the handshake, where the server can send one."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(failure(exc))
    else:
        await socket.close(REFUSED)


async def close(socket: WebSocket, code: int) -> None:
    try:
        await socket.close(code)
    except (RuntimeError, WebSocketDisconnect):
        return  # the other end closed first
