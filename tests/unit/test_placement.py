"""Placement: each filter has its reason, scores prefer what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.placement import Candidate, Demand, place

GIB = 1 << 30
NODE = Candidate(
    node=1, name="n1", alive=True, cordoned=False, memory=4 * GIB, memory_used=0, cpus=2, cpus_used=0, guests=0
)
WISH = Demand(memory=GIB, cpus=1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"alive": False}, "not alive"),
        ({"cordoned": True}, "cordoned"),
        ({"memory": GIB // 2}, "memory: needs 1024 MiB, the node has 512 MiB"),
        ({"memory_used": 4 * GIB - GIB // 2}, "memory: needs 1024 MiB, 512 MiB of 4096 MiB are free"),
        ({"cpus_used": 16}, "cpus: needs 1, 0 of 16 are free"),
    ],
)
def test_each_filter_gives_its_reason(change: dict[str, object], reason: str) -> None:
    placement = place(WISH, [replace(NODE, **change)])  # type: ignore[arg-type]
    assert placement.chosen is None
    assert placement.verdicts[0].reasons == (reason,)
    assert placement.refusal() == f"no node fits: n1: {reason}"


def test_all_reasons_are_shown() -> None:
    placement = place(WISH, [replace(NODE, alive=False, cordoned=True, cpus_used=16)])
    assert len(placement.verdicts[0].reasons) == 3


def test_on_and_avoid() -> None:
    two = replace(NODE, node=2, name="n2")
    assert place(replace(WISH, on=2), [NODE, two]).chosen.name == "n2"  # type: ignore[union-attr]
    assert place(replace(WISH, avoid={1: "it runs there now"}), [NODE, two]).chosen.name == "n2"  # type: ignore[union-attr]
    assert place(replace(WISH, on=1, avoid={1: "it runs there now"}), [NODE, two]).chosen is None


@pytest.mark.parametrize(
    "worse",
    [{"memory_used": GIB}, {"cpus_used": 4}, {"guests": 3}, {"load": 4.0}],
)
def test_the_less_burdened_node_wins(worse: dict[str, object]) -> None:
    burdened = replace(NODE, **worse)  # type: ignore[arg-type]
    other = replace(NODE, node=2, name="n2")
    placement = place(WISH, [burdened, other])
    assert placement.chosen is not None
    assert placement.chosen.name == "n2"


def test_ties_go_to_the_former_node_then_to_the_lower_id() -> None:
    other = replace(NODE, node=2, name="n2")
    assert place(WISH, [other, NODE]).chosen.name == "n1"  # type: ignore[union-attr]
    assert place(replace(WISH, previous=2), [other, NODE]).chosen.name == "n2"  # type: ignore[union-attr]


def test_without_nodes() -> None:
    assert "no node has joined" in place(WISH, []).refusal()
