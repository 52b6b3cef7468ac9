"""Figures of the migration bench that are computed from what a guest says."""

from __future__ import annotations

import pytest

from bench.migration_guest import NoFigure
from bench.migration_speed import BUCKET_S, longest_still, slowdown


def test_a_guest_that_calculates_less_while_it_is_copied() -> None:
    copied = 100 * BUCKET_S
    counts = [50] * 400 + [40] * 100 + [0] * 4 + [50] * 200
    assert slowdown(counts, copied) == pytest.approx(20.0)


def test_short_stops_before_are_not_the_switch() -> None:
    assert longest_still([5, 0, 5, 5, 0, 0, 0, 5, 0, 0, 5]) == 4


@pytest.mark.parametrize(
    ("counts", "copied"),
    [([50] * 100, 0.1), ([50] * 100 + [0] * 3 + [50] * 100, 100 * BUCKET_S), ([50] * 500 + [0], 5 * BUCKET_S)],
    ids=["never still", "too early", "too short a copy"],
)
def test_what_says_nothing_gives_no_figure(counts: list[int], copied: float) -> None:
    with pytest.raises(NoFigure):
        slowdown(counts, copied)
