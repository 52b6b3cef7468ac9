"""Operations, events, audit: what was asked, what happened, who did it."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Annotated

import trio
from fastapi import APIRouter, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from coordinator.api.bodies import OperationBody
from coordinator.api.deps import Admin, Json, Operator, Services, Svc, Viewer
from coordinator.events import follow
from coordinator.store import journal

router = APIRouter(tags=["operations"])
KEEP_ALIVE_S = 15.0


@router.get("/v1/operations", dependencies=[Viewer])
async def list_operations(svc: Svc) -> Json:
    found = await svc.cluster.db.run(journal.operations)
    live = {o.id: task for o in found if (task := svc.operations.task(o.id)) is not None}
    out = [o.to_json() for o in found]
    for item in out:
        if item["id"] in live:
            item["progress"] = dict(live[item["id"]].progress)
    return {"operations": out}


@router.get("/v1/operations/{ident}", dependencies=[Viewer])
async def get_operation(svc: Svc, ident: str, wait: Annotated[float, Query(ge=0, le=60)] = 0.0) -> Json:
    """``wait``: seconds to hold the answer until the operation has ended."""
    return (await svc.operations.get(ident, wait=wait)).to_json()


@router.post("/v1/operations/{ident}", status_code=202, dependencies=[Operator])
async def cancel_operation(svc: Svc, ident: str, body: OperationBody | None = None) -> Json:
    return (await svc.operations.cancel(ident)).to_json()


@router.get("/v1/audit", dependencies=[Admin])
async def audit(svc: Svc, since: Annotated[int, Query(ge=0)] = 0) -> Json:
    return {"entries": await svc.cluster.db.run(journal.audit_entries, since=since)}


@router.get("/v1/events", dependencies=[Viewer], response_class=Response)
async def events(svc: Svc, since: Annotated[int, Query(ge=0, lt=2**63)] = 0, follow: bool = False) -> Response:
    """Kept events above ``since`` as server-sent events; with ``follow`` it goes on with what comes."""
    return EventStream(svc, since, follow)


class EventStream(Response):
    """Server-sent events (WHATWG HTML section 9.2). Ends when the client leaves or falls behind, or at our stop."""

    media_type = "text/event-stream"

    def __init__(self, svc: Services, since: int, live: bool) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        self._svc, self._since, self._live = svc, since, live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(k, v) for k, v in self.raw_headers if k != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with trio.open_nursery() as nursery:

            async def until_left() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_left)
            await self._pump(send)
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        cluster = self._svc.cluster
        source = follow(cluster.db, cluster.hub, self._since, live=self._live, idle_s=KEEP_ALIVE_S)
        async with aclosing(source) as found:  # type: ignore[type-var]
            async for event in found:
                text = ": alive\n\n" if event is None else f"id: {event.id}\ndata: {json.dumps(event.to_json())}\n\n"
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
