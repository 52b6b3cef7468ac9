"""A console over a link: the bytes of a guest's UART and a stream, both ways, until either ends."""

from __future__ import annotations

import trio

CHUNK = 65536


async def bridge(channel: trio.abc.Stream, stream: trio.abc.Stream) -> None:
    """Copy both ways. Returns when the guest ends or the other side closes; both streams are the caller's to close."""
    async with trio.open_nursery() as nursery:

        async def copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
            try:
                while data := await source.receive_some(CHUNK):
                    await sink.send_all(bytes(data))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(copy, channel, stream)
        nursery.start_soon(copy, stream, channel)
