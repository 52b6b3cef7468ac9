"""Every step of a migration × every fault, over the pure machines: one running copy, always; the guest lives on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from protocol.messages import MigrationParams
from protocol.messages.moves import MigrationMode
from protocol.migration import CancelAsked
from tests.sim.world import COORDINATOR, MIGRATION, World

Fault = Callable[[World], None]


def cancel(world: World) -> None:
    for agent in (world.agents[1], world.agents[2]):
        if world.lives[agent.node]:
            agent.feed(agent.source, CancelAsked())


def duplicate(world: World) -> None:
    world.duplicate_next = True


def reopen(world: World) -> None:
    """A stale "abort" of the coordinator itself, as after its restart."""
    from protocol.migration.effects import AskStore

    if world.lives[COORDINATOR]:
        world.decide(COORDINATOR, AskStore("abort"))


def everything(world: World) -> None:
    for node in (COORDINATOR, 1, 2):
        world.crash(node, 1.0 + node)


FAULTS: dict[str, Fault] = {
    "source crashes": lambda w: w.crash(1, 3.0),
    "source crashes briefly": lambda w: w.crash(1, 0.004),
    "target crashes": lambda w: w.crash(2, 3.0),
    "target crashes briefly": lambda w: w.crash(2, 0.004),
    "coordinator crashes": lambda w: w.crash(COORDINATOR, 3.0),
    "coordinator crashes briefly": lambda w: w.crash(COORDINATOR, 0.004),
    "link source-target cut": lambda w: w.cut(1, 2, 3.0),
    "link source-coordinator cut": lambda w: w.cut(1, 0, 3.0),
    "link target-coordinator cut": lambda w: w.cut(2, 0, 3.0),
    "source cut off": lambda w: (w.cut(1, 2, 90.0), w.cut(1, 0, 90.0))[0],
    "target cut off": lambda w: (w.cut(1, 2, 90.0), w.cut(2, 0, 90.0))[0],
    "coordinator cut off": lambda w: (w.cut(1, 0, 90.0), w.cut(2, 0, 90.0))[0],
    "message lost": lambda w: w.cut(1, 2, 0.001),
    "store message lost": lambda w: w.cut(1, 0, 0.001),
    "message duplicated": duplicate,
    "cancelled": cancel,
    "aborted by the coordinator": reopen,
    "everything crashes": everything,
    "target's host crashes": lambda w: w.crash(2, 3.0, host=True),
    "source's host crashes": lambda w: w.crash(1, 3.0, host=True),
}


def migrate(
    fault: Fault | None = None,
    at: int = -1,
    second: Fault | None = None,
    gap: int = 0,
    mode: MigrationMode = "precopy",
    writes: int = 0,
    disks: bool = False,
) -> World:
    world = World(disks=disks)
    world.writes = writes

    def strike(step: int) -> None:
        if fault and step == at:
            fault(world)
        if second and step == at + gap:
            second(world)

    world.fault = strike
    verify = mode not in ("postcopy", "hybrid")
    world.begin(MigrationParams(mode=mode, max_rounds=10, verify=verify))
    world.settle()
    return world


STEPS = migrate().steps
POSTCOPY_STEPS = migrate(mode="postcopy").steps
DISK_STEPS = migrate(disks=True).steps
DISK_POSTCOPY_STEPS = migrate(mode="postcopy", disks=True).steps


def test_without_faults_it_commits() -> None:
    world = migrate()
    assert world.arbiter.migrations[MIGRATION].decision == "committed"
    result = world.agents[1].finished[0]
    assert (result.outcome, result.rounds) == ("committed", 3)
    assert result.source_checksum == result.target_checksum != ""
    assert 0 < result.blackout_ms < 200
    assert STEPS > 20


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_at_every_step_with_a_disk(name: str) -> None:
    modes: list[tuple[MigrationMode, int]] = [("precopy", DISK_STEPS), ("postcopy", DISK_POSTCOPY_STEPS)]
    for mode, steps in modes:
        outcomes = set()
        for step in range(steps):
            world = migrate(FAULTS[name], step, mode=mode, disks=True)
            outcomes.add(world.arbiter.migrations[MIGRATION].decision)
        assert "committed" in outcomes, mode


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_at_every_step(name: str) -> None:
    outcomes = set()
    for step in range(STEPS):
        world = migrate(FAULTS[name], step)
        outcomes.add(world.arbiter.migrations[MIGRATION].decision)
    # Struck early a crash aborts, struck at the very end it commits: both sides of the rule are exercised.
    if "crashes" in name and "coordinator" not in name:
        assert outcomes == {"aborted", "committed"}


def test_postcopy_without_faults_commits_and_pulls_everything() -> None:
    world = migrate(mode="postcopy")
    result = world.agents[1].finished[0]
    assert (result.outcome, result.rounds, result.postcopy) == ("committed", 1, True)
    assert result.pull_ms > 0
    assert 0 < result.blackout_ms < 200
    assert world.agents[2].finished[0].outcome == "committed"


@pytest.mark.parametrize("name", FAULTS)
def test_postcopy_with_one_fault_at_every_step(name: str) -> None:
    outcomes = set()
    for step in range(POSTCOPY_STEPS):
        world = migrate(FAULTS[name], step, mode="postcopy")
        outcomes.add(world.arbiter.migrations[MIGRATION].decision)
    if "crashes" in name and "coordinator" not in name:
        assert outcomes == {"aborted", "committed"}


HOSTS = ("target's host crashes", "source's host crashes")  # not both: a guest dies with its last host
GAPS = (1, 3, 8)
ALL = os.environ.get("WHERRY_SOAK") == "1"


def pairs(first: str) -> Iterator[tuple[int, str]]:
    return ((n, second) for n, second in enumerate(FAULTS) if not (first in HOSTS and second in HOSTS))


@pytest.mark.parametrize("first", FAULTS)
@pytest.mark.parametrize("mode", ["precopy", "postcopy"])
def test_every_pair_of_faults(mode: MigrationMode, first: str) -> None:
    """At every step, with each gap between the two, in the soak; otherwise at every second with one gap, so that the
    pairs of a fault meet every step and gap together."""
    for n, second in pairs(first):
        for step in range(POSTCOPY_STEPS if mode == "postcopy" else STEPS):
            for m, gap in enumerate(GAPS):
                if ALL or ((step + n) % 2 == 0 and m == (step // 2 + n) % 3):
                    migrate(FAULTS[first], step, FAULTS[second], gap, mode)


KINDS: dict[str, dict[str, Any]] = {"throttled": {"writes": 3000}, "stop-and-copy": {"mode": "stop-and-copy"}}


@pytest.mark.parametrize("kind", KINDS)
def test_one_fault_at_every_step_of_the_other_ways(kind: str) -> None:
    """Besides the rest: no guest stays throttled."""
    world = migrate(**KINDS[kind])
    assert world.arbiter.migrations[MIGRATION].decision == "committed"
    result = world.agents[1].finished[0]
    assert (result.throttle > 0, result.rounds > 0) == ((kind == "throttled",) * 2)
    for fault in FAULTS.values():
        for step in range(world.steps):
            migrate(fault, step, **KINDS[kind])
