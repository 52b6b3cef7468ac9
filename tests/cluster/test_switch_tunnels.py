"""Switches that meet over tunnels: learning, flooding, split horizon, relaying, fencing, rotation, roaming."""

from __future__ import annotations

import os

import pytest
import trio

from node.switchctl import SwitchEventKind
from protocol import tunnel
from tests.cluster.switches import (
    BROADCAST,
    PATIENCE,
    VNI,
    Node,
    ReferenceNode,
    Station,
    drops,
    ethernet,
    event_of,
    join,
    key_of,
    mac,
    nodes,
    udp_socket,
    until,
)


async def test_flood_then_learned_unicast() -> None:
    async with nodes(2) as (one, two):
        a, b, bystander = one.station(1), two.station(2), two.station(3)
        await a.send(BROADCAST, b"who")
        assert await b.take() == b"who"
        assert await bystander.take() == b"who"
        await b.send(a.mac, b"me")
        assert await a.take() == b"me"
        await a.send(b.mac, b"only you")
        await a.send(BROADCAST, b"all")
        assert await b.take() == b"only you"
        assert await bystander.take() == b"all"  # and not "only you", which was sent before it
        learned = {entry.mac: (entry.node, entry.port) for entry in one.switch.fdb(VNI)}
        assert learned == {a.mac: (1, 1), b.mac: (2, None)}
        assert one.switch.peer_counters(2).tx_frames == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_address_families(host: str) -> None:
    async with nodes(2, host=host) as (one, two):
        a, b = one.station(1), two.station(2)
        await a.send(BROADCAST, b"hello")
        assert await b.take() == b"hello"
        assert (await event_of(one.switch, SwitchEventKind.PEER_UP)).node == 2


async def test_ipv4_peer_of_a_dual_stack_socket() -> None:
    one, two = Node(1, "::"), Node(2)
    try:
        one.address = ("127.0.0.1", one.address[1])
        join(one, two)
        one.switch.set_network_peers(VNI, [2])
        a, b = one.station(1), two.station(2)
        await a.send(BROADCAST, b"hello")
        assert await b.take() == b"hello"
        await b.send(a.mac, b"back")
        assert await a.take() == b"back"
    finally:
        one.close()
        two.close()


async def test_split_horizon_each_broadcast_arrives_once() -> None:
    async with nodes(3) as (one, two, three):
        stations = [one.station(1), two.station(2), three.station(3)]
        for sender in stations:
            tags = [sender.mac.encode() + bytes([65 + i]) for i in range(3)]
            for tag in tags:
                await sender.send(BROADCAST, tag)
            for receiver in stations:
                if receiver is not sender:
                    assert [await receiver.take() for _ in tags] == tags


async def test_unknown_unicast_is_not_sent_on() -> None:
    """Node 1 thinks that the station is on node 2, node 2 that it is on node 3: dropped there, not passed on."""
    async with nodes(3) as (one, two, three):
        a, c = one.station(1), three.station(3)
        one.switch.set_mac(VNI, c.mac, 2)
        two.switch.set_mac(VNI, c.mac, 3)
        await a.send(c.mac, b"stray")
        await until(lambda: two.switch.peer_counters(1).drop_no_peer == 1)
        one.switch.set_mac(VNI, c.mac, 3)
        await a.send(c.mac, b"right")
        assert await c.take() == b"right"


async def test_relay_through_a_third() -> None:
    async with nodes(3, mesh=False) as (one, two, three):
        join(one, two)
        join(two, three)
        join(one, three, direct=False)
        one.switch.set_peer(3, via=2)
        three.switch.set_peer(1, via=2)
        a, eavesdropper, c = one.station(1), two.station(2), three.station(3)
        one.switch.set_mac(VNI, c.mac, 3)
        await a.send(c.mac, b"over two")
        assert await c.take() == b"over two"
        await c.send(a.mac, b"and back")
        assert await a.take() == b"and back"
        assert two.switch.counters().relayed == 2
        assert two.switch.counters().rx_frames == 0  # it could not look inside
        await eavesdropper.send(BROADCAST, b"x")
        assert drops(three.switch.counters(), ["auth", "no_key", "invalid"]) == {"auth": 0, "no_key": 0, "invalid": 0}
        # Node 1 must not take the relay's address for node 3's own.
        one.switch.set_peer(3, via=3)
        await a.send(c.mac, b"direct")
        await until(lambda: one.switch.peer_counters(3).drop_no_peer == 1)


