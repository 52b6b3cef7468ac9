"""A path that is narrower than a network's MTU, found out by the switches of two hosts and told to people."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.cluster.hosts import Hosts, why_not
from wherry import context, model
from wherry.client import Client
from wherry.demo.daemons import Daemons

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
NODES = ["n1", "n2"]


async def test_a_narrow_path_is_named_with_its_networks(tmp_path: Path) -> None:
    daemons = Daemons(tmp_path)
    with Hosts(NODES, "10.213.9") as hosts:
        try:
            coordinator = await daemons.coordinator(hosts.outside)
            async with Client(context.load(str(coordinator.ready["api"]), "", daemons.access_file)) as client:
                await client.create_network("jumbo", mtu=9000)
                for name in NODES:
                    token = await client.create_join_token(600)
                    await daemons.node(name, token.join, hosts[name].address, hosts[name].enter)
                    for network in ("lan", "jumbo"):
                        await client.attach(network=network, kind="tap", local=f"t-{network}", on=name)
                event = await narrow(client)
                assert event.data["network"] == "jumbo"  # the path of 1500 bytes has room for lan's 1400
                assert {event.node, event.data["peer"]} == set(NODES)
                assert 1400 <= event.data["mtu"] < 1500
                found = {network.name: network for network in await client.networks()}
                assert found["jumbo"].carries == event.data["mtu"]
                assert set(found["jumbo"].narrow) == set(NODES)
                assert (found["lan"].carries, found["lan"].narrow) == (1400, [])
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
                await daemons.stop()


async def narrow(client: Client) -> model.Event:
    with trio.fail_after(60):
        async for event in client.events(0, follow=True):
            if event.kind == "net.mtu":
                return event
    raise AssertionError("the events ended")
