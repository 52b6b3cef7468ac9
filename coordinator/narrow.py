"""Telling people of paths that are narrower than the packets that are to go there: when a path is found to be, and when
a guest has moved to where one begins. New starts fit by themselves (``Cluster.mtu``)."""

from __future__ import annotations

from coordinator.model import Guest, Network
from coordinator.paths import Paths
from coordinator.store import attachments, guests, networks, nodes
from coordinator.store.db import Tx


def tell_path(tx: Tx, node: int, peer: int, mtu: int) -> None:
    """The path between two nodes carries ``mtu``: an event for each network with ports at both that has more."""
    for network in networks.all_networks(tx):
        if network.mtu > mtu and {node, peer} <= networks.nodes_of(tx, network.name):
            _tell_network(tx, network, node, peer, mtu)


def _tell_network(tx: Tx, network: Network, node: int, peer: int, mtu: int) -> None:
    here, there = nodes.name_of(tx, node), nodes.name_of(tx, peer)
    both = guests.on_node(tx, node) + guests.on_node(tx, peer)
    large = sorted(g.name for g in both if any(nic.network == network.name and nic.mtu > mtu for nic in g.spec.nics))
    taps = sorted(
        f"{p.local} on {nodes.name_of(tx, p.node)}"
        for p in attachments.all_ports(tx)
        if p.kind == "tap" and p.network == network.name and p.node in (node, peer)
    )
    text = (
        f"the path from {here} to {there} carries packets of {mtu} bytes, network {network.name} has {network.mtu}:"
        f" larger ones are lost between them. Guests that start from now on have {mtu}"
    )
    if large:
        text += f"; to be stopped and started: {', '.join(large)}"
    if taps:
        text += f"; to be made smaller by their hosts: {', '.join(taps)}"
    tx.emit("net.mtu", text, node=here, network=network.name, peer=there, mtu=mtu, guests=large, taps=taps)


def tell_guest(tx: Tx, paths: Paths, guest: Guest) -> None:
    """The guest has come to its node: an event for each NIC whose packets are too large for a path from there."""
    for nic in guest.spec.nics:
        found = paths.narrowest(networks.nodes_of(tx, nic.network), nic.mtu)
        if found is None or guest.node not in (found.node, found.peer):
            continue
        here, there = nodes.name_of(tx, found.node), nodes.name_of(tx, found.peer)
        tx.emit(
            "net.mtu",
            f"{guest.name} in network {nic.network} has packets of {nic.mtu} bytes, the path from {here} to {there}"
            f" carries {found.mtu}: larger ones are lost between them until it is stopped and started",
            guest=guest.name,
            node=here,
            generation=guest.generation,
            network=nic.network,
            peer=there,
            mtu=found.mtu,
        )
