"""Batches of pages, squeezed."""

from __future__ import annotations

import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from node.core import CoreDataError
from node.migration.squeeze import LEAST, LEVELS, MAGIC, PASS_OVER, Squeezer, Unsqueezer

MOST = 1 << 20


@given(st.binary(max_size=2 * LEAST), st.integers(1, 8))
def test_what_goes_in_comes_out(piece: bytes, times: int) -> None:
    batch = b"\xdd" + piece * times
    assert bytes(Unsqueezer(MOST).unsqueeze(bytes(Squeezer().squeeze(memoryview(batch))))) == batch


def test_what_is_small_goes_as_it_is() -> None:
    batch = memoryview(bytes(LEAST - 1))
    assert Squeezer().squeeze(batch) is batch


def test_noise_is_passed_over_for_a_while() -> None:
    noise, text = random.Random(1).randbytes(1 << 16), bytes(1 << 16)
    squeezer = Squeezer()
    assert bytes(squeezer.squeeze(memoryview(noise))) == noise
    for _ in range(PASS_OVER):
        assert bytes(squeezer.squeeze(memoryview(text))) == text
    assert bytes(squeezer.squeeze(memoryview(text))).startswith(MAGIC)


def test_the_level_follows_who_waits() -> None:
    squeezer = Squeezer()
    assert squeezer.level == LEVELS[0]
    for _ in LEVELS:
        squeezer.took(making=0.01, sending=0.05)
    assert squeezer.level == LEVELS[-1]
    squeezer.took(making=0.01, sending=0.015)
    assert squeezer.level == LEVELS[-1]
    for _ in LEVELS:
        squeezer.took(making=0.02, sending=0.01)
    assert squeezer.level == LEVELS[0]


def test_hostile_frames_are_refused() -> None:
    good = zstandard.ZstdCompressor().compress(bytes(MOST))
    assert len(Unsqueezer(MOST).unsqueeze(good)) == MOST
    bomb = zstandard.ZstdCompressor().compress(bytes(MOST + 1))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(MOST))
    for bad in (bomb, unsized, good[:-1], good[:5], MAGIC, good + b"more"):
        with pytest.raises(CoreDataError, match="batch"):
            Unsqueezer(MOST).unsqueeze(bad)
