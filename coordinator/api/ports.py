"""Ports: those of guests, and those that lead to hosts and other programs; and what the switches have counted."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from coordinator.api.bodies import AttachBody, PortChangeBody, ReleaseBody
from coordinator.api.deps import Json, Operator, Services, Svc, Viewer
from coordinator.errors import Invalid
from coordinator.model import AttachedPort, Guest, Network, Node, plain
from coordinator.portsettings import merge, told
from coordinator.store import attachments, guests, networks, nodes, rules
from coordinator.store.db import Tx
from protocol.messages import HeldStation, NetLooked, PortSettings, PortStatus

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

    def place(self, held: HeldStation) -> str:
        """Where else a held station is."""
        if not held.other_port:
            return f"node {self.node(held.other_node)}" if held.other_node else "a port that is gone"
        if held.other_port in self.attached:
            return self.attached[held.other_port].local
        named = (g.name for g in self.guests.values() for n in g.spec.nics if n.mac == held.other_port)
        return next(named, held.other_port)


def _attached_json(port: AttachedPort, names: _Names, looked: dict[int, NetLooked]) -> Json:
    there = looked.get(port.node)
    state = next((s for s in there.attachments if s.id == port.id), None) if there else None
    return {
        "id": port.id,
        "key": port.id,
        "settings": plain(port.settings),
        "kind": port.kind,
        "name": port.local,
        "remote": port.remote,
        "network": port.network,
        "node": names.node(port.node),
        "state": state.state if state else "unknown",
        "reason": state.reason if state else "its node does not answer",
    }


def _live_json(status: PortStatus, name: str, names: _Names) -> Json:
    """What a switch says of a port that is there: shut by the guard, stations held at it."""
    held = [{"mac": h.mac, "here": h.here, "other": names.place(h)} for h in status.held]
    row: Json = {"port": status.port, "mac": status.mac or None, "counters": status.counters, "held": held}
    if status.shut_by:
        row["state"] = "shut"
        row["reason"] = f"a bridge's BPDU came in from {status.shut_by}; to open it: wherry port set {name} --open"
    elif held:
        first = held[0]
        row["reason"] = (
            (
                f"{first['mac']} is held here, it is also at"
                if first["here"]
                else f"{first['mac']} is kept out, it is held at"
            )
            + f" {first['other']}"
            + (f" (and {len(held) - 1} more)" if len(held) > 1 else "")
            + f"; to let it go: wherry port release {name}"
        )
    return row


def ports_json(names: _Names, looked: dict[int, NetLooked]) -> list[Json]:
    out: list[Json] = []
    told: set[str] = set()
    for node, answer in looked.items():
        for port in answer.ports:
            network = names.networks.get(port.vni)
            row: Json = {
                "id": None,
                "key": port.mac,
                "kind": port.kind,
                "network": network.name if network else None,
                "node": names.node(node),
                "state": "up",
                "reason": "",
            }
            if port.kind == "guest":
                guest = names.guests.get(port.owner)
                nic = next((n for n in guest.spec.nics if n.mac == port.mac), None) if guest else None
                row |= {"name": guest.name if guest else port.owner, "remote": ""}
                row["settings"] = plain(nic.settings) if nic else {}
            elif (attached := names.attached.get(port.owner)) is not None:
                row |= _attached_json(attached, names, looked)
                told.add(port.owner)
            else:
                continue  # taken away a moment ago
            out.append({**row, **_live_json(port, str(row["name"]), names)})
    for ident, attached in names.attached.items():
        if ident not in told:
            row = _attached_json(attached, names, looked)
            out.append({**row, "port": None, "mac": None, "counters": None, "held": []})
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
        {
            "node": names.node(n),
            "peer": names.node(t.node),
            "via": names.node(t.via),
            "path": t.path,
            "counters": t.counters,
        }
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
        network=body.network,
        kind=body.kind,
        local=body.local,
        remote=body.remote,
        on=body.on,
        settings=merge(PortSettings(), body.wish()),
    )
    names, looked = await picture(svc)
    return _attached_json(port, names, looked)


@router.patch("/v1/ports/{key}", dependencies=[Operator])
async def change_port(svc: Svc, key: str, body: PortChangeBody) -> Json:
    """By a guest NIC's MAC or an attached port's id. ``applied``: its node has it already; else it will when it is
    back, or when the guest is started."""

    def write(tx: Tx) -> rules.PortRow:
        new = merge(rules.port(tx, key).settings, body.wish())
        return rules.change(tx, key, new, told=told(new))

    port = await svc.cluster.db.run(write)
    applied = port.node in await svc.cluster.rules.tell_all()
    if body.open:
        await svc.attachments.open(port)
    name = await svc.cluster.db.run(nodes.name_of, port.node)
    told_now = {"key": key, "name": port.name, "network": port.network, "node": name}
    return {**told_now, "settings": plain(port.settings), "applied": applied}


@router.post("/v1/ports/release", dependencies=[Operator])
async def release(svc: Svc, body: ReleaseBody) -> Json:
    """Stations that are held, since they were seen in two places, may move again. The answer names those."""
    if (body.mac is None) == (body.port is None):
        raise Invalid("give one of mac and port", field="mac")
    if body.port is not None:
        row = await svc.cluster.db.run(rules.port, body.port)
        return {"released": await svc.attachments.release_at(row)}
    assert body.mac is not None
    vni = 0
    if body.network is not None:
        vni = (await svc.cluster.db.run(networks.by_name, body.network, field="network")).vni
    return {"released": await svc.attachments.release(vni, [body.mac])}


@router.delete("/v1/ports/{ident}", dependencies=[Operator])
async def detach(svc: Svc, ident: str) -> Json:
    port = await svc.attachments.detach(ident)
    return {"removed": port.id}
