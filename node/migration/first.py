"""Several tasks until one of them ends, with its own exception and not a group of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def first_to_end(*tasks: Callable[[], Awaitable[None]]) -> None:
    """Run them together; when one returns or raises, cancel the others. The first Exception is raised as it is."""
    failures: list[Exception] = []

    async def run(task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception as error:
            failures.append(error)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(run, task)
    if failures:
        raise failures.pop()  # popped: no cycle through this frame
