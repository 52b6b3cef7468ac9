"""Wherry itself for ``make bench-net``: a coordinator, an agent in each host's namespace, a TAP attached to each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from bench.net_hosts import COORDINATOR, Host
from bench.net_overlays import Overlay
from wherry import context
from wherry.client import Client
from wherry.demo.daemons import Daemons

NETWORK, TAP = "lan", "wherry0"


@asynccontextmanager
async def cluster(folder: Path, hosts: tuple[Host, ...]) -> AsyncIterator[tuple[Client, list[int]]]:
    """An API client, and the agents' process ids."""
    daemons = Daemons(folder)
    try:
        coordinator = await daemons.coordinator(COORDINATOR)
        async with Client(context.load(str(coordinator.ready["api"]), "", daemons.access_file)) as client:
            pids = []
            for number, host in enumerate(hosts, start=1):
                token = (await client.create_join_token(600)).join
                node = await daemons.node(f"n{number}", token, host.address, host.enter)
                pids.append(node.process.pid)
            yield client, pids
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
            await daemons.stop()


async def attach(client: Client, hosts: tuple[Host, ...], overlay: Overlay) -> None:
    """A TAP on each node, in the default network with its default MTU (1400)."""
    for number, host in enumerate(hosts):
        await client.attach(network=NETWORK, kind="tap", local=TAP, on=f"n{number + 1}")
        host.ip("address", "add", f"{overlay.inner(number)}/24", "dev", TAP)
