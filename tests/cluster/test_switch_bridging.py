"""What a switch does as a bridge beside others: VLANs at ports, reserved addresses, BPDUs, stations in two places."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest
import trio

from node.core import CoreInvalid
from node.switchctl import SwitchEventKind, mac_bytes
from tests.cluster.switches import BROADCAST, VNI, Node, Station, ethernet, event_of, nodes, tap_device, until


def tagged(dst: str, src: str, vid: int, tag: bytes) -> bytes:
    frame = ethernet(dst, src, tag)
    return frame[:12] + b"\x81\x00" + vid.to_bytes(2, "big") + frame[12:]


async def raw(station: Station) -> bytes:
    with trio.fail_after(5):
        return await station._socket.recv(10000)


async def test_vlans_over_two_nodes() -> None:
    async with nodes(2) as (one, two):
        access, other, trunk = one.station(1), one.station(2), two.station(3)
        one.switch.set_vlan(1, access=10)
        one.switch.set_vlan(2, access=20)
        two.switch.set_vlan(3, trunk=[10], native=20)
        await access.send(BROADCAST, b"ten")
        assert await raw(trunk) == tagged(BROADCAST, access.mac, 10, b"ten")
        await other.send(BROADCAST, b"twenty")  # the trunk's native VLAN; access never sees it
        assert await raw(trunk) == ethernet(BROADCAST, other.mac, b"twenty")
        await trunk._socket.send(tagged(access.mac, trunk.mac, 10, b"back"))
        assert await raw(access) == ethernet(access.mac, trunk.mac, b"back")
        await trunk._socket.send(tagged(BROADCAST, trunk.mac, 30, b"none of its own"))
        await until(lambda: two.switch.port_counters(3).drop_vlan == 1)
        await access._socket.send(tagged(BROADCAST, access.mac, 20, b"hop"))
        await until(lambda: one.switch.port_counters(1).drop_vlan == 2)  # this one, and the flooded one of VLAN 20
        assert {(row.mac, row.vid) for row in one.switch.fdb(VNI)} == {
            (access.mac, 10), (other.mac, 20), (trunk.mac, 10),
        }  # fmt: skip
        with pytest.raises(CoreInvalid):
            one.switch.set_vlan(1, access=4095)


async def test_reserved_addresses_stay_here_and_a_bpdu_shuts_a_guarded_port() -> None:
    async with nodes(1) as (node,):
        left, right = node.station(1), node.station(2)
        await left.send("01:80:c2:00:00:0e", b"LLDP")
        await left.send("01:80:c2:00:00:21", b"GVRP")  # no bridge here takes part, so it passes
        assert await right.take() == b"GVRP"
        assert node.switch.port_counters(1).drop_reserved == 1
        node.switch.guard_port(2, False)
        await right.send("01:80:c2:00:00:00", b"BPDU")
        await until(lambda: node.switch.port_counters(2).drop_reserved == 1)
        await left.send("01:80:c2:00:00:00", b"BPDU")
        event = await event_of(node.switch, SwitchEventKind.GUARD)
        assert (event.port, event.vni, event.mac) == (1, VNI, left.mac)
        await left.send(BROADCAST, b"shut")
        await until(lambda: node.switch.port_counters(1).drop_guard == 2)
        node.switch.enable_port(1, True)
        await left.send(BROADCAST, b"open")
        assert await right.take() == b"open"


async def test_a_station_in_two_places_is_held_in_one() -> None:
    async with nodes(1) as (node,):
        here, there = node.station(1), node.station(2)
        for turn in range(6):
            await (there if turn % 2 else here).send(BROADCAST, b"%d" % turn, src="02:00:00:00:77:77")
            await until(
                lambda turn=turn: sum(node.switch.port_counters(p).rx_frames for p in (1, 2)) == min(turn + 1, 5)
            )
        event = await event_of(node.switch, SwitchEventKind.DUPLICATE)
        assert (event.mac, event.port, event.value >> 32) == ("02:00:00:00:77:77", 1, 2)
        await until(lambda: node.switch.port_counters(2).drop_moving == 1)
        assert [row.held for row in node.switch.fdb(VNI)] == [True]
        assert node.switch.release_mac(VNI, "02:00:00:00:77:77")
        assert not node.switch.release_mac(VNI, "02:00:00:00:77:77")
        await there.send(BROADCAST, b"again", src="02:00:00:00:77:77")
        await until(lambda: node.switch.fdb(VNI)[0].port == 2)


async def test_a_port_s_share_of_the_table_and_of_floods() -> None:
    async with nodes(1) as (node,):
        loud, _ = node.station(1), node.station(2)
        node.switch.limit_port(1, fdb_max=4, storm_rate=20)
        for number in range(30):
            await loud.send(BROADCAST, b"", src=f"02:00:00:01:00:{number:02x}")
        event = await event_of(node.switch, SwitchEventKind.STORM)
        assert (event.port, event.value) == (1, 1)
        await until(lambda: node.switch.port_counters(1).rx_frames == 30)
        counters = node.switch.port_counters(1)
        assert counters.fdb_full == 26
        assert len(node.switch.fdb(VNI)) == 4
        assert counters.drop_storm > 0
        assert counters.flooded + counters.drop_storm == 30


async def test_floods_of_a_kind_have_a_rate_of_their_own() -> None:
    async with nodes(1) as (node,):
        loud, _ = node.station(1), node.station(2)
        node.switch.limit_port(1, storm_rate=1)  # for multicasts, which are left
        node.switch.set_storms(1, broadcast=0, unknown=2)
        for kind, destination, most in (
            ("broadcast", BROADCAST, 40),
            ("multicast", "01:00:5e:00:00:05", 1),
            ("unknown", "02:00:00:00:99:99", 2),
        ):
            before = node.switch.port_counters(1)
            for _ in range(40):
                await loud.send(destination, b"")
            await until(lambda: node.switch.port_counters(1).rx_frames >= before.rx_frames + 40)  # noqa: B023
            now = node.switch.port_counters(1)
            flooded, dropped = now.flooded - before.flooded, now.drop_storm - before.drop_storm
            assert flooded + dropped == 40, kind
            # A bucket holds a second's worth, and is filled while the test runs; in a storm it is filled slowly.
            assert flooded == 40 if kind == "broadcast" else most <= flooded < 20, kind
        node.switch.set_storms(1)  # broadcasts share the one frame a second, or a storm's trickle, again
        before = node.switch.port_counters(1)
        for _ in range(40):
            await loud.send(BROADCAST, b"")
        await until(lambda: node.switch.port_counters(1).rx_frames >= before.rx_frames + 40)
        assert node.switch.port_counters(1).drop_storm > before.drop_storm + 20


def why_not() -> str | None:
    if os.geteuid() != 0:
        return "needs root for TAP devices and a bridge"
    if not os.path.exists("/dev/net/tun") or shutil.which("ip") is None:
        return "needs /dev/net/tun and iproute2"
    return None


@pytest.fixture
def looped() -> Iterator[tuple[int, int]]:
    """Two TAPs that a bridge of their host joins: a loop, without a spanning tree."""
    space, fds = f"wl{uuid.uuid4().hex[:6]}", []

    def run(*words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"

    run("ip", "netns", "add", space)
    try:
        made = subprocess.run(
            ["ip", "-n", space, "link", "add", "br0", "type", "bridge"], capture_output=True, check=False, text=True
        )
        if made.returncode:
            pytest.skip(f"this kernel makes no bridges: {made.stderr.strip()}")
        for end in ("a", "b"):
            fds.append(tap_device(space + end))
            run("ip", "link", "set", space + end, "netns", space)
            run("ip", "-n", space, "link", "set", space + end, "master", "br0", "up")
        run("ip", "-n", space, "link", "set", "br0", "up")
        yield fds[0], fds[1]
    finally:
        for fd in fds:
            os.close(fd)
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def flooded(node: Node) -> int:
    return sum(node.switch.port_counters(port).flooded for port in (1, 2))


@pytest.mark.root
@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
async def test_a_loop_through_two_taps_ends_as_a_trickle(looped: tuple[int, int]) -> None:
    async with nodes(1) as (node,):
        for port, fd in zip((1, 2), looped, strict=True):
            node.switch.add_tap_port(port, VNI, fd)
            node.switch.limit_port(port, storm_rate=1000)
        guest = node.station(3)
        stranger = "02:00:00:00:99:99"  # learned, as a host behind the bridge would be
        kinds = set()
        with trio.fail_after(60):
            for number in range(200):
                await guest.send(BROADCAST, b"%d" % number, src=stranger if number % 2 else None)
                while (event := node.switch.next_event()) is not None:
                    if event.kind in (SwitchEventKind.DUPLICATE, SwitchEventKind.STORM):
                        kinds.add(event.kind)
            while not kinds:
                kinds.add((await event_of(node.switch, SwitchEventKind.DUPLICATE)).kind)
            await until(lambda: sum(node.switch.port_counters(port).drop_storm for port in (1, 2)) > 0)
        # What still circulates is bounded: a held station has ten frames a second, a port its rate.
        before, began = flooded(node), trio.current_time()
        await guest.send(mac_bytes(BROADCAST).hex(":"), b"last")
        await until(lambda: trio.current_time() - began > 1)
        rate = (flooded(node) - before) / (trio.current_time() - began)
        assert rate < 2 * 1500, f"{rate} frames a second are flooded"
