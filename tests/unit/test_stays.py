"""What is kept of guests that have left: bounded in size and time, given back first when memory is wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from node.stays import AGE_S, LOOK_S, Stays

MIB = 1 << 20
GIB = 1 << 30


def memory(size: int) -> int:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4 * size)
    os.pwrite(fd, bytes(size), 0)
    return fd


def put(stays: Stays, guest: str, size: int) -> None:
    fd = memory(size)
    stays.keep(guest, fd)
    os.close(fd)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def stays() -> Iterator[Stays]:
    kept = Stays(4 * MIB, close=os.close)
    before = descriptors()
    yield kept
    kept.close()
    assert descriptors() == before


async def test_kept_without_a_copy(stays: Stays) -> None:
    fd = memory(MIB)
    os.pwrite(fd, b"what it had", 4096)
    stays.keep("a", fd)
    os.close(fd)
    assert stays.size == MIB
    there = stays.open("a")
    assert there is not None
    stays.forget("a")  # in the middle of a migration that copies out of it
    assert os.pread(there, 11, 4096) == b"what it had"
    os.close(there)
    assert stays.open("a") is None
    assert stays.size == 0


async def test_the_oldest_goes_first(stays: Stays) -> None:
    for guest in "abcd":
        put(stays, guest, MIB)
    put(stays, "e", 2 * MIB)
    assert [guest for guest in "abcde" if guest in stays] == ["c", "d", "e"]
    put(stays, "c", MIB)  # left again: the newest now
    stays.shrink(3 * MIB)
    assert [guest for guest in "abcde" if guest in stays] == ["c", "e"]
    stays.shrink(-5)
    assert stays.size == 0


async def test_what_is_not_kept(stays: Stays) -> None:
    put(stays, "a", MIB)
    put(stays, "big", 5 * MIB)
    put(stays, "empty", 0)
    stays.keep("closed", 10**6)
    assert [guest for guest in ("a", "big", "empty", "closed") if guest in stays] == ["a"]
    nothing = Stays(0)
    put(nothing, "a", 4096)
    assert "a" not in nothing


async def test_old_ones_are_given_back(stays: Stays, autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stays.run, lambda: (16 * GIB, 8 * GIB))
        put(stays, "a", MIB)
        await trio.sleep(AGE_S / 2)
        put(stays, "b", MIB)
        await trio.sleep(AGE_S / 2 + 2 * LOOK_S)
        assert "a" not in stays
        assert "b" in stays
        nursery.cancel_scope.cancel()


async def test_a_host_that_runs_short_gets_it_back(stays: Stays, autojump_clock: trio.testing.MockClock) -> None:
    free = GIB
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stays.run, lambda: (16 * GIB, free))
        put(stays, "a", MIB)
        put(stays, "b", MIB)
        await trio.sleep(2 * LOOK_S)
        assert stays.size == 2 * MIB
        free = GIB - MIB
        await trio.sleep(2 * LOOK_S)
        assert "a" not in stays
        nursery.cancel_scope.cancel()
