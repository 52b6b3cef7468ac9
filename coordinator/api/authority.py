"""The cluster's CA: look, rotate, finish a rotation."""

from __future__ import annotations

from fastapi import APIRouter

from coordinator.api.bodies import CaFinishBody
from coordinator.api.deps import Admin, Json, Svc, Viewer

router = APIRouter(prefix="/v1/ca", tags=["ca"])


@router.get("", dependencies=[Viewer])
async def show(svc: Svc) -> Json:
    return await svc.rollover.show()


@router.post("/rotate", dependencies=[Admin])
async def rotate(svc: Svc) -> Json:
    """From here on a new CA signs; the old one is trusted until the rotation is finished."""
    return await svc.rollover.rotate()


@router.post("/finish", dependencies=[Admin])
async def finish(svc: Svc, body: CaFinishBody | None = None) -> Json:
    """Trust the new CA alone; 409 names the nodes that do not follow it yet."""
    return await svc.rollover.finish(force=(body or CaFinishBody()).force)
