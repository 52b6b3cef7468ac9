"""Attached ports with real daemons: a TAP of a host and another emulator's guest talk with a Wherry guest, also after
the agent was killed and started again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.cluster.hosts import Host, Hosts, why_not
from tests.cluster.test_hosts import boot
from tests.guest.debian import debian_image
from wherry import context, paths
from wherry.client import Client
from wherry.demo import traffic
from wherry.demo.daemons import Daemons
from wherry.errors import ApiError
from wherry.image.store import Library

pytestmark = [
    pytest.mark.root,
    pytest.mark.debian,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
TAP_ADDRESS, EMULATED = "10.0.0.200", "10.0.0.201"


@asynccontextmanager
async def one_node(folder: Path, hosts: Hosts) -> AsyncIterator[tuple[Daemons, Client]]:
    debian_image()
    daemons = Daemons(folder)
    try:
        coordinator = await daemons.coordinator(hosts.outside)
        async with Client(context.load(str(coordinator.ready["api"]), "", daemons.access_file)) as client:
            await start_node(daemons, client, hosts["n1"])
            library = Library(paths.home() / "images")
            await client.push(library, library.get("debian"), lambda *_: None)
            yield daemons, client
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
            await daemons.stop()


async def start_node(daemons: Daemons, client: Client, host: Host) -> None:
    await daemons.node(host.name, (await client.create_join_token(600)).join, host.address, host.enter)


async def restart(daemons: Daemons, client: Client, host: Host) -> None:
    (daemon,) = [d for d in daemons.running if d.name == host.name]
    daemon.process.send_signal(signal.SIGKILL)
    await daemon.process.wait()
    daemons.running.remove(daemon)
    await start_node(daemons, client, host)


def run_in(host: Host, *words: str) -> str:
    return subprocess.run([*host.enter, *words], capture_output=True, text=True, check=True).stdout


def received(host: Host, address: str, count: int = 10) -> int:
    done = subprocess.run(
        [*host.enter, "ping", "-c", str(count), "-i", "0.1", "-W", "2", address],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"(\d+) received", done.stdout)
    return int(found[1]) if found else 0


async def answered(client: Client, guest: str, address: str) -> None:
    """Until pings of the guest come back, all of a row of five."""
    with trio.fail_after(90):
        while True:
            text = await traffic.sh(client, guest, f"/usr/bin/ping -c 5 -i 0.1 -W 2 {address} || true", 60)
            if "5 received" in text:
                return


def find_emulator() -> str:
    private = Path(__file__).resolve().parents[2] / "build/tools/bin/qemu-system-riscv64"
    program = shutil.which("qemu-system-riscv64") or (str(private) if private.exists() else None)
    if program is None:
        pytest.skip("no qemu-system-riscv64: sh deploy/tools.sh qemu-system")
    return program


@asynccontextmanager
async def emulator(folder: Path) -> AsyncIterator[None]:
    """QEMU with a guest of the same image, its NIC at a datagram socket."""
    program = find_emulator()
    image, mac = debian_image(), "52:54:00:00:00:01"
    ends = f"local.type=unix,local.path={folder}/qemu,remote.type=unix,remote.path={folder}/wherry"
    command = [program, "-M", "virt", "-m", "192M", "-display", "none", "-serial", "null", "-monitor", "none"]
    command += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    command += ["-append", f"console=ttyS0 quiet wherry.name=emulated wherry.nic={mac},{EMULATED}/24,,1400"]
    command += ["-netdev", f"dgram,id=n0,{ends}", "-device", f"virtio-net-device,netdev=n0,mac={mac}"]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_a_tap_and_another_emulator_in_a_network() -> None:
    with tempfile.TemporaryDirectory(prefix="wherry-t-") as name, Hosts(["n1"]) as hosts:
        folder, host = Path(name), hosts["n1"]
        async with one_node(folder, hosts) as (daemons, client):
            made = await client.attach(network="lan", kind="tap", local="tap0")
            assert (made.state, made.node) == ("up", "n1")
            await trio.to_thread.run_sync(run_in, host, "ip", "address", "add", f"{TAP_ADDRESS}/24", "dev", "tap0")
            await client.attach(network="lan", kind="unix", local=f"{folder}/wherry", remote=f"{folder}/qemu")
            with pytest.raises(ApiError, match="no TAP"):
                await client.attach(network="lan", kind="tap", local="eth0")

            async with emulator(folder), trio.open_nursery() as nursery:
                await boot(client, "web", "n1")
                address = (await client.guest("web")).addresses[0]
                assert await trio.to_thread.run_sync(received, host, address) >= 9
                await answered(client, "web", EMULATED)
                assert await trio.to_thread.run_sync(received, host, EMULATED) >= 9

                await restart(daemons, client, host)
                assert sorted((p.kind, p.state) for p in await client.ports() if p.id) == [
                    ("tap", "up"),
                    ("unix", "up"),
                ]
                await answered(client, "web", TAP_ADDRESS)
                await answered(client, "web", EMULATED)
                counters = {p.kind: p.counters or {} for p in await client.ports()}
                assert all(by["rx_frames"] > 0 and by["tx_frames"] > 0 for by in counters.values())
                nursery.cancel_scope.cancel()

            for port in await client.ports():
                if port.id:
                    await client.detach(port.id)
            assert "tap0" not in await trio.to_thread.run_sync(run_in, host, "ip", "link")
            assert "wherry" not in os.listdir(folder)
