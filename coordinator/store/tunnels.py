"""How fast nodes may send to one another: a node's rate for each of its tunnels, and others for single ones."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.errors import Invalid
from coordinator.store import networks, nodes
from coordinator.store.db import Tx
from protocol.messages import TunnelRate


@dataclass(frozen=True, slots=True)
class RateRow:
    """``peer`` None: each node that has no row of its own. ``rate``: bits of IP packets a second; 0: no bound."""

    node: int
    peer: int | None
    rate: int


def all_rates(tx: Tx) -> list[RateRow]:
    rows = tx.all("SELECT node, peer, rate FROM tunnel_rates ORDER BY node, ifnull(peer, 0)")
    return [RateRow(row["node"], row["peer"], row["rate"]) for row in rows]


def told(tx: Tx) -> list[TunnelRate]:
    """The same for nodes."""
    return [TunnelRate(node=row.node, to=row.peer or 0, rate=row.rate) for row in all_rates(tx)]


def set_rate(tx: Tx, node: str, peer: str | None, rate: int | None) -> None:
    """``rate`` None: the row goes. Raises :class:`NotFound` for a node, :class:`Invalid` if both are one."""
    at = nodes.by_name(tx, node, field="node")
    to = nodes.by_name(tx, peer, field="to") if peer is not None else None
    if to is not None and to.id == at.id:
        raise Invalid("there is no tunnel from a node to itself", field="to")
    peer_id = to.id if to else None
    had = tx.one("SELECT rate FROM tunnel_rates WHERE node = ? AND peer IS ?", at.id, peer_id)
    if (had["rate"] if had else None) == rate:
        return
    tx.execute("DELETE FROM tunnel_rates WHERE node = ? AND peer IS ?", at.id, peer_id)
    if rate is not None:
        tx.execute("INSERT INTO tunnel_rates (node, peer, rate) VALUES (?, ?, ?)", at.id, peer_id, rate)
    networks.rules_changed(tx)
    what = "no rate of its own" if rate is None else f"{rate} bit/s" if rate else "no bound"
    tx.emit("tunnel.rate", f"node {node} to {peer or 'each other node'}: {what}", node=node, to=peer, rate=rate)
