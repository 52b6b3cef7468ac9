"""Attached ports: which host interface or program of which node is in which network."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from coordinator.errors import Conflict, Exists, NotFound
from coordinator.model import AttachedPort, AttachmentKind
from coordinator.store import journal, networks, nodes
from coordinator.store.db import Tx
from protocol.messages import Attachment, PortSettings

MOST_PER_NODE = 1024
_NONE = PortSettings()


def _port(row: sqlite3.Row) -> AttachedPort:
    values: dict[str, Any] = {key: row[key] for key in row.keys()}  # noqa: SIM118  (iterating a Row gives values)
    values["settings"] = msgspec.json.decode(values["settings"], type=PortSettings)
    return AttachedPort(**values)


def all_ports(tx: Tx) -> list[AttachedPort]:
    return [_port(r) for r in tx.all("SELECT * FROM attachments ORDER BY created, id")]


def on_node(tx: Tx, node: int) -> list[Attachment]:
    """As the node is told them."""
    sql = "SELECT a.*, n.vni, n.mtu FROM attachments a JOIN networks n ON n.name = a.network WHERE a.node = ?"
    return [
        Attachment(
            id=r["id"],
            network=r["network"],
            vni=r["vni"],
            mtu=r["mtu"],
            kind=r["kind"],
            local=r["local"],
            remote=r["remote"],
        )
        for r in tx.all(f"{sql} ORDER BY a.created, a.id", node)
    ]


def create(
    tx: Tx,
    *,
    node: int,
    network: str,
    kind: AttachmentKind,
    local: str,
    remote: str,
    settings: PortSettings = _NONE,
) -> AttachedPort:
    """:class:`Exists` while the node has this one already."""
    networks.by_name(tx, network, field="network")
    name = nodes.by_id(tx, node).name
    old = tx.one("SELECT network FROM attachments WHERE node = ? AND kind = ? AND local = ?", node, kind, local)
    if old is not None:
        raise Exists(f"{local} of node {name} is attached to network {old['network']} already", field="local")
    count = tx.one("SELECT count(*) AS n FROM attachments WHERE node = ?", node)
    if count is not None and count["n"] >= MOST_PER_NODE:
        raise Conflict(f"node {name} has {MOST_PER_NODE} attached ports, the most that there may be", field="on")
    ident = journal.new_id("p")
    row = (
        "INSERT INTO attachments (id, node, network, kind, local, remote, created, settings)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    )
    text = msgspec.json.encode(settings).decode()
    tx.execute(row, ident, node, network, kind, local, remote, tx.now, text)
    if settings != _NONE:
        networks.rules_changed(tx)
    tx.emit("port.attached", f"{local} of node {name} is in network {network}", node=name, network=network, port=ident)
    return by_id(tx, ident)


def by_id(tx: Tx, ident: str) -> AttachedPort:
    row = tx.one("SELECT * FROM attachments WHERE id = ?", ident)
    if row is None:
        raise NotFound(f"no attached port {ident}; wherry ports lists them", field="id")
    return _port(row)


def set_settings(tx: Tx, ident: str, settings: PortSettings) -> None:
    tx.execute("UPDATE attachments SET settings = ? WHERE id = ?", msgspec.json.encode(settings).decode(), ident)


def remove(tx: Tx, ident: str) -> AttachedPort:
    port = by_id(tx, ident)
    tx.execute("DELETE FROM attachments WHERE id = ?", ident)
    if port.settings != _NONE:
        networks.rules_changed(tx)
    name = nodes.name_of(tx, port.node) or ""
    tx.emit("port.detached", f"{port.local} of node {name} left network {port.network}", node=name, port=ident)
    return port
