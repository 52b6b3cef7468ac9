"""Migration: exactly one running copy. Pure machines; the node drives Source and Target, the coordinator the Arbiter.

    coordinator (Arbiter)          source                                  target
        │ ── migration.start ──────► │                                         │
        │                            │ ── migration.prepare ─────────────────► │ reserve memory, make the process
        │ ◄─ answer ──────────────── │ ◄──────────────────────────── Prepared ─┤
        │                            │ ══ pages: round 1, 2, ... n ══════════► │ COPY: guest runs on source
        │ ◄─ progress ────────────── │ ◄════════════════════ round arrived ═══ │
        │                            │ pause                                   │ SWITCH: guest runs nowhere
        │                            │ ══ last pages ════════════════════════► │
        │                            │ ── migration.state ───────────────────► │ load
        │                            │ ◄───────────────────────── TargetReady ─│ it could run, and waits
        │ ◄─ decide(commit) ──────── │                                         │
        │ COMMIT: one compare-and-set on (guest, generation): owner = target, generation + 1
        │ ── Decision ─────────────► │ ── migration.finish(committed) ───────► │ run, announce its MACs
        │ ── settle ───────────────► │                                         │
        │ ── settle ─────────────────┼───────────────────────────────────────► │
        │ ◄─ result ──────────────── │ ◄──────────────────────────── Finished ─│
        │                            │ free                                    │

Post-copy: the source keeps back some pages at the switch, or all of them. COMMIT is the same; behind it the source's
copy stays, paused for ever, until the target has everything (SERVE, PULL):

        │                            │ pause                                   │
        │                            │ ── migration.state, what is absent ───► │ opens migration.pull
        │                            │ ◄══ wanted: pages ════════════════════► │ load; from here on, any time
        │   ... COMMIT as above ...  │ ── migration.finish(committed) ───────► │ run: whoever needs a page waits for it
        │                            │ ◄══ wanted / pages, more of them ═════► │
        │ ◄─ result ──────────────── │ ◄═══════════════════════ done ═════════ │ all pages are there
        │                            │ free                                    │

A guest with a disk: the disk goes first, while the guest runs, and what is written to it since goes with each round:

        │                            │ ══ disk: what differs from the image ═► │ COPY: written beside its record, synced
        │                            │ ══ disk: what was written since ══════► │ ... until that does not become less
        │                            │ ══ round n: disk, then pages ═════════► │
        │                            │ pause                                   │
        │                            │ ══ last blocks, last pages ═══════════► │ syncs, loads: only then TargetReady
        │   ... COMMIT as above ...  │ ── migration.finish, until answered ──► │ run
        │                            │ free: only now is its disk removed      │

The rule. Only the source asks for "commit", only after TargetReady, only while its guest is paused. Source, target and
coordinator may ask for "abort" at any time. The store keeps the first of the two for ever. Hence:

- Until the source has asked for "commit" nobody can have committed: it may resume its guest at once, on any failure.
- After it has asked, it stays paused and asks again until the store answers, whatever happens.
- The target runs its copy only after it has heard "committed", from the source, by ``settle`` or by asking.
- Until COMMIT the source's disk is the guest's, after it the target's. The target has synced all of it before it says
  TargetReady, so whatever the guest was told is durable is so there; the source removes its own when the target has
  said that it runs. A target whose loaded copy dies after COMMIT keeps the disk: the guest can be started with it.
- A source that has left pages frees them only when the target has said that it has all, or when nobody needs them any
  more (the guest was deleted, has ended or has gone on: the coordinator says so). A target that lacks pages and cannot
  reach the source asks again for ever: its guest waits where it needs a page, and is lost only with that page.
- An agent that restarts treats its migrations as "has asked": it asks for "abort" first, and obeys the answer.
  :class:`Persist` comes before the effects that follow it in a list, so the record is never behind the guest.

Driving a machine. ``effects = machine.handle(event, now)``; carry the effects out in order, each asynchronous one
(marked "→" in effects.py) in a task that feeds its outcome back as an event; call ``handle(Tick(), now)`` when
``machine.wakeup`` (a time or None) has come. All calls come from one task or under one lock. ``now`` is any monotonic
clock in seconds. Outcomes that arrive late or twice are ignored. After :class:`Done` the machine wants nothing more;
keep it while the link lives, so that a repeated question gets its answer. PauseGuest, SaveState, ComputeChecksum,
ResumeGuest and FreeGuest reach the guest in the order in which they were given. After a restart:
``Source.recover(record, now)`` and ``Target.recover(record, loaded, now)`` give machine and effects.
"""