async def test_relay_loop_ends() -> None:
    async with nodes(2) as (one, two):
        a = one.station(1)
        for node, other in ((one, two), (two, one)):
            node.switch.set_peer(3, via=other.number)
        one.switch.set_tx_key(3, 1, 0, bytes(32))
        one.switch.set_mac(VNI, mac(9), 3)
        await a.send(mac(9), b"round and round")
        # The sender's own datagram comes back to it: nothing to relay. So the loop has two ends at most.
        await until(lambda: one.switch.counters().drop_invalid + one.switch.counters().drop_ttl == 1)
        assert two.switch.counters().relayed == 1


async def test_hop_limit() -> None:
    async with nodes(2) as (one, _two):
        peer = ReferenceNode(9, one)
        for hops in (0, 1, 2, 255):
            header = tunnel.Header(1, 9, 2, hops + 1, tunnel.Type.RELAYED, hops)
            await peer.send_raw(tunnel.seal(0, bytes(32), header, b"sealed for node 2"))
        await until(lambda: one.switch.counters().relayed + one.switch.counters().drop_ttl == 4)
        assert one.switch.peer_counters(9).drop_ttl == 2
        assert one.switch.peer_counters(9).relayed == 2
        peer.close()


async def test_relays_only_for_its_own_peers_and_only_what_may_be_relayed() -> None:
    async with nodes(2) as (one, _two):
        peer, stranger = ReferenceNode(9, one), trio.socket.from_stdlib_socket(udp_socket())
        for kind in tunnel.Type:
            datagram = tunnel.seal(0, bytes(32), tunnel.Header(1, 9, 2, 1, kind, 8), b"x")
            await stranger.sendto(datagram, one.address)
        await peer.send_raw(tunnel.seal(0, bytes(32), tunnel.Header(1, 9, 2, 1, tunnel.Type.DIRECT, 8), b"x"))
        await until(lambda: one.switch.counters().drop_invalid == 3)
        assert one.switch.counters().relayed == 0
        peer.close()
        stranger.close()


async def test_fenced_copy_is_mute() -> None:
    async with nodes(3) as (one, two, three):
        guest = mac(50)
        a, old, new = one.station(1), two.station(2), three.station(3)
        one.switch.set_mac(VNI, guest, 3)
        await old.send(BROADCAST, b"I still live", src=guest)
        await until(lambda: one.switch.peer_counters(2).drop_fenced == 1)
        await new.send(a.mac, b"so do I", src=guest)
        assert await a.take() == b"so do I"
        one.switch.set_mac(VNI, guest, 2)  # and the other way round
        await new.send(a.mac, b"no longer", src=guest)
        await until(lambda: one.switch.peer_counters(3).drop_fenced == 1)
        one.switch.remove_mac(VNI, guest)  # nobody's: learned again
        await new.send(a.mac, b"free", src=guest)
        assert await a.take() == b"free"


async def test_a_station_cannot_speak_for_another_nodes_guest() -> None:
    async with nodes(2) as (one, two):
        a, b = one.station(1), two.station(2)
        guest = mac(50)
        one.switch.set_mac(VNI, guest, 2)
        await a.send(BROADCAST, b"spoof", src=guest)
        await until(lambda: one.switch.port_counters(1).drop_spoofed == 1)
        learned = await event_of(one.switch, SwitchEventKind.MAC_LEARNED)  # the control plane is asked
        assert (learned.mac, learned.port) == (guest, 1)
        one.switch.set_mac(VNI, guest, 1)  # and agrees
        await a.send(BROADCAST, b"moved", src=guest)
        assert await b.take() == b"moved"


