"""What holds of every placement, whatever the cluster."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from coordinator.placement import CPU_OVERCOMMIT, Candidate, Demand, place

MIB = 1 << 20

nodes = st.builds(
    Candidate,
    node=st.integers(1, 50),
    name=st.sampled_from(["a", "b", "c"]),
    alive=st.booleans(),
    cordoned=st.booleans(),
    memory=st.integers(0, 4096).map(lambda n: n * MIB),
    memory_used=st.integers(0, 6000).map(lambda n: n * MIB),
    cpus=st.integers(1, 16),
    cpus_used=st.integers(0, 200),
    guests=st.integers(0, 40),
    load=st.floats(0, 100),
)
clusters = st.lists(nodes, max_size=8, unique_by=lambda n: n.node)
demands = st.builds(
    Demand,
    memory=st.integers(16, 4096).map(lambda n: n * MIB),
    cpus=st.integers(1, 64),
    on=st.none() | st.integers(1, 50),
    avoid=st.dictionaries(st.integers(1, 50), st.just("why"), max_size=3),
    previous=st.none() | st.integers(1, 50),
)


def fits(d: Demand, n: Candidate) -> bool:
    """The filters once more, as one plain condition."""
    return (
        n.alive
        and not n.cordoned
        and d.on in (None, n.node)
        and n.node not in d.avoid
        and n.memory_used + d.memory <= n.memory
        and n.cpus_used + d.cpus <= int(n.cpus * CPU_OVERCOMMIT)
    )


@given(demands, clusters)
def test_exactly_what_fits_is_chosen_from(demand: Demand, cluster: list[Candidate]) -> None:
    placement = place(demand, cluster)
    assert {v.node for v in placement.verdicts if v.fits} == {n.node for n in cluster if fits(demand, n)}
    assert (placement.chosen is None) == (not any(v.fits for v in placement.verdicts))
    for verdict in placement.verdicts:
        assert verdict.fits or verdict.reasons, "every refusal has a reason"
    if placement.chosen is not None:
        assert placement.chosen.score == max(v.score for v in placement.verdicts if v.fits)


@given(demands, clusters, st.randoms())
def test_the_order_of_nodes_does_not_matter(demand: Demand, cluster: list[Candidate], random: object) -> None:
    shuffled = list(cluster)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert place(demand, shuffled) == place(demand, cluster)


@given(demands, clusters, nodes)
def test_a_node_that_does_not_fit_changes_nothing(demand: Demand, cluster: list[Candidate], extra: Candidate) -> None:
    extra = replace(extra, node=99, alive=False)
    assert place(demand, [*cluster, extra]).chosen == place(demand, cluster).chosen


@given(demands, clusters)
def test_more_memory_in_use_never_makes_a_node_fit(demand: Demand, cluster: list[Candidate]) -> None:
    before = {v.node for v in place(demand, cluster).verdicts if v.fits}
    fuller = [replace(n, memory_used=n.memory_used + 64 * MIB) for n in cluster]
    assert {v.node for v in place(demand, fuller).verdicts if v.fits} <= before
