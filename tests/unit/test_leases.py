"""Which nodes live: in virtual time, as times are arguments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.leases import (
    BecameAlive,
    BecameLost,
    Expected,
    Heard,
    LeaseEvent,
    Leases,
    LinkLost,
    Registered,
    Removed,
    Tick,
)


def leases() -> Leases:
    return Leases(link_grace=5, silence=15)


def test_a_node_that_reports_stays_alive() -> None:
    t = leases()
    assert t.handle(Registered(1), 0) == [BecameAlive(1)]
    for now in range(3, 300, 3):
        assert t.handle(Heard(1), now) == []
        assert t.handle(Tick(), now) == []
    assert t.alive(1)


def test_silence_loses_a_node_and_a_word_brings_it_back() -> None:
    t = leases()
    t.handle(Registered(1), 0)
    assert t.next_deadline() == 15
    assert t.handle(Tick(), 14.9) == []
    [lost] = t.handle(Tick(), 15)
    assert isinstance(lost, BecameLost)
    assert "silent for 15.0 s" in lost.reason
    assert t.handle(Tick(), 16) == [], "once"
    assert t.handle(Heard(1), 17) == [BecameAlive(1)]


def test_a_lost_link_has_a_short_grace_that_registering_ends() -> None:
    t = leases()
    t.handle(Registered(1), 0)
    t.handle(LinkLost(1), 1)
    assert not t.alive(1), "it cannot be asked"
    assert t.state(1) == "alive", "but it is not lost yet"
    assert t.handle(Registered(1), 5) == []
    assert t.handle(Tick(), 6) == []
    t.handle(LinkLost(1), 7)
    [lost] = t.handle(Tick(), 12)
    assert isinstance(lost, BecameLost)
    assert "link down" in lost.reason
    assert t.handle(Heard(1), 13) == [], "a late word of the old session does not count"
    assert t.handle(Registered(1), 14) == [BecameAlive(1)]


def test_an_expected_node_has_the_full_time_after_a_restart() -> None:
    t = leases()
    t.handle(Expected(1), 100)
    assert t.state(1) == "expected"
    assert t.handle(Tick(), 114) == []
    assert [type(e) for e in t.handle(Tick(), 115)] == [BecameLost]


def test_removed_and_unknown_nodes() -> None:
    t = leases()
    t.handle(Registered(1), 0)
    t.handle(Removed(1), 1)
    assert t.handle(Tick(), 100) == []
    assert t.state(1) == "lost"
    assert t.handle(Heard(2), 0) == []
    assert t.next_deadline() is None


events = st.one_of(
    st.builds(Expected, st.integers(1, 3)),
    st.builds(Registered, st.integers(1, 3)),
    st.builds(Heard, st.integers(1, 3)),
    st.builds(LinkLost, st.integers(1, 3)),
    st.builds(Removed, st.integers(1, 3)),
    st.just(Tick()),
)


@given(st.lists(st.tuples(events, st.floats(0, 10)), max_size=60))
def test_effects_tell_every_change_and_nothing_else(steps: list[tuple[LeaseEvent, float]]) -> None:
    t, now = leases(), 0.0
    told: dict[int, str] = {}
    for event, wait in steps:
        now += wait
        if isinstance(event, Removed):
            told.pop(event.node, None)
        for effect in t.handle(event, now):
            word = "alive" if isinstance(effect, BecameAlive) else "lost"
            assert told.get(effect.node) != word
            told[effect.node] = word
        for node, word in told.items():
            assert t.state(node) == word
        t.handle(Tick(), now) if isinstance(event, Tick) else None
    deadline = t.next_deadline()
    if deadline is not None:
        assert t.handle(Tick(), deadline), "the deadline is when something happens"
