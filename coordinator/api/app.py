"""The ASGI application."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.api import (
    access,
    authority,
    console,
    debugger,
    failures,
    guests,
    images,
    migrations,
    networks,
    nodes,
    operations,
    ports,
    stats,
    tunnels,
)
from coordinator.api.deps import Services
from coordinator.errors import CoordinatorError
from coordinator.model import ApiToken
from coordinator.store import journal

log = logging.getLogger(__name__)
_READS = ("GET", "HEAD", "OPTIONS")


class Audit:
    """Writes who changed what, and how it ended, after each call that changes something.

    Calls without a valid token are logged only: outsiders must not be able to fill the disk.
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await self._write(scope, status)
            await send(message)

        await self._app(scope, receive, watch)

    async def _write(self, scope: Scope, status: int) -> None:
        who = scope["state"].get("who")
        client = scope.get("client")
        source = str(client[0]) if client else "?"
        action = f"{scope['method']} {scope['path']}"[:512]
        if not isinstance(who, ApiToken):
            log.warning("%s from %s without a valid token", action, source)
            return
        try:
            await self._services.cluster.db.run(
                journal.audit, who=who.name, role=who.role, source=source, action=action, outcome=str(status)
            )
        except CoordinatorError as exc:
            # What was done is done, and its answer must get through; the log keeps what the store could not.
            log.error("not in the audit log (%s): %s by %s from %s: %d", exc, action, who.name, source, status)


def make_app(services: Services) -> FastAPI:
    app = FastAPI(
        title="Wherry",
        version="1",
        description="The control plane's API. Bearer tokens; errors are {error: {code, field, message}}.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.services = services
    failures.install(app)
    of_guests, network = (guests, migrations, console, debugger), (networks, ports, tunnels)
    for module in (*of_guests, nodes, *network, images, operations, stats, access, authority):
        app.include_router(module.router)
    app.add_middleware(Audit, services=services)
    return app
