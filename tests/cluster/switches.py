"""Switches for tests: several in this process over loopback UDP, stations plugged in by socket pairs, and a node that
is written in Python (the reference implementation) and can misbehave."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import trio

from node.switchctl import Switch, SwitchEvent, SwitchEventKind, mac_bytes
from protocol import tunnel

VNI = 7
BROADCAST = "ff:ff:ff:ff:ff:ff"
PATIENCE = 5.0  # seconds until a test gives up; nothing waits this long when it works


def mac(number: int) -> str:
    return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"


def ethernet(dst: str, src: str, tag: bytes) -> bytes:
    return (mac_bytes(dst) + mac_bytes(src) + b"\x08\x00" + tag).ljust(60, b"\0")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a C thread counts: it has no event of its own."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


async def event_of(switch: Switch, kind: SwitchEventKind) -> SwitchEvent:
    """The next event of this kind; others before it are thrown away."""
    with trio.fail_after(PATIENCE):
        async for event in switch.events():
            if event.kind is kind:
                return event
    raise AssertionError("the switch was closed")


class Station:
    """A host behind an open port: what a TAP would be, without root."""

    def __init__(self, switch: Switch, port: int, number: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.mac = mac(number)
        self._socket = trio.socket.from_stdlib_socket(ours)
        with theirs:
            switch.add_tap_port(port, VNI, theirs.fileno())

    async def send(self, dst: str, tag: bytes, *, src: str | None = None) -> None:
        await self._socket.send(ethernet(dst, src or self.mac, tag))

    async def take(self) -> bytes:
        """The tag of the next frame."""
        with trio.fail_after(PATIENCE):
            return (await self._socket.recv(10000))[14:].rstrip(b"\0")

    def close(self) -> None:
        self._socket.close()


def udp_socket(host: str = "127.0.0.1") -> socket.socket:
    udp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((host, 0))
    return udp


class Node:
    """A switch with one network, and its address."""

    def __init__(self, number: int, host: str = "127.0.0.1") -> None:
        udp = udp_socket(host)
        self.address: tuple[str, int] = udp.getsockname()[:2]
        self.number = number
        self.switch = Switch(number, udp)
        self.switch.add_network(VNI)
        self.stations: list[Station] = []

    def station(self, number: int) -> Station:
        station = Station(self.switch, number, number)
        self.stations.append(station)
        return station

    def close(self) -> None:
        self.switch.close()
        for station in self.stations:
            station.close()


def key_of(sender: int, receiver: int, epoch: int = 1) -> bytes:
    return bytes([sender, receiver, epoch]).ljust(32, b"k")


def join(a: Node, b: Node, *, direct: bool = True, cipher: int = 0) -> None:
    """Keys for both directions; addresses only where there is a direct path."""
    for one, other in ((a, b), (b, a)):
        one.switch.set_peer(other.number, address=other.address if direct else None)
        one.switch.set_rx_key(other.number, 1, cipher, key_of(other.number, one.number))
    for one, other in ((a, b), (b, a)):
        one.switch.set_tx_key(other.number, 1, cipher, key_of(one.number, other.number))


@asynccontextmanager
async def nodes(count: int, *, mesh: bool = True, host: str = "127.0.0.1") -> AsyncIterator[list[Node]]:
    """``count`` nodes numbered from 1; ``mesh``: each knows each, and broadcasts go to all."""
    made = [Node(number, host) for number in range(1, count + 1)]
    try:
        if mesh:
            for index, node in enumerate(made):
                for other in made[:index]:
                    join(other, node)
                node.switch.set_network_peers(VNI, (other.number for other in made))
            for node in made:
                node.switch.set_network_peers(VNI, (other.number for other in made if other is not node))
        yield made
    finally:
        for node in made:
            node.close()


class ReferenceNode:
    """A node made of protocol.tunnel: everything it seals and opens goes through the reference implementation."""

    def __init__(self, number: int, peer: Node, *, cipher: int = 0) -> None:
        self.number, self.peer, self.cipher = number, peer, cipher
        self.socket = trio.socket.from_stdlib_socket(udp_socket())
        self.receiver = tunnel.Receiver(number, peer.number)
        self.answers_probes = True
        address = self.socket.getsockname()
        peer.switch.set_peer(number, address=(address[0], address[1]))
        self.rotate(1)

    def rotate(self, epoch: int) -> None:
        theirs, ours = key_of(self.peer.number, self.number, epoch), key_of(self.number, self.peer.number, epoch)
        self.receiver.install(epoch, self.cipher, theirs)
        self.peer.switch.set_rx_key(self.number, epoch, self.cipher, ours)
        self.peer.switch.set_tx_key(self.number, epoch, self.cipher, theirs)
        self.sender = tunnel.Sender(self.number, self.peer.number, epoch, self.cipher, ours)

    async def send_raw(self, datagram: bytes) -> None:
        await self.socket.sendto(datagram, self.peer.address)

    async def send(self, *frames: bytes, relayed: bool = False) -> bytes:
        """Seal and send; the datagram is returned so that it can be sent again."""
        datagram = self.sender.seal(tuple(tunnel.Frame(VNI, frame) for frame in frames), relayed=relayed)
        await self.send_raw(datagram)
        return datagram

    async def frames(self) -> AsyncIterator[tuple[tunnel.Header, bytes]]:
        """Frames that come, for ever; probes are answered on the way if ``answers_probes``."""
        while True:
            header, payload = self.receiver.open(await self.socket.recv(10000))
            if isinstance(payload, tunnel.Probe) and self.answers_probes:
                await self.send_raw(self.sender.seal(tunnel.Answer(payload.id, payload.time)))
            elif isinstance(payload, tuple):
                for frame in payload:
                    yield header, frame.data

    async def take(self) -> tuple[tunnel.Header, bytes]:
        """Header and tag of the next frame."""
        with trio.fail_after(PATIENCE):
            async for header, frame in self.frames():
                return header, frame[14:].rstrip(b"\0")
        raise AssertionError("unreachable")

    async def serve(self) -> None:
        async for _ in self.frames():
            pass

    def close(self) -> None:
        self.socket.close()


def drops(counters: object, names: Iterable[str]) -> dict[str, int]:
    return {name: getattr(counters, f"drop_{name}") for name in names}


def tap_device(name: str, *, vnet: bool = False) -> int:
    """A TAP's descriptor; root only. ``vnet``: one that speaks of offloads."""
    import fcntl
    import struct

    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    tunsetiff, iff_tap, iff_no_pi, iff_vnet_hdr = 0x400454CA, 0x0002, 0x1000, 0x4000
    fcntl.ioctl(
        fd, tunsetiff, struct.pack("16sH22x", name.encode(), iff_tap | iff_no_pi | (iff_vnet_hdr if vnet else 0))
    )
    return fd
