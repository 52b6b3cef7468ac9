"""Addresses, MACs and VNIs: who gets which. Pure functions of what is taken already.

A network's first host address is kept for a router, so guests start at the second. The lowest free one is given: short
and predictable, as people type these. MACs are locally administered unicast (IEEE 802: bit 1 set, bit 0 clear in the
first octet) and derive from the guest's id, so that they do not depend on the order of calls.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection

from coordinator.errors import Conflict, Full, Invalid

MAX_VNI = 0xFFFFFF
_POOL = ipaddress.IPv4Network("10.0.0.0/8")


def parse_subnet(text: str) -> ipaddress.IPv4Network:
    """A subnet with room for a router and at least one guest; :class:`Invalid` names the field ``subnet``."""
    try:
        subnet = ipaddress.IPv4Network(text, strict=True)
    except ValueError as exc:
        raise Invalid(f"subnet {text!r}: {exc}; give an IPv4 network such as 10.1.0.0/24", field="subnet") from None
    if not 8 <= subnet.prefixlen <= 29:
        raise Invalid(f"subnet {text!r}: the prefix must be /8 to /29", field="subnet")
    if subnet.is_multicast or subnet.is_loopback or subnet.is_unspecified or subnet.is_link_local:
        raise Invalid(f"subnet {text!r} is reserved; give a private range", field="subnet")
    return subnet


def choose_subnet(taken: Collection[str]) -> str:
    """The lowest free /24 of 10.0.0.0/8."""
    used = [ipaddress.IPv4Network(t) for t in taken]
    for candidate in _POOL.subnets(new_prefix=24):
        if not any(candidate.overlaps(u) for u in used):
            return str(candidate)
    raise Full("every /24 of 10.0.0.0/8 is taken; give --subnet", field="subnet")


def check_overlap(subnet: str, taken: dict[str, str]) -> None:
    """Refuse a subnet that overlaps another: a guest in both could not tell them apart. ``taken``: name → subnet."""
    new = parse_subnet(subnet)
    for name, other in taken.items():
        if new.overlaps(ipaddress.IPv4Network(other)):
            raise Conflict(f"subnet {subnet} overlaps {other} of network {name}", field="subnet")


def choose_vni(taken: Collection[int]) -> int:
    """The lowest free VNI."""
    used = set(taken)
    for vni in range(1, MAX_VNI + 1):
        if vni not in used:
            return vni
    raise Full("all 16777215 VNIs are taken", field="vni")


def choose_address(subnet: str, taken: Collection[str]) -> str:
    """The lowest free ``ADDRESS/PREFIX`` of ``subnet``; ``taken`` holds values of the same form."""
    net = ipaddress.IPv4Network(subnet)
    used = {int(ipaddress.IPv4Interface(t).ip) for t in taken}
    first, last = int(net.network_address) + 2, int(net.broadcast_address) - 1
    for value in range(first, last + 1):
        if value not in used:
            return f"{ipaddress.IPv4Address(value)}/{net.prefixlen}"
    raise Full(f"no free address in {subnet}: all {last - first + 1} are taken", field="networks")


def choose_mac(guest: str, index: int, taken: Collection[str]) -> str:
    """A MAC for the guest's NIC ``index`` that is not in ``taken``."""
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{guest}/{index}/{attempt}".encode()).digest()
        octets = bytes([(digest[0] & 0xFC) | 0x02]) + digest[1:6]
        mac = octets.hex(":")
        if mac not in taken:
            return mac
        attempt += 1