@pytest.mark.parametrize("cipher", [0, 1])
async def test_reference_node_and_key_rotation(cipher: int) -> None:
    """C opens what Python seals and the reverse, for each of many epochs, also batches and late datagrams."""
    async with nodes(1) as (one,):
        a, peer = one.station(1), ReferenceNode(2, one, cipher=cipher)
        one.switch.set_mac(VNI, mac(2), 2)
        late: bytes | None = None
        for epoch in range(1, 12):
            if epoch > 1:
                late = peer.sender.seal((tunnel.Frame(VNI, ethernet(a.mac, mac(2), b"late")),))
                peer.rotate(epoch)
            await peer.send(ethernet(a.mac, mac(2), b"one"), ethernet(a.mac, mac(2), b"two"))
            assert [await a.take(), await a.take()] == [b"one", b"two"]
            if late:  # sealed with the epoch before
                await peer.send_raw(late)
                assert await a.take() == b"late"
            await a.send(mac(2), b"out")
            header, tag = await peer.take()
            assert (header.epoch, header.type, tag) == (epoch, tunnel.Type.DIRECT, b"out")
        assert drops(one.switch.counters(), ["auth", "no_key", "replay", "invalid"]) == dict.fromkeys(
            ["auth", "no_key", "replay", "invalid"], 0
        )
        peer.close()


async def test_forged_replayed_reordered_and_foreign_datagrams_are_counted() -> None:
    async with nodes(1) as (one,):
        a, peer = one.station(1), ReferenceNode(2, one)
        frame = ethernet(a.mac, mac(2), b"good")
        early = peer.sender.seal((tunnel.Frame(VNI, ethernet(a.mac, mac(2), b"early")),))
        good = await peer.send(frame)
        assert await a.take() == b"good"
        await peer.send_raw(early)  # reordered: taken
        assert await a.take() == b"early"
        await peer.send_raw(good)
        one.switch.set_rx_key(2, 1, 0, key_of(2, 1))  # the same key again does not forget what it has seen
        await peer.send_raw(early)
        await until(lambda: one.switch.peer_counters(2).drop_replay == 2)
        fresh = bytearray(peer.sender.seal((tunnel.Frame(VNI, frame),)))
        for at in range(24, len(fresh)):
            bad = bytearray(fresh)
            bad[at] ^= 0x80
            await peer.send_raw(bytes(bad))
        await until(lambda: one.switch.peer_counters(2).drop_auth == len(fresh) - 24)
        for length in range(len(fresh)):
            await peer.send_raw(bytes(fresh[:length]))
        await until(lambda: one.switch.counters().drop_invalid == 40)
        await until(lambda: one.switch.peer_counters(2).drop_auth == 2 * len(fresh) - 24 - 40)
        await peer.send_raw(bytes(fresh).ljust(9217, b"x"))  # longer than any datagram may be
        await until(lambda: one.switch.counters().drop_invalid == 41)
        await peer.send_raw(bytes(fresh))  # all that has not used up its counter
        assert await a.take() == b"good"
        stranger = tunnel.Sender(3, 1, 1, 0, key_of(2, 1))
        await peer.send_raw(stranger.seal((tunnel.Frame(VNI, frame),)))
        unknown_epoch = tunnel.Sender(2, 1, 9, 0, key_of(2, 1))
        await peer.send_raw(unknown_epoch.seal((tunnel.Frame(VNI, frame),)))
        await until(lambda: one.switch.counters().drop_no_key == 1)
        assert one.switch.counters().drop_no_peer == 1
        for payload in (os.urandom(50), b"\x93\x00\x07", b"", b"\x91" * 5000):
            peer.sender.counter += 1
            header = tunnel.Header(1, 2, 1, peer.sender.counter)
            await peer.send_raw(tunnel.seal(0, key_of(2, 1), header, payload))
        await until(lambda: one.switch.peer_counters(2).drop_invalid == 4)
        assert one.switch.peer_counters(2).rx_frames == 3
        peer.close()


