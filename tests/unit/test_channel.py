"""The sealed connection that carries a migration's pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from node.migration.channel import GREETING, RECORD, Channel, new_keys


@asynccontextmanager
async def sockets() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    one, other = trio.socket.socketpair()
    left, right = trio.SocketStream(one), trio.SocketStream(other)
    async with left, right:
        yield left, right


@asynccontextmanager
async def channels() -> AsyncIterator[tuple[Channel, Channel]]:
    there, back = new_keys()
    async with sockets() as (left, right):
        yield Channel(left, seal=there, open=back), Channel(right, seal=back, open=there)


async def read_all(channel: Channel) -> bytes:
    whole = b""
    while data := await channel.receive_some():
        whole += data
    return whole


async def test_what_is_sent_comes_whole_both_ways() -> None:
    data = bytes(range(256)) * 5000
    async with channels() as (source, target), trio.open_nursery() as nursery:
        nursery.start_soon(source.send_all, memoryview(data))

        async def receive() -> None:
            got = b""
            while len(got) < len(data):
                got += await target.receive_some()
            assert got == data
            await target.send_all(b"\x01")
            assert await source.receive_some(1) == b"\x01"
            await source.send_eof()
            assert await target.receive_some() == b""
            assert await target.receive_some() == b""

        nursery.start_soon(receive)


async def test_each_end_knows_that_the_other_is_there() -> None:
    async with channels() as (source, target), trio.open_nursery() as nursery:
        nursery.start_soon(partial(source.greet, first=False))
        await target.greet(first=True)


async def test_a_connection_that_is_cut_before_the_greeting_is_found_out() -> None:
    async with sockets() as (left, right):
        there, back = new_keys()
        source = Channel(left, seal=there, open=back)
        await right.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await source.greet(first=False)


async def test_a_greeting_that_another_sealed_is_refused() -> None:
    async with sockets() as (left, right):
        source, stranger = Channel(left, seal=bytes(32), open=bytes(32)), Channel(right, seal=b"x" * 32, open=b"y" * 32)
        await stranger.send_all(GREETING)
        with pytest.raises(trio.BrokenResourceError, match="not seal"):
            await source.greet(first=False)


async def test_a_cut_is_not_the_end() -> None:
    async with channels() as (source, target):
        await source.send_all(b"pages")
        source.abort("cancelled", "the copy was stopped")
        assert await target.receive_some() == b"pages"
        with pytest.raises(trio.BrokenResourceError, match="closed"):
            await target.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="closed here"):
            await source.send_all(b"more")


@pytest.mark.parametrize("wrong", ["changed", "repeated", "left out", "swapped", "other key", "long", "short"])
async def test_only_what_was_sealed_in_this_order_opens(wrong: str) -> None:
    there, back = new_keys()
    async with sockets() as (left, right), sockets() as (tap, wire):
        sender, target = Channel(left, seal=there, open=back), Channel(wire, seal=back, open=there)
        records = []
        for text in (b"first", b"other"):
            await sender.send_all(text)
            records.append(bytes(await right.receive_some()))
        match wrong:
            case "changed":
                records[0] = records[0][:-1] + bytes([records[0][-1] ^ 1])
            case "repeated":
                records[1] = records[0]
            case "left out":
                records[0] = b""
            case "swapped":
                records.reverse()
            case "other key":
                target = Channel(wire, seal=back, open=back)
            case "long":
                records[0] = (RECORD + 17).to_bytes(4, "big") + records[0][4:]
            case "short":
                records[0] = (15).to_bytes(4, "big") + records[0][4:]
        await tap.send_all(b"".join(records))
        with pytest.raises(trio.BrokenResourceError, match=r"did not seal|record of"):
            await read_all(target)
