"""The agent's session to its coordinator: what ends it, and that it ends nothing else."""

from __future__ import annotations

from typing import Any, cast

import trio
import trio.testing

from node.links import Coordinator
from protocol.errors import LinkClosed
from protocol.transport import Handlers


class Silent:
    """A link that is found dead by those who use it, before it says so itself."""

    async def wait_closed(self) -> None:
        await trio.sleep_forever()


async def test_parts_of_a_session_that_find_the_link_dead_end_the_session_only() -> None:
    coordinator = Coordinator(cast(Any, None), "127.0.0.1:1", Handlers())

    async def part() -> None:
        raise LinkClosed("peer silent")

    async def session(link: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part)
            nursery.start_soon(part)

    with trio.fail_after(5):
        await coordinator._live(cast(Any, Silent()), session)
    assert coordinator.link is None
