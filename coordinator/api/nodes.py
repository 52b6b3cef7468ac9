"""Nodes: look, remove, drain, uncordon."""

from __future__ import annotations

from fastapi import APIRouter

from coordinator.api.bodies import DrainBody, MoveAllBody
from coordinator.api.deps import Admin, Json, Operator, Services, Svc, Viewer
from coordinator.leases import Removed
from coordinator.model import Node
from coordinator.store import guests, nodes
from coordinator.store.db import Tx
from protocol.messages import MigrationParams

router = APIRouter(prefix="/v1/nodes", tags=["nodes"])


def node_json(svc: Services, node: Node, *, memory_used: int, count: int, now: float) -> Json:
    """``memory``: what it offers to guests; ``memory_used``: promised to guests; ``memory_free``: the host's, now."""
    alive = node.id in svc.cluster.alive()
    return {
        "name": node.name,
        "id": node.id,
        "state": "lost" if not alive else "cordoned" if node.cordoned else "alive",
        "cordoned": node.cordoned,
        "link": node.link,
        "tunnel": node.tunnel,
        "cpus": node.cpus,
        "load": node.load,
        "memory": node.memory,
        "memory_free": node.memory_free,
        "memory_used": memory_used,
        "disk_free": node.disk_free,
        "guests": count,
        "last_seen_s": round(max(0.0, now - node.last_seen), 1) if node.last_seen else None,
        "software": node.software,
    }


def _all(tx: Tx, svc: Services) -> list[Json]:
    used = {c.node: c.memory_used for c in guests.candidates(tx, frozenset())}
    return [
        node_json(svc, n, memory_used=used[n.id], count=len(guests.on_node(tx, n.id)), now=tx.now)
        for n in nodes.all_nodes(tx)
    ]


@router.get("", dependencies=[Viewer])
async def list_nodes(svc: Svc) -> Json:
    return {"nodes": await svc.cluster.db.run(_all, svc)}


@router.get("/{name}", dependencies=[Viewer])
async def get_node(svc: Svc, name: str) -> Json:
    def read(tx: Tx) -> Json:
        nodes.by_name(tx, name)
        return next(n for n in _all(tx, svc) if n["name"] == name)

    return await svc.cluster.db.run(read)


@router.delete("/{name}", dependencies=[Admin])
async def remove_node(svc: Svc, name: str) -> Json:
    """Take a node out of the cluster for good; its session ends and its certificate opens nothing any more."""
    node = await svc.cluster.db.run(nodes.remove, name)
    link = svc.cluster.links.pop(node.id)
    await svc.cluster.lease(Removed(node.id))
    svc.cluster.announce()
    if link is not None:
        await link.aclose()
    return {"removed": name}


@router.post("/{name}/drain", status_code=202, dependencies=[Operator])
async def drain_node(svc: Svc, name: str, body: DrainBody | None = None) -> Json:
    return (await svc.drains.drain(name, parallel=(body or DrainBody()).parallel)).to_json()


@router.post("/{name}/migrate", status_code=202, dependencies=[Operator])
async def migrate_all(svc: Svc, name: str, body: MoveAllBody | None = None) -> Json:
    """Move everything that runs there."""
    given = (body or MoveAllBody()).model_dump(exclude_none=True, exclude={"dry_run"})
    to, parallel = given.pop("to", None), given.pop("parallel")
    return (await svc.drains.move_all(name, to=to, params=MigrationParams(**given), parallel=parallel)).to_json()


@router.post("/{name}/uncordon", dependencies=[Operator])
async def uncordon_node(svc: Svc, name: str) -> Json:
    await svc.drains.uncordon(name)
    return await get_node(svc, name)
