"""Addresses, MACs, VNIs."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import ipam
from coordinator.errors import Conflict, Full, Invalid


def test_the_lowest_free_address_is_given_and_the_first_is_kept_for_a_router() -> None:
    assert ipam.choose_address("10.0.0.0/24", []) == "10.0.0.2/24"
    assert ipam.choose_address("10.0.0.0/24", ["10.0.0.2/24", "10.0.0.4/24"]) == "10.0.0.3/24"


@given(st.sets(st.integers(2, 14)))
def test_addresses_are_unique_until_the_subnet_is_full(taken: set[int]) -> None:
    present = [f"10.9.0.{n}/28" for n in taken]
    if len(taken) == 13:
        with pytest.raises(Full, match="all 13"):
            ipam.choose_address("10.9.0.0/28", present)
        return
    given_one = ipam.choose_address("10.9.0.0/28", present)
    assert given_one not in present
    interface = ipaddress.IPv4Interface(given_one)
    assert interface.ip in interface.network
    assert interface.ip not in (interface.network.network_address, interface.network.broadcast_address)


@given(st.text(alphabet="0123456789abcdef-g", min_size=1, max_size=20), st.integers(0, 7))
def test_macs_are_local_unicast_and_avoid_those_taken(guest: str, index: int) -> None:
    first = ipam.choose_mac(guest, index, [])
    octets = bytes.fromhex(first.replace(":", ""))
    assert octets[0] & 3 == 2
    assert first == ipam.choose_mac(guest, index, [])
    assert ipam.choose_mac(guest, index, [first]) != first


def test_subnets_do_not_overlap() -> None:
    assert ipam.choose_subnet(["10.0.0.0/24", "10.0.2.0/23"]) == "10.0.1.0/24"
    with pytest.raises(Full):
        ipam.choose_subnet(["10.0.0.0/8"])
    with pytest.raises(Conflict, match="network lan"):
        ipam.check_overlap("10.0.0.128/25", {"lan": "10.0.0.0/24"})
    ipam.check_overlap("10.0.1.0/24", {"lan": "10.0.0.0/24"})


@pytest.mark.parametrize("text", ["", "10.0.0.1/24", "10.0.0.0/30", "10.0.0.0/7", "fe80::/64", "127.0.0.0/8", "x"])
def test_bad_subnets_name_the_field(text: str) -> None:
    with pytest.raises(Invalid) as info:
        ipam.parse_subnet(text)
    assert info.value.field == "subnet"


def test_vnis() -> None:
    assert ipam.choose_vni([]) == 1
    assert ipam.choose_vni([1, 2, 4]) == 3
