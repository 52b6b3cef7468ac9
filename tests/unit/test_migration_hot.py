"""Which pages go while the guest stands still: what it goes on writing, not what it streams through."""

from __future__ import annotations

from typing import Any

import pytest
import trio.testing

from node.migration.hot import LEAST, HotPages, lowest

PAGES = 4096


def bitmap(pages: set[int] | range) -> bytes:
    return sum(1 << page for page in pages).to_bytes(PAGES // 8, "little")


class View:
    """Its guest writes the pages of ``rounds`` in a row."""

    def __init__(self, *rounds: set[int]) -> None:
        self._rounds = list(rounds)
        self._now: set[int] = set()

    def round(self, timeout_ms: int) -> int:
        was, self._now = self._now, self._rounds.pop(0)
        return len(was)

    def dirty(self) -> bytes:
        return bitmap(self._now)


async def hot(view: Any, recent: bytes, rate: float = 0.0) -> bytes:
    pages = HotPages(view)
    await pages.watch()
    pages.rate = rate
    return pages.hot(recent)


async def test_what_is_written_in_both_times_is_hot(autojump_clock: trio.testing.MockClock) -> None:
    view = View({1, 2, 3, *range(100, 200)}, {2, 3, 4, *range(200, 300)})
    assert await hot(view, bytes(PAGES // 8)) == bitmap({2, 3})


async def test_a_slow_link_takes_few_and_the_recent_ones_first(autojump_clock: trio.testing.MockClock) -> None:
    many, recent = set(range(1000)), set(range(500, 530))
    found = int.from_bytes(await hot(View(many, many), bitmap(recent)), "little")
    assert {page for page in range(PAGES) if found >> page & 1} == recent | set(range(LEAST - len(recent)))
    assert int.from_bytes(await hot(View(many, many), bitmap(recent), rate=1e9), "little").bit_count() == 1000


@pytest.mark.parametrize("bits", [0, 1, 1 << 4095, (1 << 70) - 1, 0b1011 << 1000 | 1])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_the_lowest(bits: int, count: int) -> None:
    found = lowest(bits, count)
    assert found & bits == found
    assert found.bit_count() == min(count, bits.bit_count())
    assert found == 0 or (bits & ~found) == 0 or (bits & ~found & -(bits & ~found)) > found
