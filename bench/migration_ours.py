"""Wherry in ``make bench-migration``: a coordinator and two nodes on loopback, a guest, a TAP of the first node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from bench import cluster_runs as runs
from bench import migration_guest
from bench.migration_guest import Case, Limit, Move, NoFigure, Poller
from bench.net_hosts import run
from wherry.client import Client
from wherry.demo import traffic
from wherry.errors import WherryError
from wherry.image.store import Library

NAME, TAP = "moving", "wherry-bm0"
SETTLE_S = 1.0


class Ours:
    """The guest and where it is."""

    def __init__(self, client: Client, address: str, links: list[int]) -> None:
        self._client, self._address, self._links = client, address, links
        self._there = 1

    async def load(self, case: Case) -> None:
        await traffic.sh(self._client, NAME, case.command, 120)

    async def move(self, case: Case) -> Move:
        """Raises NoFigure; the guest runs where it was then."""
        to = 2 if self._there == 1 else 1
        poller = await trio.to_thread.run_sync(Poller, self._address)
        try:
            with Limit(case.mbit, self._links):
                poller.reset()
                try:
                    operation = await self._client.finish(
                        await self._client.guest_action(NAME, "migrate", to=f"n{to}", mode=case.mode)
                    )
                except WherryError as error:
                    raise NoFigure(f"wherry: {error}") from None
            await trio.sleep(SETTLE_S)
            udp, tcp = await trio.to_thread.run_sync(poller.gaps)
        finally:
            poller.close()
        self._there = to
        result = operation.result or {}
        return Move(float(result["total_ms"]), float(result["blackout_ms"]), udp, tcp, int(result["bytes_sent"]))


@asynccontextmanager
async def guest(folder: Path, library: Library) -> AsyncIterator[Ours]:
    """A booted guest, and the host's address in its network."""
    image = migration_guest.image(library)
    async with runs.cluster(folder, ["n1", "n2"], library) as client:
        await client.push(library, image, lambda *_: None)
        await runs.boot(client, NAME, "n1", image.name, migration_guest.MEMORY_MIB << 20)
        await client.attach(network="lan", kind="tap", local=TAP, on="n1")
        address = (await client.guest(NAME)).addresses[0]
        run("ip", "address", "replace", f"{address.rsplit('.', 1)[0]}.250/24", "dev", TAP)
        links = [int(node.link.rsplit(":", 1)[1]) for node in await client.nodes() if node.link]
        yield Ours(client, address, links)
