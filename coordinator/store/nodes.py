"""Nodes: who joined, what they last said of themselves."""

from __future__ import annotations

import sqlite3
from typing import Any

from coordinator.errors import Conflict, Exists, NotFound
from coordinator.model import Node
from coordinator.store.db import Tx
from protocol.messages import Resources


def _node(row: sqlite3.Row) -> Node:
    values: dict[str, Any] = {key: row[key] for key in row.keys()}  # noqa: SIM118  (iterating a Row gives values)
    values["cordoned"] = bool(values["cordoned"])
    return Node(**values)


def add(tx: Tx, name: str) -> Node:
    """A new node with an id that no node ever had; :class:`Exists` if the name is taken."""
    if find(tx, name) is not None:
        raise Exists(
            f"a node named {name} has joined already; choose another name, or remove that node first",
            field="name",
        )
    cursor = tx.execute("INSERT INTO nodes (name, joined) VALUES (?, ?)", name, tx.now)
    assert cursor.lastrowid is not None
    node = by_id(tx, cursor.lastrowid)
    tx.emit("node.joined", f"node {name} joined", node=name, id=node.id)
    return node


def all_nodes(tx: Tx) -> list[Node]:
    return [_node(r) for r in tx.all("SELECT * FROM nodes ORDER BY id")]


def find(tx: Tx, name: str) -> Node | None:
    row = tx.one("SELECT * FROM nodes WHERE name = ?", name)
    return _node(row) if row else None


def by_name(tx: Tx, name: str, *, field: str | None = "name") -> Node:
    node = find(tx, name)
    if node is None:
        known = ", ".join(n.name for n in all_nodes(tx)) or "none"
        raise NotFound(f"no node named {name}; known: {known}", field=field)
    return node


def by_id(tx: Tx, node: int) -> Node:
    row = tx.one("SELECT * FROM nodes WHERE id = ?", node)
    if row is None:
        raise NotFound(f"no node with id {node}", field="node")
    return _node(row)


def name_of(tx: Tx, node: int | None) -> str | None:
    row = tx.one("SELECT name FROM nodes WHERE id = ?", node) if node is not None else None
    return str(row["name"]) if row else None


def seen(tx: Tx, node: int, resources: Resources) -> None:
    tx.execute(
        "UPDATE nodes SET cpus = ?, memory = ?, memory_free = ?, disk_free = ?, load = ?, last_seen = ? WHERE id = ?",
        resources.cpus,
        resources.memory,
        resources.memory_free,
        resources.disk_free,
        resources.load,
        tx.now,
        node,
    )


def registered(tx: Tx, node: int, *, link: str, tunnel: str, software: str, resources: Resources) -> Node:
    tx.execute("UPDATE nodes SET link = ?, tunnel = ?, software = ? WHERE id = ?", link, tunnel, software, node)
    seen(tx, node, resources)
    return by_id(tx, node)


def cordon(tx: Tx, node: Node, on: bool) -> None:
    if node.cordoned != on:
        tx.execute("UPDATE nodes SET cordoned = ? WHERE id = ?", int(on), node.id)
        word = "cordoned" if on else "uncordoned"
        tx.emit(f"node.{word}", f"node {node.name} is {word}", node=node.name)


def remove(tx: Tx, name: str) -> Node:
    """Forget a node; its certificate names nobody from then on. :class:`Conflict` while guests are bound to it."""
    node = by_name(tx, name)
    held = [r["name"] for r in tx.all("SELECT name FROM guests WHERE node = ? ORDER BY name", node.id)]
    if held:
        raise Conflict(f"node {name} holds guests: {', '.join(held)}; drain it or remove them first", field="name")
    busy = tx.one("SELECT id FROM migrations WHERE decision = 'pending' AND ? IN (source, target)", node.id)
    if busy:
        raise Conflict(f"node {name} takes part in migration {busy['id']}", field="name")
    tx.execute("DELETE FROM nodes WHERE id = ?", node.id)
    tx.emit("node.removed", f"node {name} was removed", node=name, id=node.id)
    return node
