"""What a migration machine wants done. S: wanted by the Source, T: by the Target, ST: both; → names the outcome event.

Every effect may fail with StepFailed(step=class name). Effects without → are carried out at once, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protocol.messages import MigrationProgress, MigrationResult


@dataclass(frozen=True, slots=True)
class Record:
    """What survives an agent's restart. ``phase`` is "copy", "switch", "serve", "handed" or "committed" for a source,
    "incoming", "committed" or "pull" for a target. ``postcopy``: pages are, or may be, left to be pulled after the
    switch. ``disks``: the guest has a disk, which goes with it. ``bandwidth``: what the source keeps to."""

    role: Literal["source", "target"]
    migration: str
    guest: str
    generation: int
    peer: int  # node id of the other end
    phase: str
    postcopy: bool = False
    disks: bool = False
    bandwidth: int = 0  # bytes/s, 0: unlimited


@dataclass(frozen=True, slots=True)
class Persist:
    """ST. Durable before any later effect of the list is begun."""

    record: Record


@dataclass(frozen=True, slots=True)
class Forget:
    """ST. Remove the record."""


@dataclass(frozen=True, slots=True)
class AskStore:
    """ST → StoreAnswered | StoreUnreachable. ``migration.decide`` to the coordinator."""

    ask: Literal["commit", "abort", "query"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """ST. The end. The source's ``result`` goes to the coordinator and is kept for ``migration.lookup``."""

    result: MigrationResult


# ---- source ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrepareTarget:
    """S → TargetPrepared | TargetLost."""


@dataclass(frozen=True, slots=True)
class SendDisks:
    """S → DisksDone | TargetLost. Blocks of the disks alone, at most at the wanted bandwidth: what differs from the
    image, which the target has, then what was written since. Done when the target has synced them."""


@dataclass(frozen=True, slots=True)
class SendRound:
    """S → RoundDone | TargetLost. ``number`` 1 sends every present page, at most at the wanted bandwidth. ``likely``:
    only what the guest will need first, which is post-copy's short first pass. With disks what was written to them
    goes first."""

    number: int
    likely: bool = False


@dataclass(frozen=True, slots=True)
class StopCopy:
    """S. Stop a round that is under way, close the page stream, dirty tracking off, the guest unthrottled."""


@dataclass(frozen=True, slots=True)
class EndRound:
    """S. The round that is under way is to end with what has gone out; RoundDone then comes soon. What it had still to
    send counts with what is dirty: the next round, or the pull, has it. Harmless when none is under way."""


@dataclass(frozen=True, slots=True)
class SetThrottle:
    """S. From now on the harts rest ``percent`` of the time that they would run. Ends by itself with StopCopy, with the
    source's copy, and when its agent is gone. A failure is StepFailed(step="SetThrottle"): the guest is not slower."""

    percent: int


@dataclass(frozen=True, slots=True)
class PauseGuest:
    """S → Paused."""


@dataclass(frozen=True, slots=True)
class SendLastRound:
    """S → LastRoundDone | TargetLost. At full speed; the guest is paused. Runs beside SaveState and ComputeChecksum.
    Done when the pages, and what was written to the disks, are on their way: a target that answers SendState has them,
    and has synced the disks."""


@dataclass(frozen=True, slots=True)
class LeavePages:
    """S → LastRoundDone. Post-copy, in place of SendLastRound: end the page stream, and name with the state what the
    target lacks. From here on its pulls are answered. Of the disks nothing is left behind."""


@dataclass(frozen=True, slots=True)
class SaveState:
    """S → StateSaved."""


@dataclass(frozen=True, slots=True)
class ComputeChecksum:
    """S → Checksummed."""


@dataclass(frozen=True, slots=True)
class SendState:
    """S → TargetReady | TargetLost. ``migration.state`` with the saved state."""


@dataclass(frozen=True, slots=True)
class FinishTarget:
    """S → TargetFinished | TargetLost for "committed"; for "aborted" nothing is waited for."""

    decision: Literal["committed", "aborted"]
    generation: int


@dataclass(frozen=True, slots=True)
class ResumeGuest:
    """S. Let the guest run (again); harmless when it runs."""


@dataclass(frozen=True, slots=True)
class ServePages:
    """S → Served ..., Pulled. The guest lives elsewhere: take its ports from this copy, which stays paused for ever,
    and keep its memory for the target's pulls."""


@dataclass(frozen=True, slots=True)
class KeepDisks:
    """S. The guest lives elsewhere: take its ports from this copy, which stays paused; its disks are kept until the
    target has said that it runs with its own. Ends as StepFailed(step="guest") when this copy is removed."""


@dataclass(frozen=True, slots=True)
class FreeGuest:
    """S. The guest lives elsewhere: kill this copy, remove every trace of it."""


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """S. Notice to the coordinator, when there is a session."""

    progress: MigrationProgress


# ---- target ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reserve:
    """T → Reserved. Memory, guest process, RAM mapped; network ports made but disabled."""


@dataclass(frozen=True, slots=True)
class AnswerPrepared:
    """T. Answer ``migration.prepare``."""


@dataclass(frozen=True, slots=True)
class LoadState:
    """T → StateLoaded. The guest must not run. ``verify``: checksum of RAM too."""

    verify: bool


@dataclass(frozen=True, slots=True)
class PullPages:
    """T → PullDone. Bring what is absent from the source, what the guest waits for first, by as many connections as it
    takes; then tell the source that it may let go. Harmless when it is under way."""


@dataclass(frozen=True, slots=True)
class ReleaseSource:
    """T → PullDone. The guest has ended: pull no more, tell the source that it may let go, for a while."""


@dataclass(frozen=True, slots=True)
class AnswerReady:
    """T. Answer ``migration.state``."""

    checksum: str
    verify_ms: float


@dataclass(frozen=True, slots=True)
class StartGuest:
    """T → GuestStarted. Run at ``generation``, enable its ports, announce its MACs; harmless when it runs."""

    generation: int


@dataclass(frozen=True, slots=True)
class AnswerFinished:
    """T. Answer ``migration.finish``; ``resumed_at`` 0 after an abort. Dropped when nobody waits."""

    resumed_at: float


@dataclass(frozen=True, slots=True)
class RefuseSource:
    """T. Answer whatever the source waits for with this error. Dropped when nobody waits."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class KeepIncoming:
    """T. This copy is the guest's, under ``generation``, but its memory is lost: keep it as one that has ended, with
    its disks, so that it can be started."""

    generation: int


@dataclass(frozen=True, slots=True)
class DestroyIncoming:
    """T. Kill the incoming guest process, remove every trace of it."""


Effect = (
    Persist
    | Forget
    | AskStore
    | Done
    | PrepareTarget
    | SendDisks
    | SendRound
    | StopCopy
    | EndRound
    | SetThrottle
    | PauseGuest
    | SendLastRound
    | LeavePages
    | SaveState
    | ComputeChecksum
    | SendState
    | FinishTarget
    | ResumeGuest
    | ServePages
    | KeepDisks
    | FreeGuest
    | ReportProgress
    | Reserve
    | AnswerPrepared
    | PullPages
    | ReleaseSource
    | LoadState
    | AnswerReady
    | StartGuest
    | AnswerFinished
    | RefuseSource
    | KeepIncoming
    | DestroyIncoming
)
