"""Batches of pages, squeezed."""

from __future__ import annotations

import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from node.core import CoreDataError
from node.migration.squeeze import FASTEST, LEAST, LOOK, MAGIC, PASS_OVER, USUAL, Squeezer, Unsqueezer

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


def squeezer_of(ns_per_byte: float, first: int = USUAL) -> Squeezer:
    """One that has found a link of that speed, on a host that is as fast as LEVELS says."""
    squeezer = Squeezer(first)
    for _ in range(3):
        squeezer.sent(1 << 20, ns_per_byte * (1 << 20) / 1e9)
    return squeezer


def test_the_level_follows_the_link() -> None:
    assert Squeezer().level == USUAL
    assert squeezer_of(0.7).level is None  # loopback
    assert squeezer_of(8.0).level == 1  # 1 Gbit/s
    assert squeezer_of(80.0).level == 6  # 100 Mbit/s
    levels = [squeezer_of(1.1**step).level or -100 for step in range(60)]
    assert levels == sorted(levels)


def test_what_is_small_says_nothing_of_the_link() -> None:
    squeezer = squeezer_of(80.0)
    for _ in range(100):
        squeezer.sent(LOOK - 1, 1e-9)
    assert squeezer.level == 6


def test_nothing_is_squeezed_for_a_fast_link() -> None:
    batch = memoryview(bytes(1 << 20))
    assert squeezer_of(0.1, FASTEST).squeeze(batch) is batch


def test_hostile_frames_are_refused() -> None:
    good = zstandard.ZstdCompressor().compress(bytes(MOST))
    assert len(Unsqueezer(MOST).unsqueeze(good)) == MOST
    bomb = zstandard.ZstdCompressor().compress(bytes(MOST + 1))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(MOST))
    for bad in (bomb, unsized, good[:-1], good[:5], MAGIC, good + b"more"):
        with pytest.raises(CoreDataError, match="batch"):
            Unsqueezer(MOST).unsqueeze(bad)
