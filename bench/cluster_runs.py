"""Figures of a whole cluster: a coordinator and nodes as real daemons on loopback, Debian guests, the public API.

The same daemons and client as ``wherry demo`` uses; nothing here reaches behind the API but :func:`private_kib`,
which reads /proc of a guest process.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from wherry import context, paths
from wherry.client import Client
from wherry.demo import pings, traffic
from wherry.demo.daemons import Daemons
from wherry.image import debian
from wherry.image.store import Library

IMAGE = "debian-bench"
MEMORY = 256 << 20
_PRIVATE = ("Private_Clean:", "Private_Dirty:")
_RAM_NAME = re.compile(r"memfd:wherry-(ram|share|ring)")


def image_library() -> Library:
    """The local image library, with an image that has iperf3 (built once)."""
    library = Library(paths.open_state(paths.home()) / "images")
    if IMAGE not in library.names():
        options = debian.Options(name=IMAGE, packages=("iperf3",))
        debian.build(library, paths.home() / "cache" / "apt", options, lambda *_: None)
    return library


@asynccontextmanager
async def cluster(
    folder: Path, nodes: list[str], library: Library, options: Sequence[str] = ()
) -> AsyncIterator[Client]:
    """A running cluster that has the image; everything is stopped at the end. ``options``: of `wherry node`."""
    daemons = Daemons(folder)
    try:
        coordinator = await daemons.coordinator()
        target = context.load(str(coordinator.ready["api"]), "", daemons.access_file)
        async with Client(target) as client:
            for name in nodes:
                await daemons.node(name, (await client.create_join_token(600)).join, options=options)
            await client.push(library, library.get(IMAGE), lambda *_: None)
            yield client
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
            await daemons.stop()


async def boot(client: Client, name: str, node: str, image: str = IMAGE, memory: int = MEMORY) -> None:
    """Run a guest and wait for its user space."""
    request = {"name": name, "image": image, "memory": memory, "cpus": 1, "networks": ["lan"], "on": node}
    await client.finish(await client.run(**request))
    with trio.fail_after(180):
        while (await client.guest(name)).booted_s is None:  # noqa: ASYNC110 - no event to wait for
            await trio.sleep(0.2)


async def rtt_us(client: Client, source: str, target: str, count: int) -> list[float]:
    """Round trips of ``count`` pings from one guest to another, 20 ms apart, as iputils' ping measures them."""
    address = (await client.guest(target)).addresses[0]
    text = await traffic.sh(client, source, f"/usr/bin/ping -D -c {count} -i 0.02 {address}", count * 0.05 + 30)
    return [reply.rtt_ms * 1000 for reply in pings.parse(text).replies]


async def tcp_gbps(client: Client, source: str, target: str, seconds: int) -> float:
    """One iperf3 TCP stream between two guests: received Gbit/s."""
    address = (await client.guest(target)).addresses[0]
    await traffic.sh(client, target, "iperf3 -s -1 -D > /dev/null 2>&1; usleep 300000")
    text = await traffic.sh(client, source, f"iperf3 -J -t {seconds} -c {address}", seconds + 60)
    return float(json.loads(text)["end"]["sum_received"]["bits_per_second"]) / 1e9


async def migrate(client: Client, name: str, to: str) -> dict[str, float]:
    """Move a guest; the operation's result (docs/architecture.md)."""
    operation = await client.finish(await client.guest_action(name, "migrate", to=to))
    return dict(operation.result or {})


def private_kib(pid: int) -> int:
    """Memory that only this process has, guest RAM and the shared rings left out: KiB.

    Sum of Private_Clean and Private_Dirty over the mappings in /proc/PID/smaps whose file is not one of the guest's
    memfds. The translator's code is mapped twice, which smaps calls shared: of that, Pss, which adds up to one copy.
    """
    total = 0
    counted: tuple[str, ...] = _PRIVATE
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            counted = () if _RAM_NAME.search(line) else ("Pss:",) if "memfd:wherry-code" in line else _PRIVATE
        elif line.startswith(counted):
            total += int(line.split()[1])
    return total
