"""The handover, exhaustively: every order of messages, every fault at every moment, up to so many faults.

Each configuration is searched until no new state is found. Then: in no state two copies run, none runs in a generation
that is not the store's, no page is lost, the generation never goes back; and from every state the guest comes to run,
whole, at its owner, with nothing left over, without anybody's help. ``make model`` allows more faults.

Faults are counted: one in a run of ``make test``, up to two in one of ``make model``; what needs more is not found.
One guest, one migration, one round (pre-copy) or two (hybrid), one chunk of pages that is pulled.

A check that finds nothing may be one that looks at nothing: machines and rules that are wrong in one point
(tests/model/mutants.py) must be caught, each for its own reason.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from protocol.messages import MigrationParams
from protocol.messages.moves import MigrationMode
from tests.model import mutants
from tests.model.handover import Handover
from tests.model.search import Found, Rule, Wrong, explore
from tests.model.state import State

LONG = os.environ.get("WHERRY_MODEL") == "1"
MOST = 40_000_000 if LONG else 2_000_000
DIRTY = {"hybrid": 30_000}  # pages that each round leaves: so many never become fewer


def model(mode: MigrationMode, faults: int, *, verify: bool = False, disks: bool = False, **wrong: Any) -> Handover:
    params = MigrationParams(mode=mode, max_rounds=4, verify=verify)
    return Handover(params, faults=faults, dirty=DIRTY.get(mode, 1), disks=disks, **wrong)


def rules(made: Handover) -> list[Rule]:
    """What must come true without faults; the last three without the one who is gone, for as long as it is."""
    early = ("idle", "prepare", "copy", "hold", "switch", "abort")

    def undecided_without_target(state: State) -> bool:
        return not state.t_up and state.decision != "committed"

    def runs_here_or_committed(state: State) -> bool:
        return state.s_copy == "running" or state.decision == "committed"

    def committed_without_source(state: State) -> bool:
        return not state.s_up and state.decision == "committed"

    def runs_there(state: State) -> bool:
        return state.t_copy is not None and state.t_copy.state == "running"

    def early_without_coordinator(state: State) -> bool:
        return not state.c_up and state.s >= 0 and made.bank.phase(state.s) in early

    def runs_here(state: State) -> bool:
        return bool(state.s_copy == "running")

    return [
        Rule("one copy runs at its owner, and nothing is left over", lambda state: True, made.good),
        Rule("it runs at the source without the target", undecided_without_target, runs_here_or_committed, "restart T"),
        Rule("it runs at the target without the source", committed_without_source, runs_there, "restart S"),
        Rule("before it asks, the source needs no coordinator", early_without_coordinator, runs_here, "restart C"),
    ]


def search(made: Handover) -> Found:
    found = explore(made, rules(made), most=MOST)
    assert all(begun and ends for begun, ends in found.ends.values()) or not made.faults, found
    return found


CASES: list[tuple[MigrationMode, int, bool, bool]] = [
    ("precopy", 1, False, False),
    ("precopy", 1, True, False),
    ("postcopy", 1, False, False),
    ("stop-and-copy", 1, False, False),
    ("precopy", 1, False, True),
]
LONGER: list[tuple[MigrationMode, int, bool, bool]] = [
    ("hybrid", 1, False, False),
    ("precopy", 2, False, False),
    ("stop-and-copy", 2, False, False),
    ("postcopy", 1, False, True),
    ("hybrid", 1, False, True),
]


@pytest.mark.parametrize(("mode", "faults", "verify", "disks"), [*CASES, *(LONGER if LONG else [])])
def test_every_state(mode: MigrationMode, faults: int, verify: bool, disks: bool, record_property: Any) -> None:
    found = search(model(mode, faults, verify=verify, disks=disks))
    record_property("states", found.states)
    print(f"\n{mode} faults={faults} verify={verify} disks={disks}: {found.states} states, {found.steps} steps")


@pytest.mark.parametrize("disks", [False, True])
@pytest.mark.parametrize("mode", ["precopy", "postcopy", "hybrid", "stop-and-copy"])
def test_without_faults_it_is_committed(mode: MigrationMode, disks: bool) -> None:
    """The search is over few states then, so its ends can be told: all of them."""
    made = model(mode, 0, disks=disks)
    decisions = set()

    def settled(state: State) -> bool:
        if made.good(state):
            decisions.add(state.decision)
        return made.good(state)

    found = explore(made, [Rule("it ends", lambda state: True, settled)], most=MOST)
    assert decisions == {"committed"}
    assert found.states > 50


@pytest.mark.parametrize("mutant", mutants.ALL, ids=lambda mutant: str(mutant.name))
def test_what_is_wrong_is_found(mutant: mutants.Mutant) -> None:
    made = model(mutant.mode, mutant.faults, verify=mutant.verify, disks=mutant.disks, **mutant.wrong)
    with pytest.raises(Wrong, match=mutant.caught):
        search(made)
