"""node.switchctl: addresses, typed errors, events and their end, the table."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import fields

import pytest
import trio
import trio.testing

from node.core import CoreExists, CoreFull, CoreInvalid, CoreNotFound, CoreStateError, ffi
from node.switchctl import Counters, Switch, SwitchEventKind, best_cipher, mac_bytes, mac_text, sockaddr

MAC = "02:00:00:00:00:01"


@pytest.fixture
def switch():
    with Switch(1) as made:
        made.add_network(7)
        yield made


def seqpacket() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def test_macs() -> None:
    assert mac_text(mac_bytes(MAC)) == MAC
    for bad in (
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:0g",
        "020000000001",
        "02:00:00:00:00:001",
        "2:0:0:0:0:1",
        "é" * 6,
    ):
        with pytest.raises(CoreInvalid) as refused:
            mac_bytes(bad)
        assert refused.value.field == "mac"


def test_sockaddr_is_the_kernels() -> None:
    assert sockaddr("10.1.2.3", 7460) == struct.pack("=H", socket.AF_INET) + struct.pack("!H4B8x", 7460, 10, 1, 2, 3)
    v6 = sockaddr("fe80::1%lo", 7460)
    assert len(v6) == 28
    assert struct.unpack("=I", v6[24:])[0] == socket.if_nametoindex("lo")
    for host, port in (("localhost", 1), ("10.1.2.3", 0), ("10.1.2.3", 65536), ("fe80::1%nosuchif", 1)):
        with pytest.raises(CoreInvalid) as refused:
            sockaddr(host, port)
        assert refused.value.field == "addr"


def test_errors_are_typed(switch: Switch) -> None:
    ours, theirs = seqpacket()
    with ours, theirs:
        with pytest.raises(CoreExists):
            switch.add_network(7)
        with pytest.raises(CoreInvalid, match="mtu"):
            switch.add_network(8, 100)
        with pytest.raises(CoreNotFound):
            switch.add_tap_port(1, 99, theirs.fileno())
        switch.add_tap_port(1, 7, theirs.fileno())
        with pytest.raises(CoreExists):
            switch.add_tap_port(1, 7, theirs.fileno())
        with pytest.raises(CoreStateError):
            switch.remove_network(7)
        with pytest.raises(CoreStateError):
            switch.announce(1)  # no MAC of its own
        with pytest.raises(CoreInvalid, match="node"):
            switch.set_peer(1)
        with pytest.raises(CoreNotFound):
            switch.set_tx_key(2, 1, 0, bytes(32))
        with pytest.raises(CoreInvalid, match="key"):
            switch.set_tx_key(2, 1, 0, b"short")
        with pytest.raises(CoreInvalid, match="to_switch_event"):
            switch.add_ring_port(
                2, 7, ring_fd=ours.fileno(), to_switch_event=ours.fileno(), to_guest_event=ours.fileno(), mac=MAC
            )
    switch.remove_port(1)
    switch.remove_network(7)


def test_a_refused_switch_leaves_the_socket_to_its_caller() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        with pytest.raises(CoreInvalid, match="node_id"):
            Switch(0, udp)
        assert udp.getsockname()[1] != 0
        with Switch(1, udp):
            assert udp.fileno() == -1
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, pytest.raises(CoreInvalid, match="udp_fd"):
        Switch(1, tcp)


def test_workers_share_the_address_of_the_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        with Switch(1, udp, workers=3) as switch:
            assert switch.workers == 3
    with pytest.raises(CoreInvalid, match="workers"):
        Switch(1, None, workers=9)
    with Switch(1, None) as switch:
        assert switch.workers == 1


def test_descriptors_do_not_leak() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    def use() -> None:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        ours, theirs = seqpacket()
        with ours, theirs, Switch(1, udp) as made:
            made.add_network(7)
            made.add_tap_port(1, 7, theirs.fileno())
            made.remove_port(1)
            made.add_tap_port(1, 7, theirs.fileno())

    use()
    before = count()
    for _ in range(5):
        use()
    assert count() == before


def test_closed() -> None:
    switch = Switch(1)
    switch.close()
    switch.close()
    with pytest.raises(CoreStateError):
        switch.counters()


def test_counters_are_those_of_the_core_and_its_drops_stand_together() -> None:
    names = [name for name, _ in ffi.typeof("wh_counters").fields]
    assert [field.name for field in fields(Counters)] == names
    drops = [name.startswith("drop_") for name in names]
    assert sorted(drops) == drops  # all of them behind the others: what a trace looks through for its reason


async def test_events_end_when_the_switch_is_closed() -> None:
    switch, kinds, ended = Switch(1), [], trio.Event()
    switch.add_network(7)
    ours, theirs = seqpacket()
    switch.add_tap_port(1, 7, theirs.fileno())
    seen = trio.Event()

    async def consume() -> None:
        async for event in switch.events():
            kinds.append(event.kind)
            seen.set()
        ended.set()

    with ours, theirs, trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            ours.send(bytes(6) + mac_bytes(MAC) + bytes(48))
            await seen.wait()
            await trio.testing.wait_all_tasks_blocked()
            switch.close()
            await ended.wait()
    assert kinds == [SwitchEventKind.MAC_LEARNED]


def test_table_larger_than_one_read(switch: Switch) -> None:
    macs = {f"02:00:00:00:{i >> 8:02x}:{i & 255:02x}" for i in range(1000)}
    for mac in macs:
        switch.set_mac(7, mac, 2)
    assert {(entry.mac, entry.node, entry.port, entry.is_static) for entry in switch.fdb(7)} == {
        (mac, 2, None, True) for mac in macs
    }
    for mac in macs:
        switch.remove_mac(7, mac)
    assert switch.fdb(7) == []
    with pytest.raises(CoreNotFound):
        switch.remove_mac(7, MAC)


def test_static_entries_are_bounded() -> None:
    with Switch(1, fdb_max=10) as made:
        made.add_network(7)
        for i in range(10):
            made.set_mac(7, f"02:00:00:00:00:{i:02x}", 2)
        with pytest.raises(CoreFull):
            made.set_mac(7, "02:00:00:00:01:00", 2)


def test_best_cipher_is_one_of_two() -> None:
    assert best_cipher() in (0, 1)
