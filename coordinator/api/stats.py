"""What guests do: counters and rates, as JSON and as Prometheus text. Figures are at most a few seconds old."""

from __future__ import annotations

from dataclasses import asdict

import trio
from fastapi import APIRouter, Response

from coordinator.api import ports
from coordinator.api.deps import Json, Services, Svc, Viewer
from coordinator.metrics import CONTENT_TYPE, Exposition
from coordinator.model import Guest, Node, Operation
from coordinator.store import guests, journal, nodes
from coordinator.store.db import Tx

router = APIRouter(tags=["stats"])


def _json(svc: Services, guest: Guest, node: str | None) -> Json:
    """``counters`` and ``rates`` are null where its node has not told them lately."""
    now = trio.current_time()
    sample = svc.cluster.stats.sample(guest.id, guest.node, guest.generation, now)
    rates = svc.cluster.stats.rates(guest.id) if sample else None
    return {
        "name": guest.name,
        "node": node,
        "state": guest.state,
        "generation": guest.generation,
        "cpus": guest.spec.cpus,
        "memory": guest.spec.memory,
        "resident": sample.resident if sample else None,
        "age_s": round(now - sample.seen, 1) if sample else None,
        "counters": sample.counters if sample else None,
        "rates": {name: round(value, 3) for name, value in asdict(rates).items()} if rates else None,
    }


def _all(tx: Tx) -> tuple[list[Guest], list[Node]]:
    return guests.all_guests(tx), nodes.all_nodes(tx)


@router.get("/v1/stats", dependencies=[Viewer])
async def all_stats(svc: Svc) -> Json:
    found, hosts = await svc.cluster.db.run(_all)
    names = {n.id: n.name for n in hosts}
    return {"stats": [_json(svc, g, names.get(g.node) if g.node is not None else None) for g in found]}


@router.get("/v1/guests/{name}/stats", dependencies=[Viewer])
async def guest_stats(svc: Svc, name: str) -> Json:
    """With ``moves``: its latest migrations and how long each let it stand still."""

    def read(tx: Tx) -> tuple[Guest, str | None, list[Operation]]:
        guest = guests.by_name(tx, name)
        return guest, nodes.name_of(tx, guest.node), journal.moves(tx, guest.id)

    guest, node, moves = await svc.cluster.db.run(read)
    return {**_json(svc, guest, node), "moves": [_move(operation) for operation in moves]}


def _move(operation: Operation) -> Json:
    result = operation.result or {}
    told = ("source", "target", "generation", "blackout_ms", "blackout_error_ms", "total_ms")
    return {"time": operation.created, **{key: result.get(key) for key in told}}


async def _network(svc: Services, out: Exposition) -> None:
    """The switches of the nodes that answer, their ports and tunnels."""
    known, looked = await ports.picture(svc)
    for node, answer in looked.items():
        out.switch("switch", answer.counters, node=known.node(node) or str(node))
        for tunnel in answer.tunnels:
            peer = known.node(tunnel.node) or str(tunnel.node)
            out.switch("tunnel", tunnel.counters, node=known.node(node) or str(node), peer=peer)
    for port in ports.ports_json(known, looked):
        labels = {name: str(port[name] or "") for name in ("node", "network", "kind", "name")}
        number = str(port["port"] or "")
        out.switch("port", port["counters"] or {}, **labels, port=number)
        out.add("wherry_port_up", int(port["state"] == "up"), **labels, port=number)


def _migrations(svc: Services, out: Exposition) -> None:
    totals, running = svc.moves.totals, svc.moves.under_way()
    out.add("wherry_migrations_running", len(running))
    for outcome, count in totals.ended.items():
        out.add("wherry_migrations_total", count, outcome=outcome)
    out.add("wherry_migrations_throttled_total", totals.throttled)
    out.add("wherry_migrations_postcopy_total", totals.postcopy)
    out.add("wherry_migration_bytes_total", totals.bytes)
    out.add("wherry_migration_seconds_total", totals.total_s)
    out.add("wherry_migration_blackout_seconds_total", totals.blackout_s)
    for now in running:
        labels = {key: str(now.get(key, "")) for key in ("migration", "source", "target")}
        out.add("wherry_migration_running_bytes", now.get("bytes_sent", 0), **labels)
        out.add("wherry_migration_running_dirty_pages", now.get("dirty_pages", 0), **labels)
        out.add("wherry_migration_running_throttle_percent", now.get("throttle", 0), **labels)


@router.get("/metrics", dependencies=[Viewer])
async def metrics(svc: Svc) -> Response:
    """For Prometheus, with a viewer's token as its bearer token."""
    found, hosts = await svc.cluster.db.run(_all)
    out = Exposition()
    out.add("wherry_coordinator_info", 1, version=svc.software)
    alive, names = svc.cluster.alive(), {n.id: n.name for n in hosts}
    for node in hosts:
        out.add("wherry_node_up", int(node.id in alive), node=node.name)
        out.add("wherry_node_cpus", node.cpus, node=node.name)
        out.add("wherry_node_load", node.load, node=node.name)
        out.add("wherry_node_memory_bytes", node.memory, node=node.name)
        out.add("wherry_node_memory_free_bytes", node.memory_free, node=node.name)
    for guest in found:
        labels = {"guest": guest.name, "node": names.get(guest.node, "") if guest.node is not None else ""}
        out.add("wherry_guest_running", int(guest.state == "running"), **labels)
        out.add("wherry_guest_cpus", guest.spec.cpus, **labels)
        out.add("wherry_guest_memory_bytes", guest.spec.memory, **labels)
        sample = svc.cluster.stats.sample(guest.id, guest.node, guest.generation, trio.current_time())
        if sample is not None:
            out.add("wherry_guest_resident_bytes", sample.resident, **labels)
            out.counters(sample.counters, **labels)
    _migrations(svc, out)
    await _network(svc, out)
    return Response(out.text(), media_type=CONTENT_TYPE)
