"""Networks."""

from __future__ import annotations

from fastapi import APIRouter

from coordinator.api.bodies import NetworkBody, NetworkChangeBody
from coordinator.api.deps import Json, Operator, Services, Svc, Viewer
from coordinator.model import Network
from coordinator.store import networks, nodes
from coordinator.store.db import Tx

router = APIRouter(prefix="/v1/networks", tags=["networks"])


def _json(svc: Services, tx: Tx, n: Network) -> Json:
    """``carries``: the largest packet that all paths between its nodes carry, at most ``mtu``; ``narrow``: the two
    nodes whose path is the narrowest, if it carries less than that."""
    narrow = svc.cluster.paths.narrowest(networks.nodes_of(tx, n.name), n.mtu)
    return {
        "name": n.name,
        "vni": n.vni,
        "subnet": n.subnet,
        "mtu": n.mtu,
        "carries": narrow.mtu if narrow else n.mtu,
        "narrow": [nodes.name_of(tx, narrow.node), nodes.name_of(tx, narrow.peer)] if narrow else [],
        "stations": n.stations,
        "storm": n.storm,
        "proxy": n.proxy,
        "bound": n.bound,
        "guests": networks.guests_in(tx, n.name),
    }


@router.get("", dependencies=[Viewer])
async def list_networks(svc: Svc) -> Json:
    def read(tx: Tx) -> list[Json]:
        return [_json(svc, tx, n) for n in networks.all_networks(tx)]

    return {"networks": await svc.cluster.db.run(read)}


@router.post("", status_code=201, dependencies=[Operator])
async def create_network(svc: Svc, body: NetworkBody) -> Json:
    def write(tx: Tx) -> Json:
        return _json(svc, tx, networks.create(tx, **body.model_dump()))

    created = await svc.cluster.db.run(write)
    svc.cluster.announce()
    return created


@router.patch("/{name}", dependencies=[Operator])
async def change_network(svc: Svc, name: str, body: NetworkChangeBody) -> Json:
    """Limits hold at once, a smaller MTU for guests that start from now on. ``waiting``: nodes that could not be told;
    they are when they are back."""

    def write(tx: Tx) -> Json:
        return _json(svc, tx, networks.change(tx, name, **body.model_dump()))

    changed = await svc.cluster.db.run(write)
    svc.cluster.announce()
    have = await svc.cluster.rules.tell_all()
    if body.mtu is not None:
        await svc.attachments.tell_network(name)
    return {**changed, "waiting": await waiting(svc, have, network=name)}


async def waiting(svc: Services, have: set[int], *, network: str) -> list[str]:
    """The nodes with ports in a network that are not in ``have``."""

    def read(tx: Tx) -> list[str]:
        return [str(nodes.name_of(tx, n)) for n in sorted(networks.nodes_of(tx, network) - have)]

    return await svc.cluster.db.run(read)


@router.delete("/{name}", dependencies=[Operator])
async def remove_network(svc: Svc, name: str) -> Json:
    await svc.cluster.db.run(networks.remove, name)
    svc.cluster.announce()
    return {"removed": name}
