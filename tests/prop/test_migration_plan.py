"""The plan of a copy over simulated guests: it always ends, in time, and what it predicts comes about."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import assume, given
from hypothesis import strategies as st

from node.migration.bucket import TokenBucket
from protocol.messages import MigrationParams
from protocol.migration import RoundDone
from protocol.migration.plan import PAGE, Again, Choice, Curve, GiveUp, GoPostcopy, Plan, Switch, Throttle, forecast

Writes = Callable[[float], float]  # different pages written within t seconds of the guest's time


def evenly(rate: float, working_set: float) -> Writes:
    return lambda t: min(rate * t, working_set)


def at_random(rate: float, working_set: float) -> Writes:
    return lambda t: working_set * -math.expm1(-rate * t / working_set) if working_set else 0.0


class Run(NamedTuple):
    plan: Plan
    last: Choice
    seconds: float
    longest: float  # round
    sent: int
    waiting: float  # bytes at the pause


def looks(seconds: float) -> list[float]:
    times, at, step = [], 0.005, 0.005
    while at < seconds:
        times.append(at)
        step = min(2 * step, 0.25)
        at += step
    return times


def migrate(writes: Writes, params: MigrationParams, *, present: int, link: float) -> Run:
    """As the source does it: rounds until the plan says something else, or the deadline has passed."""
    plan, now, dirty, sent, longest = Plan(params), 0.0, present, 0, 0.0
    choice = plan.begin()
    while isinstance(choice, Again | Throttle) and now < params.deadline_s:
        if isinstance(choice, Throttle):
            assert choice.percent > plan.throttle, "a throttle only grows"
            plan.resting(choice.percent)
        takes, share = dirty * PAGE / link + 0.001, plan.share
        curve = tuple((t, int(writes(t * share))) for t in looks(takes))
        pages, dirty = dirty, int(writes(takes * share))
        now, longest, sent = now + takes, max(longest, takes), sent + pages * PAGE
        done = RoundDone(pages, 0, pages * PAGE, takes, dirty, curve)
        choice = plan.after(done, params.deadline_s - now)
    return Run(plan, choice, now, longest, sent, dirty * PAGE)


guests = st.builds(
    lambda kind, rate, share: (kind, rate, share),
    st.sampled_from([evenly, at_random]),
    st.floats(0, 400_000),
    st.floats(0.01, 1),
)
ways = st.builds(
    MigrationParams,
    mode=st.sampled_from(["auto", "precopy", "hybrid"]),
    on_stall=st.sampled_from(["abort", "throttle", "postcopy"]),
    max_blackout_ms=st.floats(1, 1000),
    max_rounds=st.integers(1, 60),
    deadline_s=st.floats(1, 600),
)


@given(guests, ways, st.integers(1000, 1 << 18), st.floats(1e6, 1e9))
def test_every_copy_ends(
    guest: tuple[Callable[[float, float], Writes], float, float], params: MigrationParams, present: int, link: float
) -> None:
    kind, rate, share = guest
    run = migrate(kind(rate, share * present), params, present=present, link=link)
    assert run.plan.rounds <= params.max_rounds
    assert run.seconds <= params.deadline_s + run.longest
    if isinstance(run.last, Switch):
        assert 1000 * run.waiting / link <= params.max_blackout_ms * 1.01 + 0.01
    if isinstance(run.last, GiveUp):
        assert params.on_stall != "postcopy"
        assert "does not converge" in run.last.reason
    if isinstance(run.last, GoPostcopy):
        assert params.on_stall == "postcopy" or params.mode == "hybrid"
    if params.on_stall != "throttle" or params.mode == "hybrid":
        assert run.plan.throttle_most == 0


@given(
    st.floats(0, 1_000_000),
    st.floats(0.05, 1),
    st.integers(4096, 1 << 17),
    st.floats(5e7, 1e9),
    st.sampled_from([evenly, at_random]),
)
def test_throttling_always_does(
    rate: float, share: float, present: int, link: float, kind: Callable[[float, float], Writes]
) -> None:
    """Where the deadline leaves time for it, and a hundredth of what the guest writes fits into the link."""
    assume(rate * PAGE / 100 < 0.3 * link)
    params = MigrationParams(max_blackout_ms=30, max_rounds=60, deadline_s=600)
    run = migrate(kind(rate, share * present), params, present=present, link=link)
    assert isinstance(run.last, Switch), run.last


@given(st.floats(0, 0.7), st.floats(0.05, 1), st.integers(4096, 1 << 17), st.floats(5e7, 1e9))
def test_even_writers_are_predicted(load: float, share: float, present: int, link: float) -> None:
    """One that writes ``load`` of what the link carries, without a pause, converges; rounds, bytes and time are known
    after the first round, whatever the writer does."""
    params = MigrationParams(max_blackout_ms=50, deadline_s=600)
    run = migrate(evenly(load * link / PAGE, share * present), params, present=present, link=link)
    assert isinstance(run.last, Switch)
    first = run.plan.first
    assert first is not None
    assert first.converges
    assert abs(1 + first.rounds - run.plan.rounds) <= max(2, 0.3 * run.plan.rounds)
    begun = present * PAGE / link
    slack = 0.15 * run.seconds + 0.02
    assert abs(begun + first.seconds - run.seconds) <= slack
    assert abs(present * PAGE + first.bytes - (run.sent + run.waiting)) <= 0.15 * run.sent + link * 0.02
    assert abs(first.blackout_ms - 1000 * run.waiting / link) <= 15


@given(
    st.lists(st.tuples(st.floats(0.001, 10), st.integers(0, 10_000)), max_size=20), st.floats(0, 20), st.floats(0, 20)
)
def test_a_curve_never_falls(points: list[tuple[float, int]], a: float, b: float) -> None:
    curve = Curve(points, 20_000)
    assert 0 <= curve.at(min(a, b)) <= curve.at(max(a, b)) + 1e-6 <= 20_001


def test_a_link_that_carries_nothing_is_no_forecast() -> None:
    assert forecast(Curve(()), 10, rate=0, cost=PAGE, max_blackout_ms=1, max_rounds=5).blackout_ms == math.inf


@given(
    st.integers(1 << 10, 1 << 30),
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.2), st.floats(0, 1)), min_size=1, max_size=200),
)
def test_streams_that_share_a_bucket_keep_its_rate(rate: int, asked: list[tuple[int, float, float]]) -> None:
    """Over every stretch of time what goes is at most rate x time + burst, whoever asks."""
    bucket = TokenBucket(rate)
    free = [0.0] * 4  # when a stream asks again
    now, went = 0.0, []
    for stream, pause, part in asked:
        now = max(now, free[stream]) + pause
        count = max(1, int(bucket.slice * part))
        when = bucket.take(count, now)
        assert when >= now
        free[stream] = when
        went.append((when, count))
    went.sort()
    for i, (begin, _) in enumerate(went):
        total = 0
        for when, count in went[i:]:
            total += count
            assert total <= rate * (when - begin) + bucket.burst + bucket.slice + 1e-6 * rate


def test_a_bucket_without_a_rate_lets_all_through() -> None:
    assert TokenBucket(0).take(1 << 30, 5.0) == 5.0


@given(st.integers(1, 40), st.floats(0.05, 2.0), st.integers(1, 30))
def test_a_guest_too_small_to_tell_the_rate_moves_however_long_a_round_waits(
    pages: int, wait: float, dirty: int
) -> None:
    plan, rounds = Plan(MigrationParams(max_blackout_ms=30)), 0
    choice = plan.after(RoundDone(pages, 0, pages * 512, wait, dirty, ()), 60.0)
    while isinstance(choice, Again | Throttle):
        rounds += 1
        if isinstance(choice, Throttle):
            plan.resting(choice.percent)
        choice = plan.after(RoundDone(dirty, 0, dirty * 512, wait, dirty, ()), 60.0 - rounds * wait)
    assert choice == Switch()
    assert rounds <= 10
