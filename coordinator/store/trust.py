"""Which CA each node follows, as it said itself, and the step of a rotation that was written down last."""

from __future__ import annotations

from coordinator.model import Node
from coordinator.store import meta, nodes
from coordinator.store.db import Tx


def heard(tx: Tx, node: int, *, issuer: str, roots: list[str]) -> bool:
    """Keep a node's word; False if it said the same before, or is no node any more."""
    text = " ".join(roots)
    if nodes.name_of(tx, node) is None:
        return False
    row = tx.one("SELECT issuer, roots, dropped FROM trust WHERE node = ?", node)
    if row is not None and (row["issuer"], row["roots"], row["dropped"]) == (issuer, text, 0):
        return False
    tx.execute(
        "INSERT INTO trust (node, issuer, roots, dropped) VALUES (?, ?, ?, 0)"
        " ON CONFLICT (node) DO UPDATE SET issuer = excluded.issuer, roots = excluded.roots, dropped = 0",
        node,
        issuer,
        text,
    )
    return True


def behind(tx: Tx, issuer: str) -> list[Node]:
    """Nodes that have not said that their certificate is of root ``issuer`` and that they trust it."""
    good = {
        row["node"]
        for row in tx.all("SELECT node, roots FROM trust WHERE issuer = ? AND dropped = 0", issuer)
        if issuer in row["roots"].split()
    }
    return [node for node in nodes.all_nodes(tx) if node.id not in good]


def readmit(tx: Tx, node: Node) -> Node | None:
    """Let a dropped node be itself again; None for a node that was not dropped."""
    if tx.execute("UPDATE trust SET dropped = 0 WHERE node = ? AND dropped = 1", node.id).rowcount == 0:
        return None
    tx.emit("node.joined", f"node {node.name} joined again", node=node.name, id=node.id)
    return node


def retired(tx: Tx) -> list[str]:
    """Fingerprints of the roots that this cluster had before."""
    return (meta.get(tx, "ca.retired") or "").split()


def is_recorded(tx: Tx, *, signing: str, old: str | None) -> bool:
    """Is the step that the CA's files are at written down?"""
    return (meta.get(tx, "ca.signing"), meta.get(tx, "ca.old") or None) == (signing, old)


def record(tx: Tx, *, signing: str, old: str | None) -> list[Node]:
    """Write down where the CA stands, once per step, with its event; returns the nodes that this step dropped.

    The CA's files are the truth and change first, so after a kill between the two this is simply done again.
    """
    if is_recorded(tx, signing=signing, old=old):
        return []
    was_signing, was_old = meta.get(tx, "ca.signing"), meta.get(tx, "ca.old") or None
    meta.put(tx, "ca.signing", signing)
    meta.put(tx, "ca.old", old or "")
    gone = [root for root in (was_signing, was_old) if root and root not in (signing, old)]
    if old is not None:
        tx.emit("ca.overlap", "a new CA signs; the old one is trusted until it is finished", signing=signing, old=old)
    if not gone:
        return []
    meta.put(tx, "ca.retired", " ".join(dict.fromkeys([*retired(tx), *gone])))
    dropped = behind(tx, signing)
    for node in dropped:
        tx.execute(
            "INSERT INTO trust (node, dropped) VALUES (?, 1) ON CONFLICT (node) DO UPDATE SET dropped = 1", node.id
        )
    names = [node.name for node in dropped]
    words = f"; dropped, must join again: {', '.join(names)}" if names else ""
    tx.emit("ca.finished", f"the old CA is not trusted any more{words}", signing=signing, dropped=names)
    return dropped
