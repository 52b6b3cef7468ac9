"""Two real hosts (network namespaces) on TAPs of two switches: ARP, ping with full-sized packets, TCP."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

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


@pytest.fixture
def tap_hosts() -> Iterator[list[TapHost]]:
    tag, made = uuid.uuid4().hex[:6], []
    try:
        for index in (1, 2):
            name, device = f"wt{tag}-{index}", f"wt{tag}{index}"
            run("ip", "netns", "add", name)
            host = TapHost(name, device, tap_device(device), f"10.77.0.{index}")
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
