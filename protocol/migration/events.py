"""What a migration machine is told. S: for the Source, T: for the Target, ST: both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Tick:
    """ST. ``wakeup`` has come."""


@dataclass(frozen=True, slots=True)
class StoreAnswered:
    """ST. The store's word: the answer to AskStore, or a ``settle`` that came by itself."""

    decision: Literal["pending", "committed", "aborted"]
    generation: int
    owner: int = 0


@dataclass(frozen=True, slots=True)
class StoreUnreachable:
    """ST. AskStore got no answer (link lost, timeout): whether the store acted is unknown."""


@dataclass(frozen=True, slots=True)
class CoordinatorLost:
    """ST. No live session to the coordinator."""


@dataclass(frozen=True, slots=True)
class CoordinatorRestored:
    """ST. A session is live again. Machines start with the assumption that one is."""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """ST. A person wants it stopped."""

    reason: str = "cancelled"


@dataclass(frozen=True, slots=True)
class StepFailed:
    """ST. The effect named ``step`` failed here, or the guest ended by itself (``step`` "guest")."""

    step: str
    reason: str


# ---- source ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """S. First event."""


@dataclass(frozen=True, slots=True)
class TargetPrepared:
    """S. The target has reserved."""


@dataclass(frozen=True, slots=True)
class TargetLost:
    """S. The target refused, answered with an error, or its link is gone. ``over``: it answered, and this migration has
    ended for it."""

    reason: str
    over: bool = False


@dataclass(frozen=True, slots=True)
class RoundDone:
    """S. All pages of a round lie in the target's RAM. ``seconds`` from SendRound until then; ``dirty_pages`` is the
    number of pages dirty at its end. ``curve``: (seconds since SendRound, pages dirty then), as often as was looked.
    ``disk_bytes``: sent for the disks, ``bytes`` without them; ``disk_left``: what was written to them since will take
    so many on the wire. ``probe``: of a round in which pages were named that the target had, bytes that went before
    them and the seconds that those took: the round itself tells nothing of the link."""

    pages: int
    zero_pages: int
    bytes: int
    seconds: float
    dirty_pages: int
    curve: tuple[tuple[float, int], ...] = ()
    disk_bytes: int = 0
    disk_left: int = 0
    probe: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True)
class DisksDone:
    """S. A round of the disks alone is synced at the target: bytes on the wire, seconds since SendDisks, and what was
    written meanwhile will take so many bytes. ``looked``: seconds in which blocks were read and compared, and nothing
    was sent."""

    bytes: int
    seconds: float
    left: int
    looked: float = 0.0


@dataclass(frozen=True, slots=True)
class Copying:
    """S. While pages go out, several times a second: bytes of the migration so far, and pages dirty now. ``disk_left``:
    bytes of the disks that are to be sent, or looked at; ``disk_bytes``: how many of ``bytes`` were for them."""

    bytes: int
    dirty_pages: int
    disk_left: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Paused:
    """S. The guest executes nothing any more. ``at``: CLOCK_REALTIME of its last instruction."""

    at: float


@dataclass(frozen=True, slots=True)
class LastRoundDone:
    """S. The round after the pause; fields as in RoundDone. ``left``: pages that are to be pulled (LeavePages)."""

    pages: int
    zero_pages: int
    bytes: int
    left: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StateSaved:
    """S. The machine's state is at hand (the driver keeps it for SendState)."""


@dataclass(frozen=True, slots=True)
class Checksummed:
    """S. Checksum over the paused guest's RAM (ComputeChecksum)."""

    checksum: str


@dataclass(frozen=True, slots=True)
class TargetReady:
    """S. The target could run. ``checksum`` of its RAM when verification was asked for."""

    checksum: str = ""
    verify_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class TargetFinished:
    """S. Answer to FinishTarget. Times are CLOCK_REALTIME: the target's first instruction and its clock when it
    answered; ours when the call was sent and when its answer came, which bound the clocks' offset."""

    resumed_at: float
    clock: float
    sent_at: float
    received_at: float


@dataclass(frozen=True, slots=True)
class Served:
    """S. Pulls were answered: pages and bytes since the last of these, and how many pages the target lacks now."""

    pages: int
    zero_pages: int
    bytes: int
    left: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """S. The target has all pages. It is answered once what the machine notes of it is durable: it does not say so
    twice. How often somebody there waited for a page, the median and the longest in us."""

    faults: int = 0
    fault_us: int = 0
    fault_max_us: int = 0


@dataclass(frozen=True, slots=True)
class TakenBack:
    """S. The target's copy has died, and the guest runs here again, as it was streamed back, under a new generation."""


# ---- target ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrepareAsked:
    """T. First event, and again when the source repeats its request."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """T. The incoming guest process exists and its RAM is mapped."""


@dataclass(frozen=True, slots=True)
class StateArrived:
    """T. The source handed over everything (the driver keeps the state for LoadState) but ``left`` pages."""

    verify: bool = False
    left: int = 0


@dataclass(frozen=True, slots=True)
class StateLoaded:
    """T. The guest could run."""

    checksum: str = ""
    verify_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class SourceLost:
    """T. The link to the source is gone."""


@dataclass(frozen=True, slots=True)
class FinishAsked:
    """T. The source brings the store's word."""

    decision: Literal["committed", "aborted"]
    generation: int


@dataclass(frozen=True, slots=True)
class GuestStarted:
    """T. ``at``: CLOCK_REALTIME of its first possible instruction here. ``absent``: pages still at the source."""

    at: float
    absent: int = 0


@dataclass(frozen=True, slots=True)
class PullDone:
    """T. Every page is here, and the source knows it (or is not needed any more)."""


SourceEvent = (
    Start
    | Tick
    | TargetPrepared
    | TargetLost
    | RoundDone
    | DisksDone
    | Copying
    | Paused
    | LastRoundDone
    | StateSaved
    | Checksummed
    | TargetReady
    | TargetFinished
    | Served
    | Pulled
    | TakenBack
    | StoreAnswered
    | StoreUnreachable
    | CoordinatorLost
    | CoordinatorRestored
    | CancelAsked
    | StepFailed
)
TargetEvent = (
    PrepareAsked
    | Tick
    | Reserved
    | StateArrived
    | StateLoaded
    | SourceLost
    | FinishAsked
    | GuestStarted
    | PullDone
    | StoreAnswered
    | StoreUnreachable
    | CoordinatorLost
    | CoordinatorRestored
    | CancelAsked
    | StepFailed
)
Event = SourceEvent | TargetEvent
