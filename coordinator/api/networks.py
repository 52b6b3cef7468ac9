"""Networks."""

from __future__ import annotations

from fastapi import APIRouter

from coordinator.api.bodies import NetworkBody
from coordinator.api.deps import Json, Operator, Svc, Viewer
from coordinator.model import Network
from coordinator.store import networks
from coordinator.store.db import Tx

router = APIRouter(prefix="/v1/networks", tags=["networks"])


def _json(tx: Tx, n: Network) -> Json:
    return {"name": n.name, "vni": n.vni, "subnet": n.subnet, "mtu": n.mtu, "guests": networks.guests_in(tx, n.name)}


@router.get("", dependencies=[Viewer])
async def list_networks(svc: Svc) -> Json:
    def read(tx: Tx) -> list[Json]:
        return [_json(tx, n) for n in networks.all_networks(tx)]

    return {"networks": await svc.cluster.db.run(read)}


@router.post("", status_code=201, dependencies=[Operator])
async def create_network(svc: Svc, body: NetworkBody) -> Json:
    def write(tx: Tx) -> Json:
        return _json(tx, networks.create(tx, body.name, subnet=body.subnet, mtu=body.mtu))

    created = await svc.cluster.db.run(write)
    svc.cluster.announce()
    return created


@router.delete("/{name}", dependencies=[Operator])
async def remove_network(svc: Svc, name: str) -> Json:
    await svc.cluster.db.run(networks.remove, name)
    svc.cluster.announce()
    return {"removed": name}