async def test_peer_up_down_and_up_again() -> None:
    async with nodes(1) as (one,), trio.open_nursery() as nursery:
        peer = ReferenceNode(2, one)
        nursery.start_soon(peer.serve)
        up = await event_of(one.switch, SwitchEventKind.PEER_UP)
        assert up.node == 2
        assert 0 < up.value < PATIENCE * 1e6
        peer.answers_probes = False
        assert (await event_of(one.switch, SwitchEventKind.PEER_DOWN)).node == 2
        peer.answers_probes = True
        assert (await event_of(one.switch, SwitchEventKind.PEER_UP)).node == 2
        one.switch.set_peer(2, address=None)
        assert (await event_of(one.switch, SwitchEventKind.PEER_DOWN)).node == 2
        nursery.cancel_scope.cancel()


async def test_answers_that_were_not_asked_for_do_not_bring_a_peer_up() -> None:
    async with nodes(1) as (one,):
        peer = ReferenceNode(2, one)
        for ident in (0, 2**32 + 1, 2**64 - 1):
            await peer.send_raw(peer.sender.seal(tunnel.Answer(ident, 0)))
        await peer.send_raw(peer.sender.seal(tunnel.Answer(1, 0), relayed=True))  # and never by way of a relay
        await until(lambda: one.switch.peer_counters(2).drop_invalid == 1)
        assert one.switch.next_event() is None
        peer.close()


async def test_roaming_by_direct_datagrams_only() -> None:
    async with nodes(1) as (one,):
        a, peer = one.station(1), ReferenceNode(2, one)
        frame = ethernet(a.mac, mac(2), b"in")
        home, away, elsewhere = peer.socket, *(trio.socket.from_stdlib_socket(udp_socket()) for _ in range(2))
        delayed = peer.sender.seal((tunnel.Frame(VNI, frame),))
        old = await peer.send(frame)
        assert await a.take() == b"in"
        peer.socket = away
        await peer.send(frame)
        assert await a.take() == b"in"
        await a.send(mac(2), b"follows")
        assert (await peer.take())[1] == b"follows"
        peer.socket = elsewhere
        await peer.send(frame, relayed=True)  # authentic, but its source address is a relay's
        assert await a.take() == b"in"
        await peer.send_raw(delayed)  # authentic and direct, but not the newest: somebody held it back
        assert await a.take() == b"in"
        await peer.send_raw(old)  # a replay from elsewhere
        await until(lambda: one.switch.peer_counters(2).drop_replay == 1)
        peer.socket = away
        await a.send(mac(2), b"stays")
        assert (await peer.take())[1] == b"stays"
        # The same configured address again must not undo the roaming.
        one.switch.set_peer(2, address=home.getsockname())
        await a.send(mac(2), b"still")
        assert (await peer.take())[1] == b"still"
        for socket in (home, away, elsewhere):
            socket.close()


async def test_a_peer_that_restarts_begins_with_epoch_one_again() -> None:
    async with nodes(1) as (one,):
        a, peer = one.station(1), ReferenceNode(2, one)
        frame = ethernet(a.mac, mac(2), b"in")
        peer.rotate(2)
        await peer.send(frame)
        assert await a.take() == b"in"
        fresh = bytes(32)  # the restarted peer: epoch 1, another key, another socket
        one.switch.set_rx_key(2, 1, 0, fresh)
        peer.sender = tunnel.Sender(2, 1, 1, 0, fresh)
        old, peer.socket = peer.socket, trio.socket.from_stdlib_socket(udp_socket())
        await peer.send(frame)
        assert await a.take() == b"in"
        await a.send(mac(2), b"found")
        assert (await peer.take())[1] == b"found"
        old.close()
        peer.close()


