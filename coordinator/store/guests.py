"""Guests: what is wanted, who owns them, what was last seen of them."""

from __future__ import annotations

import sqlite3

import msgspec

from coordinator.errors import Exists, Fenced, NotFound
from coordinator.model import HOLDS_MEMORY, Guest
from coordinator.placement import Candidate
from coordinator.store import networks, nodes
from coordinator.store.db import Tx
from protocol.messages import GuestSpec, GuestStatus, PortSettings

_HELD = ", ".join(f"'{s}'" for s in HOLDS_MEMORY)


def _guest(row: sqlite3.Row) -> Guest:
    return Guest(
        id=row["id"],
        name=row["name"],
        state=row["state"],
        desired=row["desired"],
        reason=row["reason"],
        node=row["node"],
        generation=row["generation"],
        spec=msgspec.json.decode(row["spec"], type=GuestSpec),
        created=row["created"],
        started=row["started"],
        booted=row["booted"],
        pid=row["pid"],
    )


def create(tx: Tx, spec: GuestSpec, *, node: int) -> Guest:
    """A guest of generation 1 that is to run on ``node``; its NICs' addresses are taken from here on."""
    check_free(tx, spec.name)
    tx.execute(
        "INSERT INTO guests (id, name, state, desired, node, generation, memory, cpus, spec, created)"
        " VALUES (?, ?, 'pending', 'running', ?, 1, ?, ?, ?, ?)",
        spec.guest,
        spec.name,
        node,
        spec.memory,
        spec.cpus,
        msgspec.json.encode(spec).decode(),
        tx.now,
    )
    networks.keep(tx, spec.guest, spec.nics)
    return by_id(tx, spec.guest)


def check_free(tx: Tx, name: str) -> None:
    if find(tx, name) is not None:
        raise Exists(f"a guest named {name} exists", field="name")


def find(tx: Tx, name: str) -> Guest | None:
    row = tx.one("SELECT * FROM guests WHERE name = ?", name)
    return _guest(row) if row else None


def by_name(tx: Tx, name: str) -> Guest:
    guest = find(tx, name)
    if guest is None:
        known = ", ".join(str(r["name"]) for r in tx.all("SELECT name FROM guests ORDER BY name LIMIT 20")) or "none"
        raise NotFound(f"no guest named {name}; known: {known}", field="name")
    return guest


def find_id(tx: Tx, guest: str) -> Guest | None:
    row = tx.one("SELECT * FROM guests WHERE id = ?", guest)
    return _guest(row) if row else None


def by_id(tx: Tx, guest: str) -> Guest:
    found = find_id(tx, guest)
    if found is None:
        raise NotFound(f"no guest with id {guest}", field="guest")
    return found


def all_guests(tx: Tx) -> list[Guest]:
    return [_guest(r) for r in tx.all("SELECT * FROM guests ORDER BY name")]


def on_node(tx: Tx, node: int) -> list[Guest]:
    return [_guest(r) for r in tx.all("SELECT * FROM guests WHERE node = ? ORDER BY name", node)]


def set_state(tx: Tx, guest: Guest, state: str, *, reason: str = "", kind: str | None = None) -> Guest:
    """Write what a guest is now; an event goes out when that is news."""
    if (state, reason) != (guest.state, guest.reason):
        tx.execute("UPDATE guests SET state = ?, reason = ? WHERE id = ?", state, reason, guest.id)
        if state != guest.state:
            tx.emit(
                kind or f"guest.{state}",
                f"guest {guest.name} is {state}" + (f": {reason}" if reason else ""),
                guest=guest.name,
                node=nodes.name_of(tx, guest.node),
                generation=guest.generation,
                reason=reason,
            )
    return by_id(tx, guest.id)


def set_spec(tx: Tx, guest: Guest, spec: GuestSpec) -> Guest:
    tx.execute("UPDATE guests SET spec = ? WHERE id = ?", msgspec.json.encode(spec).decode(), guest.id)
    return by_id(tx, guest.id)


def set_desired(tx: Tx, guest: Guest, desired: str) -> None:
    tx.execute("UPDATE guests SET desired = ? WHERE id = ?", desired, guest.id)


def observe(tx: Tx, guest: Guest, status: GuestStatus) -> Guest:
    """Take over what the owner says of its own copy; anyone else's word is :class:`Fenced`."""
    if status.generation != guest.generation:
        raise Fenced(f"generation {status.generation} of {guest.name}; the owner's is {guest.generation}")
    # The first values of a run count: a copy that moved has a younger process, but it did not boot again.
    started, booted = guest.started or status.started, guest.booted or status.booted
    tx.execute("UPDATE guests SET pid = ?, started = ?, booted = ? WHERE id = ?", status.pid, started, booted, guest.id)
    if booted and not guest.booted:
        tx.emit(
            "guest.booted",
            f"guest {guest.name} reached user space",
            guest=guest.name,
            node=nodes.name_of(tx, guest.node),
            generation=guest.generation,
            boot_s=round(booted - started, 3),
        )
    return set_state(tx, guest, status.state, reason=status.reason)


def move(tx: Tx, guest: Guest, *, node: int, expect: int) -> Guest:
    """Give the guest to ``node`` under the next generation: the compare-and-set on (guest, generation) that all fencing
    rests on. :class:`Fenced` when ``expect`` is not the present generation."""
    changed = tx.execute(
        "UPDATE guests SET node = ?, pid = 0, generation = generation + 1 WHERE id = ? AND generation = ?",
        node,
        guest.id,
        expect,
    ).rowcount
    if changed != 1:
        raise Fenced(f"guest {guest.name} is not of generation {expect} any more")
    return by_id(tx, guest.id)


def forget_run(tx: Tx, guest: Guest) -> None:
    """A fresh start: what was seen of the former run does not belong to the next."""
    tx.execute("UPDATE guests SET pid = 0, started = 0, booted = 0 WHERE id = ?", guest.id)


def remove(tx: Tx, guest: Guest) -> None:
    if any(nic.settings != PortSettings() for nic in guest.spec.nics):
        networks.rules_changed(tx)
    tx.execute("DELETE FROM guests WHERE id = ?", guest.id)
    tx.emit(
        "guest.removed",
        f"guest {guest.name} was removed",
        guest=guest.name,
        node=nodes.name_of(tx, guest.node),
        generation=guest.generation,
    )


def candidates(tx: Tx, alive: frozenset[int], *, without: str | None = None) -> list[Candidate]:
    """All nodes with what they have promised to guests: those they hold and those that are moving to them.
    ``without``: a guest whose own promise does not count (it is about to be placed anew)."""
    sql = (
        "SELECT memory, cpus FROM ("
        f" SELECT g.id, g.memory, g.cpus FROM guests g WHERE g.node = ?1 AND g.state IN ({_HELD})"
        " UNION ALL SELECT g.id, g.memory, g.cpus FROM migrations m JOIN guests g ON g.id = m.guest"
        " WHERE m.target = ?1 AND m.decision = 'pending') WHERE id IS NOT ?2"
    )
    out = []
    for node in nodes.all_nodes(tx):
        held = tx.all(sql, node.id, without)
        out.append(
            Candidate(
                node=node.id,
                name=node.name,
                alive=node.id in alive,
                cordoned=node.cordoned,
                memory=node.memory,
                memory_used=sum(r["memory"] for r in held),
                cpus=node.cpus,
                cpus_used=sum(r["cpus"] for r in held),
                guests=len(held),
                load=node.load,
            )
        )
    return out
