"""Networks and the addresses in them."""

from __future__ import annotations

import sqlite3

from coordinator import ipam
from coordinator.errors import Conflict, Exists, Invalid, NotFound
from coordinator.model import Network
from coordinator.store.db import Tx
from protocol.messages import NetworkInfo, Nic

DEFAULT_NAME = "lan"
DEFAULT_SUBNET = "10.0.0.0/24"
DEFAULT_MTU = 1400


def _network(row: sqlite3.Row) -> Network:
    return Network(row["name"], row["vni"], row["subnet"], row["mtu"], row["created"])


def all_networks(tx: Tx) -> list[Network]:
    return [_network(r) for r in tx.all("SELECT * FROM networks ORDER BY name")]


def by_name(tx: Tx, name: str, *, field: str = "name") -> Network:
    row = tx.one("SELECT * FROM networks WHERE name = ?", name)
    if row is None:
        known = ", ".join(n.name for n in all_networks(tx)) or "none"
        raise NotFound(f"no network named {name}; known: {known}", field=field)
    return _network(row)


def create(tx: Tx, name: str, *, subnet: str | None = None, mtu: int = DEFAULT_MTU) -> Network:
    """A network with a VNI of its own; without ``subnet`` the lowest free /24 of 10.0.0.0/8."""
    present = all_networks(tx)
    if any(n.name == name for n in present):
        raise Exists(f"a network named {name} exists", field="name")
    if not 576 <= mtu <= 9000:
        raise Invalid(f"mtu {mtu}: must be 576 to 9000", field="mtu")
    taken = {n.name: n.subnet for n in present}
    if subnet is None:
        subnet = ipam.choose_subnet(taken.values())
    ipam.check_overlap(subnet, taken)
    vni = ipam.choose_vni([n.vni for n in present])
    tx.execute("INSERT INTO networks VALUES (?, ?, ?, ?, ?)", name, vni, subnet, mtu, tx.now)
    tx.emit("network.created", f"network {name} ({subnet}, VNI {vni})", network=name, subnet=subnet, vni=vni)
    return by_name(tx, name)


def remove(tx: Tx, name: str) -> Network:
    network = by_name(tx, name)
    users = guests_in(tx, name)
    if users:
        raise Conflict(f"network {name} is used by {', '.join(users)}", field="name")
    ports = [str(r["local"]) for r in tx.all("SELECT local FROM attachments WHERE network = ? ORDER BY local", name)]
    if ports:
        raise Conflict(f"network {name} has attached ports: {', '.join(ports)}; detach them first", field="name")
    tx.execute("DELETE FROM networks WHERE name = ?", name)
    tx.emit("network.removed", f"network {name} was removed", network=name)
    return network


def guests_in(tx: Tx, name: str) -> list[str]:
    sql = "SELECT DISTINCT g.name FROM nics n JOIN guests g ON g.id = n.guest WHERE n.network = ? ORDER BY g.name"
    return [str(r["name"]) for r in tx.all(sql, name)]


def allocate(tx: Tx, guest: str, names: list[str]) -> list[Nic]:
    """Choose MAC and address for each NIC of a new guest; :func:`keep` writes them once the guest's row stands."""
    macs = {str(r["mac"]) for r in tx.all("SELECT mac FROM nics")}
    nics: list[Nic] = []
    for position, name in enumerate(names):
        network = by_name(tx, name, field="networks")
        taken = [str(r["address"]) for r in tx.all("SELECT address FROM nics WHERE network = ?", name)]
        taken += [n.address for n in nics if n.network == name]
        mac = ipam.choose_mac(guest, position, macs)
        macs.add(mac)
        address = ipam.choose_address(network.subnet, taken)
        nics.append(Nic(network=name, vni=network.vni, mac=mac, address=address, mtu=network.mtu))
    return nics


def keep(tx: Tx, guest: str, nics: list[Nic]) -> None:
    for position, nic in enumerate(nics):
        tx.execute("INSERT INTO nics VALUES (?, ?, ?, ?, ?)", guest, position, nic.network, nic.mac, nic.address)


def infos(tx: Tx) -> list[NetworkInfo]:
    return [NetworkInfo(name=n.name, vni=n.vni, subnet=n.subnet, mtu=n.mtu) for n in all_networks(tx)]
