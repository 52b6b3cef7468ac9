"""No frame is lost by a move: every ping of a guest comes back, wherever the other goes, and also when a move fails.

Real daemons on three nodes and Debian guests. A ping that is under way while its target stands still comes late.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from wherry import context, paths
from wherry.client import Client
from wherry.demo import pings, traffic
from wherry.demo.daemons import Daemons
from wherry.errors import ApiError
from wherry.image.store import Library

pytestmark = [pytest.mark.debian, pytest.mark.slow]
NODES = ("n1", "n2", "n3")
HELD_S = 0.5


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Client, Path]]:
    """Three nodes, guest "still" on n1 and guest "mover" on n2, both up; and the folder of hold points."""
    home = paths.home() / "images"
    if not home.is_dir() or "debian" not in Library(home).names():
        pytest.skip("no Debian image: wherry image build debian")
    with tempfile.TemporaryDirectory(prefix="wherry-t-") as name:
        daemons = Daemons(Path(name))
        holds = daemons.folder / "holds"
        holds.mkdir()
        monkeypatch.setenv("WHERRY_HOLD_DIR", str(holds))
        try:
            coordinator = await daemons.coordinator()
            target = context.load(str(coordinator.ready["api"]), "", daemons.access_file)
            async with Client(target) as made:
                for node in NODES:
                    await daemons.node(node, (await made.create_join_token(600)).join)
                library = Library(home)
                await made.push(library, library.get("debian"), lambda *_: None)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(boot, made, "still", "n1")
                    nursery.start_soon(boot, made, "mover", "n2")
                yield made, holds
        finally:
            with trio.CancelScope(shield=True):
                await daemons.stop()


async def boot(client: Client, name: str, node: str) -> None:
    wish = {"name": name, "image": "debian", "memory": 256 << 20, "cpus": 1, "networks": ["lan"], "on": node}
    await client.finish(await client.run(**wish))
    with trio.fail_after(120):
        while (await client.guest(name)).booted_s is None:  # noqa: ASYNC110 - the API has no event for it
            await trio.sleep(0.2)


async def test_every_ping_comes_back(cluster: tuple[Client, Path]) -> None:
    client, holds = cluster
    ping = traffic.Pings(client, "still", (await client.guest("mover")).addresses[0])
    await ping.start()
    for node in ("n3", "n1", "n2", "n3"):  # between two other nodes, to the pinging guest's own, away from there
        await client.finish(await client.guest_action("mover", "migrate", to=node, verify=node == "n2"))
        assert (await client.guest("mover")).node == node
        await ping.reach(await ping.last() + 20)
    await cancel_a_move(client, holds, "mover", "n2")
    assert (await client.guest("mover")).node == "n3"
    await ping.reach(await ping.last() + 20)
    run = await ping.stop()
    assert run.sent > 100
    assert run.lost == []
    assert run.duplicates == 0
    assert pings.longest_gap_ms(run.replies) > HELD_S * 1000  # it did stand still


async def cancel_a_move(client: Client, holds: Path, guest: str, to: str) -> None:
    """While the guest is paused and the target has everything but has not loaded it."""
    hold, reached = holds / "target.switch.hold", holds / "target.switch.reached"
    reached.unlink(missing_ok=True)
    hold.touch()
    operation = await client.guest_action(guest, "migrate", to=to)
    with trio.fail_after(30):
        while not reached.exists():  # noqa: ASYNC110 - another process writes it
            await trio.sleep(0.02)
    await trio.sleep(HELD_S)
    await client.cancel(operation.id)
    await trio.sleep(0.1)
    hold.unlink()
    with pytest.raises(ApiError, match="cancel"):
        await client.finish(operation)
