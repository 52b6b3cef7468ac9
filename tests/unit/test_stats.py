"""Counters of guests: samples and rates, the Prometheus text, the table of wherry top."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.metrics import Exposition
from coordinator.stats import STALE_S, Stats
from protocol.messages import GuestStatus
from wherry.commands.top import busiest_first, row, short
from wherry.model import GuestStats


def status(sampled: float, generation: int = 1, guest: str = "g1", **counters: int) -> GuestStatus:
    return GuestStatus(
        guest=guest, generation=generation, state="running", resident=4096, sampled=sampled, counters=counters
    )


def test_rates_are_those_between_two_samples() -> None:
    stats = Stats()
    stats.observe(1, [status(10.0, instructions=1_000_000, run_ns=0, mmio=5, exits_wfi=1)], 100.0)
    assert stats.rates("g1") is None
    stats.observe(1, [status(12.0, instructions=21_000_000, run_ns=10**9, mmio=9, exits_wfi=3, tlb_misses=8)], 102.5)
    rates = stats.rates("g1")
    assert rates is not None
    assert (rates.mips, rates.cpu_percent, rates.exits, rates.tlb_misses) == (10.0, 50.0, 3.0, 4.0)
    sample = stats.sample("g1", 1, 1, 103.0)
    assert sample is not None
    assert (sample.resident, sample.counters["instructions"]) == (4096, 21_000_000)


def test_a_repeated_or_empty_report_changes_nothing() -> None:
    stats = Stats()
    stats.observe(1, [status(10.0, instructions=0)], 100.0)
    stats.observe(1, [status(12.0, instructions=2_000_000)], 102.0)
    before = stats.rates("g1")
    stats.observe(1, [status(12.0, instructions=2_000_000)], 103.0)
    stats.observe(1, [status(11.0, instructions=1_000_000), status(0.0, instructions=5)], 103.0)
    stats.observe(1, [GuestStatus(guest="g1", generation=1, state="running")], 103.0)
    assert stats.rates("g1") == before


def test_a_copy_that_moved_begins_anew_and_the_old_one_is_not_heard() -> None:
    stats = Stats()
    stats.observe(1, [status(10.0, instructions=0)], 100.0)
    stats.observe(1, [status(12.0, instructions=10)], 102.0)
    stats.observe(2, [status(5.0, generation=2, instructions=3)], 103.0)
    stats.observe(1, [status(14.0, instructions=20)], 104.0)
    assert stats.rates("g1") is None
    assert stats.sample("g1", 1, 1, 104.0) is None
    sample = stats.sample("g1", 2, 2, 104.0)
    assert sample is not None
    assert sample.counters == {"instructions": 3}


def test_old_samples_go() -> None:
    stats = Stats()
    stats.observe(1, [status(10.0, instructions=0)], 100.0)
    assert stats.sample("g1", 1, 1, 100.0 + STALE_S) is not None
    assert stats.sample("g1", 1, 1, 100.1 + STALE_S) is None
    stats.observe(1, [status(10.0, guest="g2", instructions=0)], 101.0 + STALE_S)
    assert stats.rates("g1") is None


def test_a_counter_that_goes_back_is_no_negative_rate() -> None:
    stats = Stats()
    stats.observe(1, [status(10.0, instructions=100)], 100.0)
    stats.observe(1, [status(11.0, instructions=50)], 101.0)
    rates = stats.rates("g1")
    assert rates is not None
    assert rates.mips == 0


def test_exposition() -> None:
    out = Exposition()
    out.add("wherry_node_up", 1, node="n1")
    out.counters({"instructions": 5, "run_ns": 1_500_000_000, "exits_wfi": 2, "net_rx_frames": 7}, guest="a", node="n1")
    out.counters({"exits_sbi": 3, "pages_absent": 4, "jit_blocks": 9}, guest="b", node="n1")
    assert out.text().splitlines() == [
        "# HELP wherry_node_up 1 while the node's lease holds.",
        "# TYPE wherry_node_up gauge",
        'wherry_node_up{node="n1"} 1',
        "# HELP wherry_guest_instructions_total Guest instructions retired.",
        "# TYPE wherry_guest_instructions_total counter",
        'wherry_guest_instructions_total{guest="a",node="n1"} 5',
        "# HELP wherry_guest_run_seconds_total Host time spent in guest code, all harts.",
        "# TYPE wherry_guest_run_seconds_total counter",
        'wherry_guest_run_seconds_total{guest="a",node="n1"} 1.5',
        "# HELP wherry_guest_exits_total Returns from guest code to the machine, by cause.",
        "# TYPE wherry_guest_exits_total counter",
        'wherry_guest_exits_total{guest="a",node="n1",cause="wfi"} 2',
        'wherry_guest_exits_total{guest="b",node="n1",cause="sbi"} 3',
        "# HELP wherry_guest_net_frames_total Frames of the guest's NICs.",
        "# TYPE wherry_guest_net_frames_total counter",
        'wherry_guest_net_frames_total{guest="a",node="n1",direction="rx"} 7',
        "# HELP wherry_guest_pages_absent See wh_machine_stats in csrc/api.cdef.",
        "# TYPE wherry_guest_pages_absent gauge",
        'wherry_guest_pages_absent{guest="b",node="n1"} 4',
        "# HELP wherry_guest_jit_blocks_total Blocks of guest code that were translated.",
        "# TYPE wherry_guest_jit_blocks_total counter",
        'wherry_guest_jit_blocks_total{guest="b",node="n1"} 9',
    ]


@given(st.text(max_size=30))
def test_labels_are_quoted(text: str) -> None:
    out = Exposition()
    out.add("m", 1, label=text)
    (line,) = [line for line in out.text().split("\n") if not line.startswith("#") and line]
    found = re.fullmatch(r'm\{label="((?:[^"\\]|\\[\\"n])*)"\} 1', line, re.DOTALL)
    assert found
    assert re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], found[1]) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (999.4, "999"),
        (999.6, "1k"),
        (12345, "12.3k"),
        (99_960, "100k"),
        (4.5e6, "4.5M"),
        (2e12, "2000G"),
    ],
)
def test_short_numbers(value: float | None, text: str) -> None:
    assert short(value) == text


def test_rows_of_top() -> None:
    busy = GuestStats(
        "b", "n1", "running", memory=1 << 30, resident=1 << 20, rates={"mips": 93.26, "cpu_percent": 98.7}
    )
    idle = GuestStats("a")
    assert busiest_first([idle, busy]) == [busy, idle]
    assert row(busy)[3:7] == ("93.3", "99", "-", "1M/1G")
    assert set(row(idle)[3:5]) == {"-"}
