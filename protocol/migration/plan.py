"""How the copy of a running guest goes on: predicts, and chooses after each round. Pure.

The emulator knows every first store to a page within a round, so a round gives not one dirty rate but a curve: how many
different pages were written t seconds after its begin. It is concave (a page counts once), and it is all that a
prediction needs: the next round sends what is dirty now, takes ``cost`` bytes for each page at ``rate`` bytes/s, and
leaves behind what the curve says for that time. Repeated, this gives rounds, bytes, total time and blackout. A guest
that is throttled to a share s of its time writes in t seconds what it would have written in s t, so the curve is kept
in the guest's own time and one curve serves every throttle.

The choice after a round (:meth:`Plan.after`):

- post-copy: switch, the round was its short first pass;
- the predicted blackout is short enough, and another round would not shrink it much: switch;
- pre-copy converges, in time: another round;
- it does not (K rounds without gain, or predicted to end behind the deadline): what ``on_stall`` says. Throttling takes
  the least share of rest that is predicted to converge in time, and at least a step more each time it has to be asked;
- the rounds are used up, or a guest that rests nearly always still writes too fast: give up, with the figures.

Disks are mirrored first (:meth:`Plan.after_disks`): rounds of their own until what the guest writes to them meanwhile
does not become less. From then on each round carries what was written to them before it, and the sums below are of
pages and disks together. Nothing of a disk is left to be pulled, so post-copy too waits until its disks alone would
keep the guest no longer than it may.

The source adds the deadline and the watch over bytes that do not move. So a copy always ends: rounds are counted, and
each has its time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.messages import MigrationParams
from protocol.migration.events import DisksDone, RoundDone

PAGE: Final = 4096
RATE_SAMPLE: Final = 256 << 10  # a round of fewer bytes says only what the rate is at least
PROBE_SAMPLE: Final = 64 << 10  # the same of what is sent to that end: nothing else is waited for meanwhile
SMALL_MS: Final = 5.0  # of predicted blackout: below it another round is not worth its time
SHRINKS: Final = 0.75  # a round that leaves more of the one before it than this does not make the next one small
NO_GAIN_ROUNDS: Final = 2  # so many rounds in a row that do not shrink are a stall
THROTTLE_STEP: Final = 5  # percent
THROTTLE_MORE: Final = 15  # at least so much more when a throttled copy stalls again
THROTTLE_MOST: Final = 99
_FEW_ROUNDS: Final = 8  # a throttle that would need more is not strong enough
_MARGIN: Final = 0.8  # of the time that is left: predictions err


class Curve:
    """Different pages written within t seconds of the guest's own time. Piecewise linear through the points given;
    behind the last one it goes on with the last slope, up to ``most``: a guest that writes evenly is met exactly, one
    that has touched all it uses is over-estimated."""

    def __init__(self, points: Iterable[tuple[float, float]], most: float = math.inf) -> None:
        self._t, self._pages, self._most = [0.0], [0.0], most
        for t, pages in sorted(points):
            if t > self._t[-1] + 1e-6:
                self._t.append(t)
                self._pages.append(max(float(pages), self._pages[-1]))

    def at(self, t: float) -> float:
        """Pages after ``t`` seconds."""
        if len(self._t) == 1 or t <= 0:
            return 0.0
        i = min(max(bisect_left(self._t, t), 1), len(self._t) - 1)
        t0, t1, p0, p1 = self._t[i - 1], self._t[i], self._pages[i - 1], self._pages[i]
        return min(p0 + (p1 - p0) * (t - t0) / (t1 - t0), self._most)

    @property
    def rate(self) -> float:
        """Pages/s at first, before pages are written a second time."""
        return self._pages[1] / self._t[1] if len(self._t) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """From a moment on: ``converges`` false means that pre-copy alone does not come below the wanted blackout; the
    figures are then those of the point at which it stops to gain."""

    rounds: int
    bytes: int
    seconds: float  # until the pause
    blackout_ms: float  # transfer of the last pages
    converges: bool


def forecast(
    curve: Curve,
    dirty: float,
    *,
    rate: float,
    cost: float,
    max_blackout_ms: float,
    max_rounds: int,
    share: float = 1.0,
    disk: Curve | None = None,
    disk_left: float = 0.0,
) -> Forecast:
    """``dirty``: pages that wait now. ``rate``: bytes/s. ``cost``: bytes of a page on the wire. ``share``: of its time
    that the guest runs. ``disk``: bytes that what it writes to its disks within t takes; ``disk_left``: those that wait
    now."""
    if rate <= 0:
        nothing = not dirty and not disk_left
        return Forecast(0, 0, 0.0, 0.0 if nothing else math.inf, nothing)
    waits = dirty * cost + disk_left
    sent = seconds = 0.0
    rounds = 0
    while True:
        takes = waits / rate
        left = curve.at(takes * share) * cost + (disk.at(takes * share) if disk is not None else 0.0)
        enough = 1000 * takes <= max_blackout_ms
        worth = left < SHRINKS * waits and 1000 * takes > SMALL_MS
        stuck = not enough and left > 0.98 * waits
        if (enough and not worth) or stuck or rounds >= max_rounds:
            return Forecast(rounds, int(sent + waits), seconds, 1000 * takes, enough)
        rounds, seconds, sent, waits = rounds + 1, seconds + takes, sent + waits, left


@dataclass(frozen=True, slots=True)
class Again:
    """Another round."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A round of the disks alone."""


