"""Ports: those of guests, and those that lead to hosts and other programs; and what the switches have counted."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from coordinator.api.bodies import AttachBody
from coordinator.api.deps import Json, Operator, Services, Svc, Viewer
from coordinator.model import AttachedPort, Guest, Network, Node
from coordinator.store import attachments, guests, networks, nodes
from coordinator.store.db import Tx
from protocol.messages import NetLooked

router = APIRouter(tags=["ports"])


class _Names:
    """Who has which id, at one moment."""

    def __init__(self, tx: Tx) -> None:
        self.nodes: dict[int, Node] = {n.id: n for n in nodes.all_nodes(tx)}
        self.networks: dict[int, Network] = {n.vni: n for n in networks.all_networks(tx)}
        self.guests: dict[str, Guest] = {g.id: g for g in guests.all_guests(tx)}
        self.attached: dict[str, AttachedPort] = {p.id: p for p in attachments.all_ports(tx)}

    def node(self, node: int | None) -> str | None:
        found = self.nodes.get(node) if node is not None else None
        return found.name if found else None


def _attached_json(port: AttachedPort, names: _Names, looked: dict[int, NetLooked]) -> Json:
    there = looked.get(port.node)
    state = next((s for s in there.attachments if s.id == port.id), None) if there else None
    return {
        "id": port.id,
        "kind": port.kind,
        "name": port.local,
        "remote": port.remote,
        "network": port.network,
        "node": names.node(port.node),
        "state": state.state if state else "unknown",
        "reason": state.reason if state else "its node does not answer",
    }


def ports_json(names: _Names, looked: dict[int, NetLooked]) -> list[Json]:
    out: list[Json] = []
    told: set[str] = set()
    for node, answer in looked.items():
        for port in answer.ports:
            network = names.networks.get(port.vni)
            row: Json = {
                "id": None,
                "kind": port.kind,
                "network": network.name if network else None,
                "node": names.node(node),
                "state": "up",
                "reason": "",
            }
            if port.kind == "guest":
                guest = names.guests.get(port.owner)
                row |= {"name": guest.name if guest else port.owner, "remote": ""}
            elif (attached := names.attached.get(port.owner)) is not None:
                row |= _attached_json(attached, names, looked)
                told.add(port.owner)
            else:
                continue  # taken away a moment ago
            out.append({**row, "port": port.port, "mac": port.mac or None, "counters": port.counters})
    for ident, attached in names.attached.items():
        if ident not in told:
            out.append({**_attached_json(attached, names, looked), "port": None, "mac": None, "counters": None})
    return sorted(out, key=lambda p: (str(p["node"]), str(p["kind"]), str(p["name"]), p["port"] or 0))


async def picture(svc: Services) -> tuple[_Names, dict[int, NetLooked]]:
    looked = await svc.attachments.look()
    return await svc.cluster.db.run(_Names), looked


@router.get("/v1/ports", dependencies=[Viewer])
async def list_ports(svc: Svc) -> Json:
    """All ports of the nodes that answer, and the attached ones of those that do not. ``counters`` since the port was
    made, as ``wh_counters`` of csrc/api.cdef."""
    return {"ports": ports_json(*await picture(svc))}


@router.get("/v1/net", dependencies=[Viewer])
async def net(svc: Svc) -> Json:
    """Ports, tunnels and switches with their counters; ``sampled`` is each node's own clock, for rates."""
    names, looked = await picture(svc)
    tunnels = [
        {"node": names.node(n), "peer": names.node(t.node), "via": names.node(t.via), "counters": t.counters}
        for n, answer in looked.items()
        for t in answer.tunnels
    ]
    return {
        "nodes": [{"name": names.node(n), "sampled": a.sampled, "counters": a.counters} for n, a in looked.items()],
        "ports": ports_json(names, looked),
        "tunnels": tunnels,
    }


@router.get("/v1/trace", dependencies=[Operator])
async def trace(
    svc: Svc,
    node: str,
    port: Annotated[int, Query(ge=1, le=0xFFFFFFFF)],
    every: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    seconds: Annotated[float, Query(gt=0, le=10)] = 2.0,
) -> Json:
    """Where the frames that come in at a port go, and why; ``head``: their first bytes, in hexadecimal digits."""
    traced = await svc.attachments.trace(node, port, every, seconds)
    notes = [
        {"when": n.when, "length": n.length, "way": n.way, "to": n.to, "reason": n.reason, "head": n.head.hex()}
        for n in traced.notes
    ]
    return {"notes": notes, "lost": traced.lost}


@router.post("/v1/ports", status_code=201, dependencies=[Operator])
async def attach(svc: Svc, body: AttachBody) -> Json:
    """The answer comes when the node has the port open, or says why it can't."""
    port = await svc.attachments.attach(
        network=body.network, kind=body.kind, local=body.local, remote=body.remote, on=body.on
    )
    names, looked = await picture(svc)
    return _attached_json(port, names, looked)


@router.delete("/v1/ports/{ident}", dependencies=[Operator])
async def detach(svc: Svc, ident: str) -> Json:
    port = await svc.attachments.detach(ident)
    return {"removed": port.id}
