"""What the demo concludes from pings, and when it calls a run a failure."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.demo import pings, report
from wherry.demo.pings import Window
from wherry.demo.traffic import StreamResult
from wherry.demo.witness import overlaps

INTERVAL = 0.02


def text(answered: list[int], sent: int, late: dict[int, float] | None = None, extra: str = "") -> str:
    """ping's output: one reply per number in ``answered``, each 20 ms after the one before, ``late`` seconds later."""
    lines = ["PING 10.0.0.3 (10.0.0.3) 56(84) bytes of data."]
    for seq in answered:
        at = 1700000000 + seq * INTERVAL + (late or {}).get(seq, 0.0)
        lines.append(f"[{at:.6f}] 64 bytes from 10.0.0.3: icmp_seq={seq % 65536} ttl=64 time=1.5 ms")
    lines += [extra, "--- 10.0.0.3 ping statistics ---"]
    lines.append(f"{sent} packets transmitted, {len(answered)} received, 0% packet loss, time 100ms")
    return "\n".join(lines)


def test_a_clean_run() -> None:
    run = pings.parse(text(list(range(1, 11)), 10))
    assert (len(run.replies), run.sent, run.lost, run.duplicates) == (10, 10, [], 0)
    assert pings.longest_gap_ms(run.replies) == pytest.approx(20, abs=0.01)
    assert pings.median_rtt_ms(run.replies) == 1.5


def test_loss_in_the_middle_and_at_the_end() -> None:
    run = pings.parse(text([1, 2, 5, 6], 8))
    assert run.lost == [3, 4, 7, 8]
    assert pings.longest_gap_ms(run.replies) == pytest.approx(60, abs=0.01)


def test_duplicates_are_counted_once_as_replies() -> None:
    twin = "[1700000000.040000] 64 bytes from 10.0.0.3: icmp_seq=2 ttl=64 time=1.9 ms (DUP!)"
    run = pings.parse(text([1, 2, 3], 3, extra=twin))
    assert (run.duplicates, len(run.replies)) == (1, 3)


def test_sequence_numbers_wrap() -> None:
    run = pings.parse(text([65534, 65535, 65536, 65537], 65537))
    assert [reply.seq for reply in run.replies] == [65534, 65535, 65536, 65537]


def test_a_cut_line_and_errors_are_skipped() -> None:
    whole = text([1, 2], 2).splitlines()
    cut = "\n".join([whole[1], "From 10.0.0.2 icmp_seq=2 Destination Host Unreachable", whole[2][:-4]])
    assert [reply.seq for reply in pings.parse(cut).replies] == [1]
    assert pings.parse(cut).sent == 0


@given(st.text())
def test_random_text(noise: str) -> None:
    assert pings.parse(noise).replies == ()


def test_lost_inside_one_outage_is_explained() -> None:
    answered = [*range(1, 50), *range(55, 101)]
    run = pings.parse(text(answered, 100))
    assert pings.unexplained(run, [Window("move", 45, 60)], INTERVAL) == []


def test_lost_outside_of_every_window_is_not() -> None:
    answered = [seq for seq in range(1, 101) if seq not in (20, 50)]
    run = pings.parse(text(answered, 100))
    assert pings.unexplained(run, [Window("move", 45, 60)], INTERVAL) == [20]


def test_two_outages_in_one_window_are_not_explained() -> None:
    """The longest gap is 5 pings long; three such outages lose 15, more than one outage can."""
    answered = [seq for seq in range(1, 101) if seq % 20 not in (10, 11, 12, 13, 14)]
    run = pings.parse(text(answered, 100))
    assert len(pings.unexplained(run, [Window("move", 5, 95)], INTERVAL)) > 5


def test_unanswered_pings_at_the_end_are_not_explained() -> None:
    run = pings.parse(text(list(range(1, 90)), 100))
    assert pings.unexplained(run, [Window("move", 45, 60)], INTERVAL) == list(range(90, 101))


