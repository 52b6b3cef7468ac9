"""Reconciliation: each rule of what a node has against what the store says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.model import Guest, Migration
from coordinator.reconcile import Action, Forget, Missing, Observe, Stop, TakeBack, Tell, reconcile
from protocol.messages import GuestSpec, GuestStatus, ImageFile, ImageRef

SPEC = GuestSpec(
    guest="g",
    name="web",
    image=ImageRef(name="i", digest="0" * 64, kind="linux", files=[ImageFile(role="kernel", sha256="0" * 64, size=1)]),
    memory=64 << 20,
    cpus=1,
)


def guest(node: int = 1, generation: int = 2, state: str = "running", desired: Any = "running") -> Guest:
    return Guest("g", "web", state, desired, "", node, generation, SPEC, 0.0)


def status(generation: int = 2, state: Any = "running", migration: str = "") -> GuestStatus:
    return GuestStatus(guest="g", generation=generation, state=state, migration=migration)


def migration(decision: Any, source: int = 1, target: int = 2) -> Migration:
    return Migration("m", "g", 2, source, target, decision, "", "op", 0.0, 0.0)


def act(
    known: Guest | None,
    *reported: GuestStatus,
    move: Migration | None = None,
    busy: bool = False,
    node: int = 1,
    protected: Migration | None = None,
) -> list[Action]:
    return reconcile(
        node,
        reported,
        guests={"g": known} if known else {},
        migrations={"m": move} if move else {},
        busy=frozenset({"g"} if busy else ()),
        protected={"g": protected} if protected else {},
    )


def test_the_owners_word_is_taken() -> None:
    assert act(guest(), status()) == [Observe(guest(), status())]


def test_a_copy_that_nobody_owns_must_go() -> None:
    assert act(None, status()) == [Forget("g", 2)]


def test_a_copy_that_is_pulled_from_stays_until_nobody_needs_it() -> None:
    """After a post-copy's COMMIT the source keeps its paused copy; the target says when it is done, if it can."""
    serving, move = status(2, "migrating", "m"), migration("committed")
    assert act(guest(node=2, generation=3), serving, move=move) == [Tell(move)]
    assert act(guest(node=2, generation=3), serving, move=move, busy=True) == [Tell(move)]
    for later in (None, guest(node=2, generation=3, state="crashed"), guest(node=2, generation=4)):
        assert act(later, serving, move=move) == [Tell(move), Forget("g", 2)]
    assert Forget("g", 2) not in act(guest(node=1, generation=2), serving, move=migration("pending"))


@pytest.mark.parametrize("known", [guest(node=2), guest(generation=3), guest(node=2, generation=3)])
def test_a_fenced_copy_must_go(known: Guest) -> None:
    assert Forget("g", 2) in act(known, status())


def test_an_older_copy_beside_a_missing_one() -> None:
    assert act(guest(generation=3), status()) == [Forget("g", 2), Missing(guest(generation=3))]


def test_a_copy_newer_than_the_store_is_left_alone() -> None:
    assert act(guest(), status(generation=3)) == []


@pytest.mark.parametrize(("state", "missing"), [("running", True), ("unknown", True), ("stopped", False)])
def test_what_the_owner_does_not_have(state: str, missing: bool) -> None:
    known = guest(state=state)
    assert act(known) == ([Missing(known)] if missing else [])


def test_an_operations_guest_is_its_own_business() -> None:
    assert act(guest(), status(), busy=True) == []
    assert act(guest(), busy=True) == []


def test_an_unwanted_guest_is_stopped() -> None:
    unwanted = guest(desired="stopped")
    assert act(unwanted, status()) == [Observe(unwanted, status()), Stop(unwanted)]
    assert act(unwanted, status(state="stopped")) == [Observe(unwanted, status(state="stopped"))]


@pytest.mark.parametrize("node", [1, 2])
def test_an_undecided_migrations_copies_are_left_alone(node: int) -> None:
    assert act(guest(state="migrating"), status(migration="m"), move=migration("pending"), node=node) == []


def test_a_decided_migrations_copies_are_told() -> None:
    committed = migration("committed")
    moved = guest(node=2, generation=3)
    assert act(moved, status(migration="m"), move=committed, node=1) == [Tell(committed)]
    assert act(moved, status(migration="m"), move=committed, node=2) == [Tell(committed)], "it may start now"
    aborted = migration("aborted")
    assert act(guest(), status(migration="m"), move=aborted, node=2) == [Tell(aborted)]
    mine = status(migration="m")
    assert act(guest(), mine, move=aborted, node=1) == [Tell(aborted), Observe(guest(), mine)]


def test_a_bystander_cannot_hide_behind_a_migration() -> None:
    assert act(guest(), status(migration="m"), move=migration("pending"), node=3) == [Forget("g", 2)]


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["running", "stopped", "unknown", "migrating"]),
    st.sampled_from(["pending", "committed", "aborted", None]),
    st.booleans(),
)
def test_the_owners_present_copy_is_never_forgotten(
    node: int, owned: int, reported: int, state: str, decision: str | None, busy: bool
) -> None:
    known = guest(generation=owned, state=state)
    move = migration(decision) if decision else None
    found = act(known, status(generation=reported, migration="m" if move else ""), move=move, busy=busy, node=node)
    if node == 1 and owned == reported:
        assert not any(isinstance(a, Forget | Missing) for a in found)
    if any(isinstance(a, Observe) for a in found):
        assert (node, reported) == (1, owned)


def test_a_protected_guest_is_given_back_on_its_owners_word_alone() -> None:
    move = migration("committed")
    owned = guest(node=2, generation=3)
    assert act(owned, status(3, "crashed", "m"), move=move, busy=True, node=2, protected=move) == [
        TakeBack(owned, move, True)
    ]
    assert act(owned, status(3, "crashed"), busy=True, node=2, protected=move) == [TakeBack(owned, move, True)]
    for word in (status(3, "running"), status(3, "stopped"), status(2, "crashed")):
        assert not any(isinstance(a, TakeBack) for a in act(owned, word, busy=True, node=2, protected=move))
    assert act(owned, busy=True, node=2, protected=move) == []  # the node says nothing of it
    assert not any(isinstance(a, TakeBack) for a in act(owned, status(3, "crashed"), node=1, protected=move))
    unwanted = guest(node=2, generation=3, desired="stopped")
    assert not any(isinstance(a, TakeBack) for a in act(unwanted, status(3, "crashed"), node=2, protected=move))
    assert act(owned, status(3, "crashed", "m"), move=move, busy=True, node=2) == [Tell(move)]


def test_a_source_that_was_given_the_guest_is_told_until_it_runs() -> None:
    move = migration("committed")
    given = guest(node=1, generation=4, state="starting")
    paused = status(2, "migrating", "m")
    assert act(given, paused, move=move, busy=True, protected=move) == [TakeBack(given, move, False)]
    assert act(given, status(4, "running"), protected=move) == [Observe(given, status(4, "running"))]
    refused = guest(node=1, generation=4, state="crashed")
    assert not any(isinstance(a, TakeBack) for a in act(refused, paused, move=move, protected=move))
