"""Two real hosts (network namespaces) on TAPs of two switches: ARP, ping with full-sized packets, TCP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import trio

from node.switchctl import SwitchEventKind
from tests.cluster.switches import VNI, event_of, nodes, tap_device


def why_not() -> str | None:
    if os.geteuid() != 0:
        return "needs root for TAP devices and network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    if shutil.which("ip") is None or shutil.which("ping") is None:
        return "needs iproute2 (`ip`) and `ping`"
    return None


pytestmark = [pytest.mark.root, pytest.mark.skipif(why_not() is not None, reason=why_not() or "")]


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class TapHost:
    namespace: str
    device: str
    tap_fd: int
    address: str

    @property
    def enter(self) -> list[str]:
        return ["ip", "netns", "exec", self.namespace]


def make_hosts(vnet: tuple[bool, bool]) -> Iterator[list[TapHost]]:
    tag, made = uuid.uuid4().hex[:6], []
    try:
        for index in (1, 2):
            name, device = f"wt{tag}-{index}", f"wt{tag}{index}"
            run("ip", "netns", "add", name)
            host = TapHost(name, device, tap_device(device, vnet=vnet[index - 1]), f"10.77.0.{index}")
            made.append(host)
            run("ip", "link", "set", device, "netns", name)
            run(*host.enter, "ip", "link", "set", device, "mtu", "1400", "up")
            run(*host.enter, "ip", "address", "add", f"{host.address}/24", "dev", device)
        yield made
    finally:
        for host in made:
            os.close(host.tap_fd)
        for index in (1, 2):
            subprocess.run(["ip", "netns", "del", f"wt{tag}-{index}"], capture_output=True, check=False)


@pytest.fixture
def tap_hosts() -> Iterator[list[TapHost]]:
    yield from make_hosts((False, False))


@pytest.fixture(params=[(True, True), (True, False), (False, True)], ids=["both", "sender", "receiver"])
def offload_hosts(request: pytest.FixtureRequest) -> Iterator[tuple[list[TapHost], tuple[bool, bool]]]:
    for hosts in make_hosts(request.param):
        yield hosts, request.param


async def test_hosts_talk_through_the_tunnel(tap_hosts: list[TapHost]) -> None:
    async with nodes(2) as made:
        for node, host in zip(made, tap_hosts, strict=True):
            node.switch.add_tap_port(1, VNI, host.tap_fd)
        left, right = tap_hosts
        # 1372 + 8 + 20 is the MTU; -M do forbids fragments.
        out = run(
            *left.enter, "ping", "-n", "-c", "5", "-i", "0.05", "-s", "1372", "-M", "do", "-W", "2", right.address
        )
        assert "5 packets transmitted, 5 received" in out
        assert made[0].switch.peer_counters(2).tx_frames >= 6
        assert made[0].switch.counters().drop_invalid == 0
        run("ip", "-n", left.namespace, "link", "set", left.device, "down")  # not gone: it may come back
        run("ip", "-n", left.namespace, "link", "set", left.device, "up")
        run(*right.enter, "ping", "-n", "-c", "1", "-W", "2", left.address)
        run("ip", "-n", left.namespace, "link", "del", left.device)
        assert (await event_of(made[0].switch, SwitchEventKind.PORT_DOWN)).port == 1


RECEIVE = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], 5001), family=family) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    digest = hashlib.sha256()
    while block := connection.recv(1 << 16):
        digest.update(block)
    connection.sendall(digest.digest())
"""
SEND = """
import hashlib, random, socket, sys
data = random.Random(7).randbytes(8 << 20)
with socket.create_connection((sys.argv[1], 5001), timeout=60) as connection:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(32, socket.MSG_WAITALL) == hashlib.sha256(data).digest()
"""


def transfer(sender: TapHost, receiver: TapHost, address: str) -> None:
    """8 MiB by TCP; the receiver's digest comes back."""
    with subprocess.Popen(
        [*receiver.enter, sys.executable, "-c", RECEIVE, address], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "listening\n"
            run(*sender.enter, sys.executable, "-c", SEND, address)
        finally:
            server.kill()


@pytest.mark.parametrize("open_checksums", [True, False])
async def test_offloads_change_nothing_but_the_work(
    offload_hosts: tuple[list[TapHost], tuple[bool, bool]], open_checksums: bool
) -> None:
    hosts, vnet = offload_hosts
    async with nodes(2) as made:
        for index, (node, host) in enumerate(zip(made, hosts, strict=True)):
            node.switch.add_tap_port(1, VNI, host.tap_fd)
            node.switch.set_peer_takes(2 - index, open_checksums=open_checksums)
            run(*host.enter, "ip", "address", "add", f"fd77::{index + 1}/64", "dev", host.device, "nodad")
        left, right = hosts
        for address in (right.address, "fd77::2"):
            await trio.to_thread.run_sync(transfer, left, right, address)
        sent, received = made[0].switch.port_counters(1), made[1].switch.port_counters(1)
        over = made[0].switch.peer_counters(2)
        for counters in (made[0].switch.counters(), made[1].switch.counters()):
            assert counters.drop_invalid == 0
        # Packets of the sender are larger than a datagram's, those to the receiver are so again if it can take them,
        # checksums open or not. How many of a sender's own segments come at a time is up to the host.
        assert (over.tx_frames > 3 * sent.rx_frames) == vnet[0]
        if vnet[0] or not vnet[1]:
            assert (over.tx_frames > 3 * received.tx_frames) == vnet[1]
