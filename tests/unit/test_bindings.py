"""Addresses that were given to guests, on their way to the switches of all nodes."""

from __future__ import annotations

import pytest

from node.bindings import Bindings
from node.core import CoreInvalid
from node.switchctl import Switch
from tests.unit.test_mesh import VNI, FakeGuest, directory, hosts, linked, until

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
IP, SECOND = bytes([10, 0, 0, 2]), bytes([10, 0, 0, 3])


class Told(Switch):
    """A real one that remembers what is bound."""

    def __init__(self, node: int = 1) -> None:
        super().__init__(node)
        self.bound: dict[tuple[int, bytes], str] = {}

    def bind_address(self, vni: int, mac: str, ip: bytes) -> None:
        super().bind_address(vni, mac, ip)
        self.bound[vni, ip] = mac

    def unbind_address(self, vni: int, mac: str, ip: bytes) -> None:
        super().unbind_address(vni, mac, ip)
        if self.bound.get((vni, ip)) == mac:
            del self.bound[vni, ip]


def test_a_binding_stands_while_somebody_says_so() -> None:
    with Told() as switch:
        switch.add_network(VNI)
        bindings = Bindings(switch)
        bindings.put(VNI, MAC, "10.0.0.2", "there")
        bindings.put(VNI, MAC, "10.0.0.2", "here")  # it comes to us
        bindings.drop(VNI, MAC, "there")
        assert switch.bound == {(VNI, IP): MAC}
        bindings.drop(VNI, MAC, "here")
        bindings.drop(VNI, MAC, "here")
        assert switch.bound == {}


def test_an_address_that_goes_on_to_another_guest() -> None:
    with Told() as switch:
        switch.add_network(VNI)
        bindings = Bindings(switch)
        bindings.put(VNI, MAC, "10.0.0.2", "here")
        bindings.put(VNI, OTHER, "10.0.0.2", "there")
        bindings.drop(VNI, MAC, "here")
        assert switch.bound == {(VNI, IP): OTHER}
        bindings.put(VNI, OTHER, "10.0.0.3", "there")
        assert switch.bound == {(VNI, SECOND): OTHER}


@pytest.mark.parametrize("address", ["", "fe80::1", "10.0.0.2/24", "nonsense"])
def test_what_binds_nothing(address: str) -> None:
    with Told() as switch:
        switch.add_network(VNI)
        bindings = Bindings(switch)
        bindings.put(VNI, MAC, address, "here")
        bindings.put(VNI + 1, MAC, "10.0.0.2", "here")  # no such network: logged
        bindings.drop(VNI, MAC, "here")
        assert switch.bound == {}


def test_the_switch_refuses_what_is_no_address() -> None:
    with Told() as switch, pytest.raises(CoreInvalid):
        switch.bind_address(VNI, MAC, b"123")


async def test_a_guest_s_address_is_known_everywhere_and_follows_it() -> None:
    async with hosts(2) as (a, b), linked(a, b):
        directory([a, b])
        here, there = FakeGuest("g1", MAC, 1), FakeGuest("g2", OTHER, 1)
        a.mesh.ports.attach(here.guest, enabled=True)
        b.mesh.ports.attach(there.guest, enabled=True)

        def known(mac: str) -> list[bool]:
            return [(VNI, mac) in host.mesh._bindings._known for host in (a, b)]

        await until(lambda: known(MAC) == [True, True] == known(OTHER))
        moved = FakeGuest("g1", MAC, 2)
        b.mesh.ports.attach(moved.guest, enabled=False)
        b.mesh.ports.enable(moved.guest, True)
        a.mesh.ports.detach(here.guest)  # a's last port: it needs no network any more
        assert known(MAC) == [False, True]
        b.mesh.ports.detach(moved.guest)
        await until(lambda: known(MAC) == [False, False])  # when a's withdrawal has come, too
        assert known(OTHER) == [False, True]
