"""Wherry in ``make bench-migration``: a coordinator and two nodes on loopback, a guest, a TAP of the first node."""

from __future__ import annotations

import mmap
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from bench import cluster_runs as runs
from bench import migration_guest
from bench.migration_guest import Case, Limit, Move, NoFigure, Poller
from bench.net_hosts import run
from wherry.client import Client
from wherry.demo import traffic
from wherry.demo.daemons import guest_processes
from wherry.errors import WherryError
from wherry.image.store import Library

NAME, TAP = "moving", "wherry-bm0"
SETTLE_S = 1.0
PAGE = 4096


class Ours:
    """The guest and where it is."""

    def __init__(self, client: Client, address: str, links: list[int], folder: Path) -> None:
        self.client, self.links, self._address, self._folder = client, links, address, folder
        self._there = 1

    async def load(self, case: Case) -> None:
        await traffic.sh(self.client, NAME, case.command, 120)

    async def go(self, mode: str = "auto") -> dict[str, Any]:
        """To the other node; the operation's result. Raises WherryError."""
        to = 2 if self._there == 1 else 1
        operation = await self.client.finish(await self.client.guest_action(NAME, "migrate", to=f"n{to}", mode=mode))
        self._there = to
        return operation.result or {}

    async def move(self, case: Case) -> Move:
        """Raises NoFigure; the guest runs where it was then."""
        resident = await trio.to_thread.run_sync(unique_bytes, self._folder)
        poller = await trio.to_thread.run_sync(Poller, self._address)
        try:
            with Limit(case.mbit, self.links):
                poller.reset()
                try:
                    result = await self.go(case.mode)
                except WherryError as error:
                    raise NoFigure(f"wherry: {error}") from None
            await trio.sleep(SETTLE_S)
            udp, tcp = await trio.to_thread.run_sync(poller.gaps)
        finally:
            poller.close()
        return Move(
            float(result["total_ms"]),
            float(result["blackout_ms"]),
            udp,
            tcp,
            int(result["bytes_sent"]),
            int(result["final_bytes"]),
            resident,
            float(result["fault_us"]),
            float(result["fault_max_us"]),
        )


def unique_bytes(folder: Path) -> int:
    """Bytes of the different pages, zeros left out, of the one guest whose folder lies under ``folder``: read from its
    RAM's file, as any process of the host's owner may."""
    [process] = guest_processes(folder)
    [ram] = [file for file in Path(f"/proc/{process}/fd").iterdir() if "memfd:wherry-ram" in os.readlink(file)]
    seen = {hash(bytes(PAGE))}
    with ram.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        at = 0
        while at < len(memory):
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break  # holes from here on
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            seen.update(hash(memory[page : page + PAGE]) for page in range(at, end, PAGE))
            at = end
    return (len(seen) - 1) * PAGE


@asynccontextmanager
async def guest(folder: Path, library: Library) -> AsyncIterator[Ours]:
    """A booted guest, and the host's address in its network. Nodes keep nothing of guests that have left: it goes to
    and fro, and each move is to be one to a node that does not know it."""
    image = migration_guest.image(library)
    async with runs.cluster(folder, ["n1", "n2"], library, ("--keep", "0")) as client:
        await client.push(library, image, lambda *_: None)
        await runs.boot(client, NAME, "n1", image.name, migration_guest.MEMORY_MIB << 20)
        await client.attach(network="lan", kind="tap", local=TAP, on="n1")
        address = (await client.guest(NAME)).addresses[0]
        run("ip", "address", "replace", f"{address.rsplit('.', 1)[0]}.250/24", "dev", TAP)
        links = [int(node.link.rsplit(":", 1)[1]) for node in await client.nodes() if node.link]
        yield Ours(client, address, links, folder)