@dataclass(frozen=True, slots=True)
class Switch:
    """Pause and hand over."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """Have the guest rest ``percent`` of its time, then another round."""

    percent: int


@dataclass(frozen=True, slots=True)
class GoPostcopy:
    """Hand over with pages left; the target pulls them."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The guest stays."""

    reason: str


Choice = Again | Mirror | Switch | Throttle | GoPostcopy | GiveUp


class Plan:
    """What the rounds so far say. ``rate``: bytes/s of the last round that was large enough; ``predicted_ms``: blackout
    if the switch came now; ``throttle``: percent that the guest rests now."""

    def __init__(self, params: MigrationParams) -> None:
        self.params = params
        self.rounds = 0
        self.rate = 0.0
        self.cost = float(PAGE)
        self.predicted_ms = 0.0
        self.throttle = 0
        self.throttle_most = 0
        self.curve = Curve(())
        self.first: Forecast | None = None  # of what is left, made after the first round
        self.ahead: Forecast | None = None  # the same, after the last one
        self.disk = Curve(())  # bytes that what is written to the disks within t takes on the wire
        self.disk_ms = 0.0  # of predicted_ms: for the disks
        self._disk_left = 0
        self._mirrored = 0  # rounds of the disks alone
        self._waits = 0.0  # what the round before left, in pages
        self._no_gain = 0
        self._sampled = False  # some round was large enough to tell the rate

    @property
    def share(self) -> float:
        """Of its time that the guest runs."""
        return 1 - self.throttle / 100

    @property
    def dirty_rate(self) -> float:
        """Pages that the guest writes first in a second, as throttled now."""
        return self.curve.rate * self.share

    def begin(self, *, disks: bool = False) -> Choice:
        """When the target is ready."""
        if disks:
            return Mirror()
        return self._pages()

    def _pages(self) -> Choice:
        return Switch() if self.params.mode in ("stop-and-copy", "cold") else Again()

    def after_disks(self, done: DisksDone, time_left: float) -> Choice:
        """``time_left``: seconds until the deadline. Goes on with the pages as soon as another round would gain little:
        what is written to the disks then is theirs to judge with the rest; but where nothing else will follow that
        could catch up with it, it has to be little."""
        self._mirrored += 1
        self._learn_rate(done.bytes, done.seconds - done.looked)
        before, self._disk_left = self._disk_left, done.left
        self.disk = Curve([(done.seconds * self.share, done.left)])
        self._predict_disks()
        if time_left <= 0:
            return GiveUp("the disks were not copied by the deadline")
        smaller = self._mirrored == 1 or done.left < SHRINKS * before
        if self.disk_ms <= min(SMALL_MS, self.params.max_blackout_ms):
            return self._pages()
        last = self.params.mode in ("postcopy", "stop-and-copy", "cold")
        if self._mirrored < self.params.max_rounds and (smaller or (last and not self._disks_short)):
            self._no_gain = 0 if smaller else self._no_gain + 1
            if self._no_gain < NO_GAIN_ROUNDS:
                return Mirror()
            return self._disks_stall(time_left)
        if last and not self._disks_short:
            return self._disks_stall(time_left)
        self._no_gain = 0
        return self._pages()

    @property
    def _disks_short(self) -> bool:
        return self.disk_ms <= self.params.max_blackout_ms

    def _predict_disks(self) -> None:
        left = self._disk_left
        self.disk_ms = 1000.0 * left / self.rate if self.rate else (60_000.0 if left else 0.0)

    def _disks_stall(self, time_left: float) -> Choice:
        """The guest writes to its disks as fast as they are copied. Nothing of them can be left for later."""
        if self.params.on_stall == "throttle" and self.throttle < THROTTLE_MOST:
            least = self.throttle + (THROTTLE_MORE if self.throttle else THROTTLE_STEP)
            for percent in range(least, THROTTLE_MOST, THROTTLE_STEP):
                ahead = self._forecast(0, 1 - percent / 100)
                if ahead.converges and ahead.rounds <= _FEW_ROUNDS and ahead.seconds <= _MARGIN * time_left:
                    return Throttle(percent)
            return Throttle(THROTTLE_MOST)
        return GiveUp(
            f"does not converge: the guest writes {self.disk.rate * self.share / 1e6:.1f} MB/s to its disks, "
            f"{self.rate / 1e6:.1f} MB/s are sent"
        )

    def resting(self, percent: int) -> None:
        """The guest rests so much of its time from now on; 0: not throttled."""
        self.throttle = percent
        self.throttle_most = max(self.throttle_most, percent)
        self._no_gain = 0

    def after(self, done: RoundDone, time_left: float) -> Choice:
        """``time_left``: seconds until the deadline."""
        self._learn(done)
        if self.params.mode == "postcopy":
            return self._leave(time_left)
        dirty = done.dirty_pages
        waits = dirty + done.disk_left / PAGE
        smaller = not self._waits or waits < SHRINKS * self._waits
        self._no_gain = 0 if smaller else self._no_gain + 1
        self._waits = waits
        enough = self.predicted_ms <= self.params.max_blackout_ms or self._is_tiny(dirty)
        worth = self.predicted_ms > SMALL_MS and smaller and self.rounds < self.params.max_rounds
        self.ahead = ahead = self._forecast(dirty, self.share)
        if self.first is None:
            self.first = ahead
        if self.leaves and time_left <= 0:
            return self._leave(time_left)
        if enough and not worth:
            return Switch()
        if self.rounds >= self.params.max_rounds:
            return self._last_resort(f"after {self.rounds} rounds", time_left)
        if self.params.mode == "hybrid" and not smaller:
            return self._leave(time_left)
        if enough or not self._stalls(ahead, time_left):
            return Again()
        if self.params.on_stall == "throttle" and not self.leaves:
            percent = self._needed(dirty, time_left)
            if percent:
                return Throttle(percent)
            return self._last_resort(f"although it rests {self.throttle} %", time_left)
        return self._last_resort(f"after {self.rounds} rounds", time_left)

    def _learn_rate(self, size: int, seconds: float, least: int = RATE_SAMPLE) -> None:
        rate = size / max(seconds, 1e-6)
        if size >= least:
            self.rate, self._sampled = rate, True
        elif not self._sampled:
            self.rate = max(self.rate, rate)

    def _learn(self, done: RoundDone) -> None:
        self.rounds += 1
        if done.probe is not None:
            self._learn_rate(*done.probe, PROBE_SAMPLE)
        else:
            self._learn_rate(done.bytes + done.disk_bytes, done.seconds)
        sent = done.pages + done.zero_pages
        if self.rounds > 1 and done.bytes >= RATE_SAMPLE and sent:
            self.cost = min(done.bytes / sent, float(PAGE))  # of pages that are written again; the first round's differ
        points = (*done.curve, (done.seconds, done.dirty_pages))
        self.curve = Curve((t * self.share, pages) for t, pages in points)
        self._disk_left = done.disk_left
        self.disk = Curve([(done.seconds * self.share, done.disk_left)])
        self._predict_disks()
        remaining = done.dirty_pages * self.cost + done.disk_left
        self.predicted_ms = 1000.0 * remaining / self.rate if self.rate else (60_000.0 if remaining else 0.0)

    def _is_tiny(self, dirty: int) -> bool:
        """So small a guest that no round told the rate, and no further one will: what a round takes is then nearly all
        waiting for each other, which throttling does not shorten."""
        waits = dirty * self.cost + self._disk_left
        return not self._sampled and self._no_gain >= NO_GAIN_ROUNDS and waits <= RATE_SAMPLE

    def _forecast(self, dirty: int, share: float) -> Forecast:
        return forecast(
            self.curve,
            dirty,
            rate=self.rate,
            cost=self.cost,
            max_blackout_ms=self.params.max_blackout_ms,
            max_rounds=self.params.max_rounds - self.rounds,
            share=share,
            disk=self.disk,
            disk_left=self._disk_left,
        )

    def _stalls(self, ahead: Forecast, time_left: float) -> bool:
        """A forecast of convergence is believed until rounds show the contrary for too long; one of the contrary only
        when rounds have shown it: behind its end the curve is an upper bound."""
        if self.leaves and self.predicted_ms / 1000 > _MARGIN * time_left:
            return True  # there is no time for another round
        if ahead.converges:
            late = ahead.seconds + ahead.blackout_ms / 1000 > _MARGIN * time_left
            return late or self._no_gain >= 2 * NO_GAIN_ROUNDS
        return self._no_gain >= (1 if self.throttle else NO_GAIN_ROUNDS)

    @property
    def leaves(self) -> bool:
        """Rather than throttle or give up, pages are left to be pulled."""
        return self.params.mode == "hybrid" or self.params.on_stall == "postcopy"

    def _needed(self, dirty: int, time_left: float) -> int:
        """The least throttle that is predicted to do; the most if none is; 0: it is there already."""
        if self.throttle >= THROTTLE_MOST:
            return 0
        least = self.throttle + (THROTTLE_MORE if self.throttle else THROTTLE_STEP)
        for percent in range(least, THROTTLE_MOST, THROTTLE_STEP):
            ahead = self._forecast(dirty, 1 - percent / 100)
            if ahead.converges and ahead.rounds <= _FEW_ROUNDS and ahead.seconds <= _MARGIN * time_left:
                return percent
        return THROTTLE_MOST

    def _leave(self, time_left: float) -> Choice:
        """Hand over with pages left, if the disks let us."""
        if self._disks_short or not self._disk_left:
            return GoPostcopy()
        return self._disks_stall(time_left)

    def _last_resort(self, when: str, time_left: float) -> Choice:
        if self.leaves:
            return self._leave(time_left)
        return GiveUp(
            f"does not converge: {when} a blackout of {self.predicted_ms:.0f} ms is predicted, "
            f"allowed are {self.params.max_blackout_ms:g} ms; the guest writes {self.dirty_rate * PAGE / 1e6:.0f} MB/s "
            f"in pages, {self.rate / 1e6:.0f} MB/s are sent"
        )
