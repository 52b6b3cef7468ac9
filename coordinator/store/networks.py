"""Networks and the addresses in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from coordinator import ipam
from coordinator.errors import Conflict, Exists, Invalid, NotFound
from coordinator.model import Network
from coordinator.store import meta
from coordinator.store.db import Tx
from protocol.messages import NetworkInfo, Nic, PortSettings

DEFAULT_NAME = "lan"
DEFAULT_SUBNET = "10.0.0.0/24"
DEFAULT_MTU = 1400
STORM = 10000
RULES = "rules"  # the counter of store/rules.py


def _network(row: sqlite3.Row) -> Network:
    return Network(
        name=row["name"],
        vni=row["vni"],
        subnet=row["subnet"],
        mtu=row["mtu"],
        created=row["created"],
        stations=row["stations"],
        storm=row["storm"],
        proxy=bool(row["proxy"]),
        bound=bool(row["bound"]),
    )


def all_networks(tx: Tx) -> list[Network]:
    return [_network(r) for r in tx.all("SELECT * FROM networks ORDER BY name")]


def by_name(tx: Tx, name: str, *, field: str = "name") -> Network:
    row = tx.one("SELECT * FROM networks WHERE name = ?", name)
    if row is None:
        known = ", ".join(n.name for n in all_networks(tx)) or "none"
        raise NotFound(f"no network named {name}; known: {known}", field=field)
    return _network(row)


def rules_changed(tx: Tx) -> None:
    """What nodes are told of networks and ports is another list from here on."""
    meta.bump(tx, RULES)


def create(
    tx: Tx,
    name: str,
    *,
    subnet: str | None = None,
    mtu: int = DEFAULT_MTU,
    stations: int = 0,
    storm: int = STORM,
    proxy: bool = True,
    bound: bool = False,
) -> Network:
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
    columns = "name, vni, subnet, mtu, created, stations, storm, proxy, bound"
    row = f"INSERT INTO networks ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    tx.execute(row, name, vni, subnet, mtu, tx.now, stations, storm, proxy, bound)
    rules_changed(tx)
    tx.emit("network.created", f"network {name} ({subnet}, VNI {vni})", network=name, subnet=subnet, vni=vni)
    return by_name(tx, name)


def change(
    tx: Tx,
    name: str,
    *,
    mtu: int | None = None,
    stations: int | None = None,
    storm: int | None = None,
    proxy: bool | None = None,
    bound: bool | None = None,
) -> Network:
    """None: as it is. A smaller MTU holds for guests that start from now on; a larger one is :class:`Conflict` while
    the network is in use, because the switches that have it keep the MTU that it had."""
    old = by_name(tx, name)
    if mtu is not None and mtu > old.mtu and (users := guests_in(tx, name) + attached_to(tx, name)):
        raise Conflict(
            f"mtu {mtu}: network {name} has {old.mtu} and is used by {', '.join(users)}; it can only become smaller",
            field="mtu",
        )
    given = {"mtu": mtu, "stations": stations, "storm": storm, "proxy": proxy, "bound": bound}
    new = {key: value for key, value in given.items() if value is not None and value != getattr(old, key)}
    if new:
        for key, value in new.items():
            tx.execute(f"UPDATE networks SET {key} = ? WHERE name = ?", value, name)
        rules_changed(tx)
        told = ", ".join(f"{key} {_word(value)}" for key, value in new.items())
        data: dict[str, Any] = dict(new)
        tx.emit("network.set", f"network {name}: {told}", network=name, **data)
    return by_name(tx, name)


def _word(value: int) -> str:
    return str(value) if not isinstance(value, bool) else "on" if value else "off"


def attached_to(tx: Tx, name: str) -> list[str]:
    return [str(r["local"]) for r in tx.all("SELECT local FROM attachments WHERE network = ? ORDER BY local", name)]


def nodes_of(tx: Tx, name: str) -> set[int]:
    """The nodes that have ports in a network now."""
    sql = (
        "SELECT g.node FROM nics n JOIN guests g ON g.id = n.guest WHERE n.network = ?1 AND g.node IS NOT NULL"
        " AND g.state NOT IN ('stopped', 'crashed') UNION SELECT node FROM attachments WHERE network = ?1"
    )
    return {int(r["node"]) for r in tx.all(sql, name)}


def remove(tx: Tx, name: str) -> Network:
    network = by_name(tx, name)
    users = guests_in(tx, name)
    if users:
        raise Conflict(f"network {name} is used by {', '.join(users)}", field="name")
    ports = attached_to(tx, name)
    if ports:
        raise Conflict(f"network {name} has attached ports: {', '.join(ports)}; detach them first", field="name")
    tx.execute("DELETE FROM networks WHERE name = ?", name)
    rules_changed(tx)
    tx.emit("network.removed", f"network {name} was removed", network=name)
    return network


def guests_in(tx: Tx, name: str) -> list[str]:
    sql = "SELECT DISTINCT g.name FROM nics n JOIN guests g ON g.id = n.guest WHERE n.network = ? ORDER BY g.name"
    return [str(r["name"]) for r in tx.all(sql, name)]


def allocate(tx: Tx, guest: str, wishes: Sequence[tuple[str, PortSettings]]) -> list[Nic]:
    """Choose MAC and address for each NIC of a new guest, wished for by network and settings; :func:`keep` writes them
    once the guest's row stands."""
    macs = {str(r["mac"]) for r in tx.all("SELECT mac FROM nics")}
    nics: list[Nic] = []
    for position, (name, settings) in enumerate(wishes):
        network = by_name(tx, name, field="networks")
        taken = [str(r["address"]) for r in tx.all("SELECT address FROM nics WHERE network = ?", name)]
        taken += [n.address for n in nics if n.network == name]
        mac = ipam.choose_mac(guest, position, macs)
        macs.add(mac)
        address = ipam.choose_address(network.subnet, taken)
        nics.append(Nic(network=name, vni=network.vni, mac=mac, address=address, mtu=network.mtu, settings=settings))
    return nics


def keep(tx: Tx, guest: str, nics: list[Nic]) -> None:
    if any(nic.settings != PortSettings() for nic in nics):
        rules_changed(tx)
    for position, nic in enumerate(nics):
        tx.execute("INSERT INTO nics VALUES (?, ?, ?, ?, ?)", guest, position, nic.network, nic.mac, nic.address)


def infos(tx: Tx) -> list[NetworkInfo]:
    return [NetworkInfo(name=n.name, vni=n.vni, subnet=n.subnet, mtu=n.mtu) for n in all_networks(tx)]