async def test_a_node_behind_nat_is_found_by_its_own_probes() -> None:
    """Node 1 cannot dial node 2 (no address); node 2's probes tell it."""
    async with nodes(2, mesh=False) as (one, two):
        join(one, two)
        one.switch.remove_peer(2)
        one.switch.set_peer(2)
        one.switch.set_rx_key(2, 2, 0, key_of(2, 1, 2))
        one.switch.set_tx_key(2, 2, 0, key_of(1, 2, 2))
        two.switch.set_rx_key(1, 2, 0, key_of(1, 2, 2))
        two.switch.set_tx_key(1, 2, 0, key_of(2, 1, 2))
        assert (await event_of(one.switch, SwitchEventKind.PEER_UP)).node == 2


async def test_no_key_and_no_address_are_counted() -> None:
    async with nodes(2, mesh=False) as (one, two):
        a = one.station(1)
        one.switch.set_mac(VNI, mac(2), 2)
        await a.send(mac(2), b"x")
        await until(lambda: one.switch.port_counters(1).drop_no_peer == 1)
        one.switch.set_peer(2)
        await a.send(mac(2), b"x")
        await until(lambda: one.switch.peer_counters(2).drop_no_peer == 1)
        one.switch.set_peer(2, address=two.address)
        await a.send(mac(2), b"x")
        await until(lambda: one.switch.peer_counters(2).drop_no_key == 1)


async def test_oversize_frames_and_foreign_networks_are_refused() -> None:
    async with nodes(2) as (one, two):
        one.switch.add_network(8, 9000)
        a, peer = one.station(1), ReferenceNode(5, one)
        await a._socket.send(ethernet(BROADCAST, a.mac, b"").ljust(1419, b"x"))
        await a._socket.send(b"short")
        await until(lambda: one.switch.port_counters(1).drop_invalid == 1)
        assert one.switch.port_counters(1).drop_oversize == 1
        too_long = ethernet(a.mac, mac(2), b"").ljust(1419, b"x")
        await peer.send(too_long)
        await peer.send_raw(peer.sender.seal((tunnel.Frame(999, too_long[:60]),)))
        await until(lambda: one.switch.peer_counters(5).drop_invalid == 1)
        assert one.switch.peer_counters(5).drop_oversize == 1
        b = two.station(2)
        await a._socket.send(ethernet(BROADCAST, a.mac, b"").ljust(1418, b"x"))
        assert len(await b.take()) == 1404
        peer.close()


async def test_a_port_that_goes_away_is_told() -> None:
    async with nodes(1) as (one,):
        a, b = one.station(1), one.station(2)
        a.close()
        down = await event_of(one.switch, SwitchEventKind.PORT_DOWN)
        assert (down.port, down.vni) == (1, VNI)
        await b.send(BROADCAST, b"into the void")
        await until(lambda: one.switch.port_counters(1).drop_disabled == 1)
        one.switch.remove_port(1)
        again = Station(one.switch, 1, 1)
        await again.send(BROADCAST, b"back")
        assert await b.take() == b"back"
        again.close()


async def test_says_whose_cipher_it_is() -> None:
    """Both are checked against the reference in the other tests, whichever this host has."""
    async with nodes(1) as (one,):
        assert one.switch.crypto.startswith(("OpenSSL ", "libipsec-mb "))


async def test_strangers_do_not_keep_a_relay_from_its_work() -> None:
    """Many addresses that nobody knows ask to be relayed; who is known is still, also by another peer's datagrams."""
    async with nodes(2) as (one, _two):
        peer, stranger = ReferenceNode(9, one), trio.socket.from_stdlib_socket(udp_socket())
        one.switch.set_peer(8)  # somebody behind peer 9
        for counter in range(1, 301):
            header = tunnel.Header(1, 8, 2, counter, tunnel.Type.RELAYED, 8)
            datagram = tunnel.seal(0, bytes(32), header, b"sealed for node 2")
            await stranger.sendto(datagram, one.address)
            await peer.send_raw(datagram)
        await until(lambda: one.switch.counters().relayed + one.switch.counters().drop_invalid == 600)
        assert one.switch.peer_counters(9).relayed >= 290  # its first ones may have come in the middle of the flood
        assert one.switch.counters().drop_invalid >= 300
        peer.close()
        stranger.close()
