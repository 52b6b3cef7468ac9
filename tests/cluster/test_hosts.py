"""A cluster over three hosts with addresses of their own: guests talk, move, are relayed, and survive a cut cable."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.cluster.hosts import Hosts, why_not
from tests.guest.debian import debian_image
from wherry import context, model, paths
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
NODES = ["n1", "n2", "n3"]


@asynccontextmanager
async def cluster(folder: Path, hosts: Hosts) -> AsyncIterator[Client]:
    """Coordinator outside, a node on each host, the Debian image pushed."""
    debian_image()
    daemons = Daemons(folder)
    try:
        coordinator = await daemons.coordinator(hosts.outside)
        async with Client(context.load(str(coordinator.ready["api"]), "", daemons.access_file)) as client:
            for name in NODES:
                token = await client.create_join_token(600)
                await daemons.node(name, token.join, hosts[name].address, hosts[name].enter)
            library = Library(paths.home() / "images")
            await client.push(library, library.get("debian"), lambda *_: None)
            yield client
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
            await daemons.stop()


async def until(client: Client, guest: str, wanted: Callable[[model.Guest], bool], seconds: float = 60) -> model.Guest:
    """Follow the event stream until the guest is as wanted."""
    with trio.fail_after(seconds):
        while not wanted(found := await client.guest(guest)):
            with trio.move_on_after(1):  # an event tells of a change; a report without one is seen a second later
                async for _ in client.events((await client.info()).get("last_event", 0), follow=True):
                    break
        return found


async def boot(client: Client, name: str, node: str) -> None:
    await client.finish(
        await client.run(name=name, image="debian", memory=128 << 20, cpus=1, networks=["lan"], on=node)
    )
    await until(client, name, lambda guest: guest.booted_s is not None, 120)


async def ping(client: Client, source: str, target: str, count: int = 20) -> int:
    """How many of ``count`` pings, 50 ms apart, came back."""
    address = (await client.guest(target)).addresses[0]
    text = await traffic.sh(client, source, f"/usr/bin/ping -c {count} -i 0.05 -W 2 {address} || true", 60)
    found = re.search(r"(\d+) received", text)
    assert found, text
    return int(found[1])


async def test_guests_on_three_hosts(tmp_path: Path) -> None:
    with Hosts(NODES) as hosts:
        async with cluster(tmp_path, hosts) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(boot, client, "one", "n1")
                nursery.start_soon(boot, client, "two", "n2")
            assert await ping(client, "one", "two") >= 19

            # Over another host's wires: address and identity stay.
            before = await client.guest("two")
            operation = await client.finish(await client.guest_action("two", "migrate", to="n3", verify=True))
            after = await client.guest("two")
            assert (after.node, after.generation) == ("n3", before.generation + 1)
            assert after.nics == before.nics
            result = operation.result or {}
            assert result["source_checksum"] == result["target_checksum"] != ""
            assert await ping(client, "one", "two") >= 19

            # n1 and n3 lose sight of each other: frames go by n2, the link by the coordinator.
            hosts.block("n1", "n3")
            with trio.fail_after(30):
                while await ping(client, "one", "two", 5) < 5:
                    pass
            # The direct link dies by silence first; a migration over it fails with the guest still on its source.
            with trio.fail_after(60):
                while (await client.guest("two")).node != "n1":
                    with suppress(ApiError):
                        await client.finish(await client.guest_action("two", "migrate", to="n1"))
            assert await ping(client, "one", "two") >= 19
            await client.finish(await client.guest_action("two", "migrate", to="n3"))
            hosts.unblock("n1", "n3")

            # A cut cable: the guest is unknown, not restarted elsewhere; when the cable is back it is the same one.
            pid = (await until(client, "two", lambda guest: guest.pid != 0)).pid
            hosts.cut("n3")
            lost = await until(client, "two", lambda guest: guest.state == "unknown")
            assert lost.node == "n3"
            hosts.mend("n3")
            back = await until(client, "two", lambda guest: guest.state == "running")
            assert (back.pid, back.generation, back.node) == (pid, lost.generation, "n3")
            with trio.fail_after(30):
                while await ping(client, "one", "two", 5) < 5:
                    pass
