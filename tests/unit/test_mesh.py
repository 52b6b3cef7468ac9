"""The mesh glue with real switches on loopback UDP and links in memory: keys, MACs, routes, fencing, relays."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from node.core import CoreError
from node.guestcopy import Guest
from node.machine import Machine
from node.mesh import Mesh
from protocol.messages import GuestSpec, ImageFile, ImageRef, Nic, NodeInfo
from protocol.tls import PeerIdentity
from protocol.transport import Handlers, LocalIdentity, open_link

VNI = 100
BLACKHOLE = "127.0.0.1:1"


class Host:
    """One node's mesh; ``tunnel`` is its UDP address."""

    def __init__(self, node: int) -> None:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        self.node = node
        self.tunnel = f"127.0.0.1:{udp.getsockname()[1]}"
        self.mesh = Mesh(node, udp)
        self.handlers = Handlers()
        self.mesh.register(self.handlers)

    def info(self, tunnel: str = "") -> NodeInfo:
        return NodeInfo(node=self.node, name=f"n{self.node}", link="127.0.0.1:9", tunnel=tunnel or self.tunnel)

    def fdb(self) -> dict[str, int]:
        return {row.mac: row.node for row in self.mesh.switch.fdb(VNI) if row.is_static}


class FakeGuest:
    """A guest copy as the ports see it; its rings are those of a real machine that never runs."""

    def __init__(self, name: str, mac: str, generation: int) -> None:
        self.machine = Machine(16 << 20, 1)
        self.machine.add_nic(bytes.fromhex(mac.replace(":", "")))
        fds = self.machine.nic_fds(0)
        image = ImageRef(
            name="x", digest="0" * 64, kind="linux", files=[ImageFile(role="kernel", sha256="0" * 64, size=1)]
        )
        nic = Nic(network="lan", vni=VNI, mac=mac, address="10.0.0.2/24")
        self.id = name
        self.tag = f"guest={name}"
        self.generation = generation
        self.record = SimpleNamespace(
            spec=GuestSpec(guest=name, name=name, image=image, memory=16 << 20, cpus=1, nics=[nic])
        )
        self.live = SimpleNamespace(
            fds={"nic0.ring": fds.ring, "nic0.to_switch": fds.to_switch, "nic0.to_guest": fds.to_guest}
        )

    @property
    def guest(self) -> Guest:
        return cast(Guest, self)


@asynccontextmanager
async def linked(a: Host, b: Host) -> AsyncIterator[None]:
    left, right = trio.testing.memory_stream_pair()

    async def end(stream: Any, me: Host, other: Host, client: bool) -> None:
        who = PeerIdentity("node", other.node, "test")
        async with open_link(
            stream, identity=LocalIdentity(f"n{me.node}"), handlers=me.handlers, client=client, peer=who
        ) as link:
            await me.mesh.peer_session(link)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end, left, a, b, True)
        nursery.start_soon(end, right, b, a, False)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def hosts(count: int) -> AsyncIterator[list[Host]]:
    made = [Host(number + 1) for number in range(count)]
    try:
        async with trio.open_nursery() as nursery:
            for host in made:
                nursery.start_soon(host.mesh.run)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        for host in made:
            host.mesh.close()


async def until(condition: Any) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - the switch's tables have no events
            await trio.sleep(0.02)


def directory(made: list[Host], unreachable: tuple[int, int] | None = None) -> None:
    for host in made:
        infos = []
        for other in made:
            cut = unreachable is not None and {host.node, other.node} == set(unreachable)
            infos.append(other.info(BLACKHOLE if cut else ""))
        host.mesh.update(infos)


async def test_macs_follow_the_guest() -> None:
    async with hosts(2) as (a, b), linked(a, b):
        directory([a, b])
        here, there = FakeGuest("g", "52:54:00:00:00:01", 1), FakeGuest("h", "52:54:00:00:00:02", 1)
        a.mesh.ports.attach(here.guest, enabled=True)
        b.mesh.ports.attach(there.guest, enabled=True)
        await until(lambda: b.fdb().get("52:54:00:00:00:01") == 1 and a.fdb().get("52:54:00:00:00:02") == 2)

        arriving = FakeGuest("g", "52:54:00:00:00:01", 1)
        b.mesh.ports.attach(arriving.guest, enabled=False)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert b.fdb()["52:54:00:00:00:01"] == 1  # not before COMMIT

        arriving.generation = 2
        b.mesh.ports.enable(arriving.guest, True)
        await until(lambda: a.fdb().get("52:54:00:00:00:01") == 2)  # although the old copy is still here
        a.mesh.ports.detach(here.guest)
        with pytest.raises(CoreError):
            a.mesh.switch.fdb(VNI)  # the last port is gone, and the network with it
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert b.mesh.switch.fdb(VNI)


async def test_guests_that_were_there_before_the_link() -> None:
    async with hosts(2) as (a, b):
        first = FakeGuest("g", "52:54:00:00:00:01", 1)
        second = FakeGuest("h", "52:54:00:00:00:02", 1)
        a.mesh.ports.attach(first.guest, enabled=True)
        b.mesh.ports.attach(second.guest, enabled=True)
        async with linked(a, b):
            await until(lambda: b.fdb().get("52:54:00:00:00:01") == 1)
        async with linked(a, b):
            a.mesh.ports.detach(first.guest)
            await until(lambda: "52:54:00:00:00:01" not in b.fdb())


async def test_probes_find_the_direct_way() -> None:
    async with hosts(2) as (a, b), linked(a, b):
        directory([a, b])
        await until(lambda: a.mesh.route(2) == 2 and b.mesh.route(1) == 1)


async def test_nodes_that_cannot_reach_each_other_go_through_a_third() -> None:
    async with hosts(3) as (a, b, c), linked(a, b), linked(b, c), linked(a, c):
        directory([a, b, c], unreachable=(1, 3))
        await until(lambda: a.mesh.route(3) == 2 and c.mesh.route(1) == 2)


async def test_a_node_that_leaves_takes_its_macs_along() -> None:
    async with hosts(2) as (a, b), linked(a, b):
        directory([a, b])
        mine, its = FakeGuest("g", "52:54:00:00:00:01", 1), FakeGuest("h", "52:54:00:00:00:02", 1)
        a.mesh.ports.attach(mine.guest, enabled=True)
        b.mesh.ports.attach(its.guest, enabled=True)
        await until(lambda: a.fdb().get("52:54:00:00:00:02") == 2)
        a.mesh.update([a.info()])
        assert "52:54:00:00:00:02" not in a.fdb()


async def test_directory_addresses_that_are_none() -> None:
    async with hosts(1) as (a,):
        a.mesh.update(
            [NodeInfo(node=2, name="n2", link="x", tunnel=""), NodeInfo(node=3, name="n3", link="x", tunnel="host:1")]
        )
        a.mesh.update([])
