"""How a guest's migrations went."""

from __future__ import annotations

from fastapi import APIRouter

from coordinator.api.deps import Json, Svc, Viewer
from coordinator.store import guests, reports
from coordinator.store.db import Tx

router = APIRouter(prefix="/v1", tags=["migrations"])
_LONG = ("samples", "columns")


@router.get("/guests/{name}/migrations", dependencies=[Viewer])
async def guest_migrations(svc: Svc, name: str) -> Json:
    """Those that have ended, the newest first, without their samples."""

    def read(tx: Tx) -> list[Json]:
        return reports.of_guest(tx, guests.by_name(tx, name).id)

    found = await svc.cluster.db.run(read)
    return {"migrations": [{key: r[key] for key in r if key not in _LONG} for r in found]}


@router.get("/migrations/{ident}", dependencies=[Viewer])
async def migration_report(svc: Svc, ident: str) -> Json:
    """One, with samples over time (rows of ``columns``)."""
    return await svc.cluster.db.run(reports.by_id, ident)