def test_a_ping_under_way_at_the_end_is_not_lost() -> None:
    run = pings.parse(text(list(range(1, 100)), 101))
    assert run.lost == [100, 101]
    assert pings.without_in_flight(run, INTERVAL).lost == []
    dead = pings.parse(text(list(range(1, 100)), 102))
    assert pings.without_in_flight(dead, INTERVAL).lost == [100, 101, 102]
    assert pings.without_in_flight(pings.parse(""), INTERVAL).sent == 0


RESULT: dict[str, Any] = {
    "rounds": 3,
    "bytes_sent": 1 << 20,
    "pages_sent": 256,
    "zero_pages": 9,
    "total_ms": 800.0,
    "blackout_ms": 12.5,
    "source_checksum": "ab",
    "target_checksum": "ab",
}


def good() -> report.Report:
    run = pings.parse(text([*range(1, 50), *range(52, 101)], 100))
    window = Window("move", 45, 60)
    moves = [report.move("two", "n2", "n3", generation, RESULT, run, window) for generation in (2, 3)]
    drained = report.move("one", "n1", "n2", 2, {**RESULT, "source_checksum": "", "target_checksum": ""}, run, window)
    return report.Report(
        boot_s={"one": 4.0},
        rtt_ms=1.5,
        throughput_mbit_s=10.0,
        moves=[*moves, drained],
        pings_sent=100,
        pings_lost=2,
        pings_unexplained=[],
        pings_duplicated=0,
        longest_gap_ms=60.0,
        stream=StreamResult("aa", "aa", 7),
        doubles=[],
        witness_samples=3,
    )


def test_a_good_run_passes_and_its_figures_are_there() -> None:
    made = good()
    assert made.failures() == []
    data = made.to_json()
    assert data["passed"] is True
    assert data["rounds"] == [3, 3, 3]
    assert (data["moves"][0]["gap_ms"], data["moves"][0]["lost"]) == (pytest.approx(60, abs=0.01), 2)
    assert dict(made.rows())["pings lost"] == "2 of 100"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stream": StreamResult("aa", "bb", 7)}, "stream"),
        ({"stream": StreamResult("", "", 7)}, "stream"),
        ({"stream": StreamResult("aa", "aa", 0)}, "stream"),
        ({"pings_unexplained": [4]}, "outside"),
        ({"pings_sent": 0}, "no ping was sent"),
        ({"pings_duplicated": 1}, "answered twice"),
        ({"doubles": ["guest g: a and b both run"]}, "both run"),
        ({"witness_samples": 0}, "unproven"),
        ({"drained_left": ["one"]}, "drained node still has one"),
        ({"moves": []}, "0 of 3 migrations"),
    ],
)
def test_each_broken_promise_fails(change: dict[str, Any], says: str) -> None:
    broken = dataclasses.replace(good(), **change)
    assert any(says in line for line in broken.failures())
    assert broken.to_json()["passed"] is False


def test_checksums_and_generations() -> None:
    made = good()
    different = dataclasses.replace(made.moves[0], target_checksum="cd")
    assert any(
        "checksums differ" in x for x in dataclasses.replace(made, moves=[different, *made.moves[1:]]).failures()
    )
    jumped = dataclasses.replace(made.moves[1], generation=5)
    failures = dataclasses.replace(made, moves=[made.moves[0], jumped, made.moves[2]]).failures()
    assert any("not one owner after the other" in x for x in failures)
    unverified = [dataclasses.replace(m, source_checksum="", target_checksum="") for m in made.moves]
    assert any("compared RAM" in x for x in dataclasses.replace(made, moves=unverified).failures())


def test_a_hand_over_is_no_overlap() -> None:
    before, after = {"a": "running", "b": "paused"}, {"a": "paused", "b": "running"}
    between = {"a": "running", "b": "running"}  # two answers of different instants
    assert overlaps(before, after) == set()
    assert overlaps(between, after) == set()
    assert overlaps(between, between) == {("a", "b")}
    assert overlaps({"a": "running", "b": ""}, between) == set()