from protocol.migration.arbiter import Arbiter, Begin, Verdict, decide
from protocol.migration.effects import (
    AnswerFinished,
    AnswerPrepared,
    AnswerReady,
    AskStore,
    ComputeChecksum,
    DestroyIncoming,
    Done,
    Effect,
    EndRound,
    FinishTarget,
    Forget,
    FreeGuest,
    KeepDisks,
    KeepIncoming,
    LeavePages,
    LoadState,
    PauseGuest,
    Persist,
    PrepareTarget,
    PullPages,
    Record,
    RefuseSource,
    ReleaseSource,
    ReportProgress,
    Reserve,
    ResumeGuest,
    SaveState,
    SendDisks,
    SendLastRound,
    SendRound,
    SendState,
    ServePages,
    SetThrottle,
    StartGuest,
    StopCopy,
)
from protocol.migration.events import (
    CancelAsked,
    Checksummed,
    CoordinatorLost,
    CoordinatorRestored,
    Copying,
    DisksDone,
    Event,
    FinishAsked,
    GuestStarted,
    LastRoundDone,
    Paused,
    PrepareAsked,
    PullDone,
    Pulled,
    Reserved,
    RoundDone,
    Served,
    SourceLost,
    Start,
    StateArrived,
    StateLoaded,
    StateSaved,
    StepFailed,
    StoreAnswered,
    StoreUnreachable,
    TakenBack,
    TargetFinished,
    TargetLost,
    TargetPrepared,
    TargetReady,
    Tick,
)
from protocol.migration.source import Source, SourcePhase
from protocol.migration.target import Target, TargetPhase

__all__ = [
    "AnswerFinished",
    "AnswerPrepared",
    "AnswerReady",
    "Arbiter",
    "AskStore",
    "Begin",
    "CancelAsked",
    "Checksummed",
    "ComputeChecksum",
    "CoordinatorLost",
    "CoordinatorRestored",
    "Copying",
    "DestroyIncoming",
    "DisksDone",
    "Done",
    "Effect",
    "EndRound",
    "Event",
    "FinishAsked",
    "FinishTarget",
    "Forget",
    "FreeGuest",
    "GuestStarted",
    "KeepDisks",
    "KeepIncoming",
    "LastRoundDone",
    "LeavePages",
    "LoadState",
    "PauseGuest",
    "Paused",
    "Persist",
    "PrepareAsked",
    "PrepareTarget",
    "PullDone",
    "PullPages",
    "Pulled",
    "Record",
    "RefuseSource",
    "ReleaseSource",
    "ReportProgress",
    "Reserve",
    "Reserved",
    "ResumeGuest",
    "RoundDone",
    "SaveState",
    "SendDisks",
    "SendLastRound",
    "SendRound",
    "SendState",
    "ServePages",
    "Served",
    "SetThrottle",
    "Source",
    "SourceLost",
    "SourcePhase",
    "Start",
    "StartGuest",
    "StateArrived",
    "StateLoaded",
    "StateSaved",
    "StepFailed",
    "StopCopy",
    "StoreAnswered",
    "StoreUnreachable",
    "TakenBack",
    "Target",
    "TargetFinished",
    "TargetLost",
    "TargetPhase",
    "TargetPrepared",
    "TargetReady",
    "Tick",
    "Verdict",
    "decide",
]
