"""How fast nodes may send to one another."""

from __future__ import annotations

from fastapi import APIRouter

from coordinator.api.bodies import TunnelRateBody
from coordinator.api.deps import Json, Operator, Svc, Viewer
from coordinator.store import nodes, tunnels
from coordinator.store.db import Tx

router = APIRouter(prefix="/v1/net/rates", tags=["networks"])


def _json(tx: Tx) -> list[Json]:
    return [
        {"node": nodes.name_of(tx, row.node), "to": nodes.name_of(tx, row.peer), "rate": row.rate}
        for row in tunnels.all_rates(tx)
    ]


@router.get("", dependencies=[Viewer])
async def list_rates(svc: Svc) -> Json:
    """``rate``: bits of IP packets a second that the node sends to ``to``, null: to each that has no other rate; 0: no
    bound."""
    return {"rates": await svc.cluster.db.run(_json)}


@router.put("", dependencies=[Operator])
async def set_rate(svc: Svc, body: TunnelRateBody) -> Json:
    """All rates; ``waiting``: the node, if it could not be told. It is when it is back."""

    def write(tx: Tx) -> tuple[int, list[Json]]:
        tunnels.set_rate(tx, body.node, body.to, body.rate)
        return nodes.by_name(tx, body.node).id, _json(tx)

    node, rates = await svc.cluster.db.run(write)
    have = await svc.cluster.rules.tell_all()
    return {"rates": rates, "waiting": [] if node in have else [body.node]}
