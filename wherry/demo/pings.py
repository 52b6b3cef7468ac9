"""What a run of ``ping -D -i INTERVAL`` says about an outage. Pure: text in, figures out.

``-D`` puts Unix time with microseconds before each reply. Times are the pinging guest's own, so only differences count.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

_REPLY = re.compile(
    r"^\[(?P<at>\d{1,12}\.\d{1,9})\] \d+ bytes from \S+: icmp_seq=(?P<seq>\d{1,5}) ttl=\d+ "
    r"time=(?P<rtt>\d{1,9}(?:\.\d{1,9})?) ms(?P<dup> \(DUP!\))?$"
)
_SUMMARY = re.compile(r"^(?P<sent>\d+) packets transmitted, (?P<received>\d+) received")
_WRAP = 1 << 16  # icmp_seq has 16 bits


@dataclass(frozen=True)
class Reply:
    """``at``: Unix seconds of its arrival; ``seq`` counts on past 65535; ``rtt_ms`` as ping tells it."""

    seq: int
    at: float
    rtt_ms: float


@dataclass(frozen=True)
class Run:
    """One ping process. ``sent`` 0: it was cut off before its summary."""

    replies: tuple[Reply, ...]
    sent: int
    duplicates: int

    @property
    def lost(self) -> list[int]:
        """Sequence numbers that never came back; those after the last reply
        count when the summary says they were sent."""
        got = {reply.seq for reply in self.replies}
        last = max(self.sent, max(got, default=0))
        return [seq for seq in range(1, last + 1) if seq not in got]

    def between(self, first: int, last: int) -> tuple[Reply, ...]:
        """Replies with ``first`` <= seq <= ``last``."""
        return tuple(reply for reply in self.replies if first <= reply.seq <= last)


@dataclass(frozen=True)
class Window:
    """The pings (by sequence number, inclusive) during which a migration was under way."""

    name: str
    first: int
    last: int


def parse(text: str) -> Run:
    """Lines that are no replies (errors, the header) are skipped; a line that was cut at the end is too."""
    replies: list[Reply] = []
    sent = duplicates = 0
    base = 0
    for line in text.splitlines():
        if (match := _REPLY.match(line)) is not None:
            if match["dup"]:
                duplicates += 1
                continue
            seq = base + int(match["seq"])
            if replies and seq < replies[-1].seq - _WRAP // 2:
                base += _WRAP
                seq += _WRAP
            replies.append(Reply(seq, float(match["at"]), float(match["rtt"])))
        elif (match := _SUMMARY.match(line)) is not None:
            sent = int(match["sent"])
    return Run(tuple(replies), sent, duplicates)


def without_in_flight(run: Run, interval_s: float) -> Run:
    """The run less what was still under way when ping was stopped: at most as many of the newest pings as fit into the
    longest round trip of the last fifty replies, and one. More unanswered ones at the end than that stay lost."""
    last = max((reply.seq for reply in run.replies), default=0)
    longest = max((reply.rtt_ms for reply in run.replies[-50:]), default=0.0)
    allowed = math.ceil(longest / 1000 / interval_s) + 1
    return replace(run, sent=last) if last < run.sent <= last + allowed else run


def longest_gap_ms(replies: Sequence[Reply]) -> float:
    """The longest time between two replies in order of arrival; 0 for fewer than two."""
    times = sorted(reply.at for reply in replies)
    return max((b - a for a, b in itertools.pairwise(times)), default=0.0) * 1000


def median_rtt_ms(replies: Sequence[Reply]) -> float:
    """0 where there are none."""
    ordered = sorted(reply.rtt_ms for reply in replies)
    return ordered[len(ordered) // 2] if ordered else 0.0


def unexplained(run: Run, windows: Sequence[Window], interval_s: float) -> list[int]:
    """Lost pings that no single outage of a migration explains.

    A ping may be lost only inside a window, and a window may lose no more than fit into its longest gap (and one
    more at either edge). More would mean a second outage, or frames lost before or after the guest stood still.
    """
    bad: list[int] = []
    lost = run.lost
    covered: set[int] = set()
    for window in windows:
        inside = [seq for seq in lost if window.first <= seq <= window.last]
        covered.update(inside)
        around = run.between(window.first - 1, window.last + 1)
        allowed = int(longest_gap_ms(around) / 1000 / interval_s) + 2
        bad.extend(inside[allowed:])
    bad.extend(seq for seq in lost if seq not in covered)
    return sorted(set(bad))
