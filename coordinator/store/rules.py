"""What networks, ports and tunnels let through, as nodes are told it: one list for the whole cluster, with a counter
that says whether a node has the present one.

A guest NIC's settings are in its guest's spec, so that they go wherever that goes; an attachment's are in its row.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from coordinator.errors import NotFound
from coordinator.model import AttachedPort, Guest
from coordinator.store import attachments, guests, meta, networks, nodes, tunnels
from coordinator.store.db import Tx
from protocol.messages import NetworkRule, Nic, PortRule, PortRules, PortSettings

_DEFAULT = PortSettings()


@dataclass(frozen=True, slots=True)
class PortRow:
    """A port that there shall be. ``node``: where it is now; None: nowhere yet."""

    key: str
    name: str
    network: str
    node: int | None
    settings: PortSettings
    guest: Guest | None = None
    attached: AttachedPort | None = None


def version(tx: Tx) -> int:
    return int(meta.get(tx, networks.RULES) or "0")


def all_rules(tx: Tx) -> tuple[int, PortRules]:
    """The counter and the list: all networks, and the ports that have settings of their own."""
    found = networks.all_networks(tx)
    told = [
        NetworkRule(vni=n.vni, mtu=n.mtu, stations=n.stations, storm=n.storm, proxy=n.proxy, bound=n.bound)
        for n in found
    ]
    ports = [PortRule(port=p.id, settings=p.settings) for p in attachments.all_ports(tx)]
    ports += [PortRule(port=n.mac, settings=n.settings) for g in guests.all_guests(tx) for n in g.spec.nics]
    return version(tx), PortRules(
        networks=told, ports=[p for p in ports if p.settings != _DEFAULT], rates=tunnels.told(tx)
    )


def port(tx: Tx, key: str) -> PortRow:
    """By a guest NIC's MAC or an attachment's id; :class:`NotFound` for anything else."""
    row = tx.one("SELECT guest, position FROM nics WHERE mac = ?", key)
    if row is not None:
        guest = guests.by_id(tx, row["guest"])
        nic = guest.spec.nics[row["position"]]
        return PortRow(key, guest.name, nic.network, guest.node, nic.settings, guest=guest)
    if tx.one("SELECT id FROM attachments WHERE id = ?", key) is None:
        raise NotFound(
            f"no port {key}: a guest's MAC or an attached port's id is wanted; wherry ports --json", field="id"
        )
    found = attachments.by_id(tx, key)
    return PortRow(key, found.local, found.network, found.node, found.settings, attached=found)


def change(tx: Tx, key: str, settings: PortSettings, *, told: str) -> PortRow:
    """``told``: the change in words, for the event."""
    found = port(tx, key)
    if settings == found.settings:
        return found
    if found.guest is not None:
        nics = [_with(nic, settings) if nic.mac == key else nic for nic in found.guest.spec.nics]
        guests.set_spec(tx, found.guest, msgspec.structs.replace(found.guest.spec, nics=nics))
    else:
        attachments.set_settings(tx, key, settings)
    networks.rules_changed(tx)
    tx.emit(
        "port.set",
        f"{found.name} in network {found.network}: {told}",
        guest=found.guest.name if found.guest else None,
        node=nodes.name_of(tx, found.node),
        port=key,
        network=found.network,
        settings=msgspec.to_builtins(settings),
    )
    return port(tx, key)


def _with(nic: Nic, settings: PortSettings) -> Nic:
    return msgspec.structs.replace(nic, settings=settings)
