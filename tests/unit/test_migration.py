"""The migration machines one by one: convergence, holding, the store's rule, blackout arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.migration.driver import note_of, record_of
from node.record import load_note, save_note
from protocol import migration as mig
from protocol.errors import Refused
from protocol.messages import MigrationParams


def kinds(effects: list[mig.Effect]) -> list[str]:
    return [type(e).__name__ for e in effects if not isinstance(e, mig.ReportProgress)]


def source(**params: Any) -> mig.Source:
    machine = mig.Source("m", "g", 5, 2, MigrationParams(**params))
    machine.handle(mig.Start(), 0)
    machine.handle(mig.TargetPrepared(), 0)
    return machine


def done(dirty: int, size: int = 1 << 20, seconds: float = 0.01) -> mig.RoundDone:
    return mig.RoundDone(256, 0, size, seconds, dirty)


def to_commit(machine: mig.Source) -> None:
    machine.handle(done(0), 1)
    for event in (mig.Paused(100.0), mig.LastRoundDone(0, 0, 0), mig.StateSaved(), mig.TargetReady()):
        machine.handle(event, 1)


def test_rounds_go_on_until_the_predicted_blackout_is_short_enough() -> None:
    machine = source(max_blackout_ms=30.0)
    assert kinds(machine.handle(done(1000), 1)) == ["SendRound"]  # 4 MB at 105 MB/s: 39 ms
    assert machine.predicted_ms == pytest.approx(39.06, abs=0.1)
    assert kinds(machine.handle(done(700), 2)) == ["SendRound"]  # short enough, but the next promises better
    assert kinds(machine.handle(done(690), 3)) == ["Persist", "PauseGuest"]
    assert machine.rounds == 3


def test_a_round_that_is_small_at_once_is_the_last_before_the_pause() -> None:
    machine = source(max_blackout_ms=30.0)
    assert kinds(machine.handle(done(100), 1)) == ["Persist", "PauseGuest"]  # 3.9 ms
    assert machine.rounds == 1


def test_a_tiny_round_does_not_spoil_the_rate() -> None:
    machine = source()
    machine.handle(done(5000), 1)
    rate = machine.rate
    machine.handle(done(5000, size=4096, seconds=0.5), 2)
    assert machine.rate == rate


def test_what_does_not_converge_is_given_up_with_the_figures() -> None:
    machine = source(max_rounds=2)
    machine.handle(done(100000), 1)
    assert kinds(machine.handle(done(100000), 2)) == ["StopCopy", "ResumeGuest", "FinishTarget", "AskStore"]
    (_, end) = machine.handle(mig.StoreAnswered("aborted", 5), 3)
    assert isinstance(end, mig.Done)
    assert "after 2 rounds" in end.result.reason
    assert end.result.outcome == "aborted"


def test_without_a_coordinator_the_switch_waits_and_copies_again_after_it() -> None:
    machine = source()
    machine.handle(mig.CoordinatorLost(), 0)
    assert kinds(machine.handle(done(0), 1)) == []
    assert machine.phase is mig.SourcePhase.HOLD
    assert kinds(machine.handle(mig.CoordinatorRestored(), 5)) == ["SendRound"]
    assert kinds(machine.handle(done(0), 6)) == ["Persist", "PauseGuest"]


def test_the_deadline_ends_a_copy_and_the_switch_has_its_own() -> None:
    machine = source(deadline_s=60)
    for now in range(5, 60, 5):
        machine.handle(mig.Copying(now, 1000), now)
        assert machine.wakeup == min(now + 10, 60)  # a stall would be noticed by then
    assert machine.handle(mig.Tick(), 59) == []
    assert machine.wakeup == 60
    assert "ResumeGuest" in kinds(machine.handle(mig.Tick(), 60))
    machine = source(deadline_s=60)
    machine.handle(done(0), 50)
    assert machine.wakeup == 80
    assert "ResumeGuest" in kinds(machine.handle(mig.Tick(), 80))


def test_a_pause_that_comes_after_the_abort_is_undone() -> None:
    machine = source()
    machine.handle(done(0), 1)
    machine.handle(mig.TargetLost("gone"), 1)
    assert kinds(machine.handle(mig.Paused(1.0), 1)) == ["ResumeGuest"]
    machine.handle(mig.StoreAnswered("aborted", 5), 2)
    assert kinds(machine.handle(mig.Paused(1.0), 1)) == ["ResumeGuest"]


def test_in_doubt_the_source_stays_paused_and_asks_again() -> None:
    machine = source()
    to_commit(machine)
    assert machine.phase is mig.SourcePhase.COMMIT
    for event in (mig.TargetLost("gone"), mig.CoordinatorLost(), mig.CancelAsked(), mig.StoreUnreachable()):
        assert "ResumeGuest" not in kinds(machine.handle(event, 2))
    assert machine.handle(mig.Tick(), 3) == [mig.AskStore("abort", "cancelled")]
    machine.handle(mig.StoreUnreachable(), 3)
    assert machine.handle(mig.CoordinatorRestored(), 3) == [mig.AskStore("abort", "cancelled")]
    assert kinds(machine.handle(mig.StoreAnswered("committed", 6, 2), 4)) == ["FinishTarget", "Persist", "FreeGuest"]


@pytest.mark.parametrize("source_first", [True, False])
@pytest.mark.parametrize("theirs", ["aa", "bb"])
def test_checksums_that_differ_abort_before_commit(theirs: str, source_first: bool) -> None:
    machine = source(verify=True)
    machine.handle(done(0), 1)
    machine.handle(mig.Paused(1.0), 1)
    assert machine.handle(mig.LastRoundDone(0, 0, 0), 1) == []
    if source_first:
        assert machine.handle(mig.Checksummed("aa"), 1) == []
    assert kinds(machine.handle(mig.StateSaved(), 1)) == ["SendState"]
    effects = machine.handle(mig.TargetReady(theirs), 1)
    if not source_first:
        assert effects == []
        effects = machine.handle(mig.Checksummed("aa"), 1)
    assert ("ResumeGuest" in kinds(effects)) == (theirs != "aa")
    assert (mig.AskStore("commit") in effects) == (theirs == "aa")


def test_blackout_corrects_the_clock_offset_and_bounds_its_error() -> None:
    machine = source()
    to_commit(machine)
    machine.handle(mig.StoreAnswered("committed", 6, 2), 1)
    # The target's clock is 1000 s ahead; it resumed 20 ms after the pause; the round trip took 4 ms.
    (_, _, end) = machine.handle(mig.TargetFinished(1100.020, 1100.052, 100.050, 100.054), 2)
    assert isinstance(end, mig.Done)
    assert end.result.blackout_ms == pytest.approx(20, abs=0.01)
    assert end.result.blackout_error_ms == pytest.approx(2, abs=0.01)


def test_a_target_obeys_the_store_only_once_it_has_loaded() -> None:
    target = mig.Target("m", "g", 5, 1)
    assert kinds(target.handle(mig.PrepareAsked(), 0)) == ["Persist", "Reserve"]
    assert kinds(target.handle(mig.FinishAsked("committed", 6), 0)) == ["RefuseSource"]
    target.handle(mig.Reserved(), 0)
    target.handle(mig.StateArrived(), 0)
    assert kinds(target.handle(mig.StateLoaded(), 0)) == ["AnswerReady"]
    assert target.handle(mig.SourceLost(), 1) == [mig.AskStore("query")]
    assert target.handle(mig.StoreAnswered("pending", 5, 1), 1) == []
    assert target.handle(mig.Tick(), 2) == [mig.AskStore("query")]
    assert kinds(target.handle(mig.StoreAnswered("committed", 6, 2), 2)) == ["StartGuest", "Persist"]
    assert kinds(target.handle(mig.GuestStarted(9.0), 3)) == ["AnswerFinished", "Forget", "Done"]
    assert target.handle(mig.FinishAsked("committed", 6), 4) == [mig.AnswerFinished(9.0)]


def test_a_target_whose_source_never_returns_gives_up_through_the_store() -> None:
    record = mig.Record("target", "m", "g", 5, 1, "incoming")
    target, effects = mig.Target.recover(record, loaded=True, now=0)
    assert effects == [mig.AskStore("query")]
    target.handle(mig.StoreAnswered("pending", 5, 1), 0)
    (ask,) = target.handle(mig.Tick(), 60)
    assert isinstance(ask, mig.AskStore)
    assert ask.ask == "abort"
    assert kinds(target.handle(mig.StoreAnswered("aborted", 5, 1), 61)) == ["DestroyIncoming", "Forget", "Done"]


def test_the_store_keeps_the_first_word_for_ever() -> None:
    for first, second in (("commit", "abort"), ("abort", "commit")):
        store = mig.Arbiter({"g": (5, 1)})
        store.begin(mig.Begin("m", "g", 5, 1, 2))
        assert store.ask("m", "g", 5, "query").decision == "pending"
        verdict = store.ask("m", "g", 5, first)  # type: ignore[arg-type]
        again = store.ask("m", "g", 5, second)  # type: ignore[arg-type]
        assert again.decision == verdict.decision
        assert verdict.changed
        assert not again.changed
        assert store.guests["g"] == ((6, 2) if first == "commit" else (5, 1))


def test_commit_is_compare_and_set_on_the_generation() -> None:
    store = mig.Arbiter({"g": (5, 1)})
    store.begin(mig.Begin("m", "g", 5, 1, 2))
    store.guests["g"] = (8, 3)  # fenced meanwhile
    assert store.ask("m", "g", 5, "commit").decision == "aborted"
    assert store.guests["g"] == (8, 3)
    assert store.ask("unknown", "g", 8, "commit").decision == "aborted"


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (mig.Begin("m", "g", 5, 1, 3), "exists"),
        (mig.Begin("n", "g", 5, 1, 3), "conflict"),
        (mig.Begin("n", "g", 4, 1, 3), "fenced"),
        (mig.Begin("n", "g", 5, 2, 3), "fenced"),
        (mig.Begin("n", "h", 5, 1, 3), "not_found"),
    ],
)
def test_a_migration_that_may_not_begin(row: mig.Begin, code: str) -> None:
    store = mig.Arbiter({"g": (5, 1)})
    store.begin(mig.Begin("m", "g", 5, 1, 2))
    with pytest.raises(Refused) as caught:
        store.begin(row)
    assert caught.value.code == code


def test_a_copy_in_which_no_byte_moves_is_given_up_with_that_reason() -> None:
    machine = source(deadline_s=600)
    machine.handle(mig.Copying(1000, 7), 4)
    machine.handle(mig.Copying(1000, 7), 13)
    assert machine.handle(mig.Tick(), 13.9) == []
    assert "ResumeGuest" in kinds(machine.handle(mig.Tick(), 14))
    (_, end) = machine.handle(mig.StoreAnswered("aborted", 5), 15)
    assert isinstance(end, mig.Done)
    assert "stalled: no byte has moved for 10 s in round 1" in end.result.reason


def test_a_guest_that_writes_too_fast_is_throttled_until_it_converges() -> None:
    machine = source(max_blackout_ms=30.0)
    for _ in range(2):
        assert kinds(machine.handle(done(3000), 1)) == ["SendRound"]
    asked = next(e for e in machine.handle(done(3000), 1) if not isinstance(e, mig.ReportProgress))
    assert isinstance(asked, mig.SetThrottle)
    assert 60 <= asked.percent <= 99
    machine.handle(done(600), 2)
    assert kinds(machine.handle(done(590), 3)) == ["Persist", "PauseGuest"]


def test_without_a_coordinator_nobody_is_kept_throttled() -> None:
    machine = source(max_blackout_ms=30.0)
    for _ in range(3):
        machine.handle(done(3000), 1)
    assert machine.plan.throttle
    machine.handle(mig.CoordinatorLost(), 2)
    assert kinds(machine.handle(done(0), 3)) == ["SetThrottle"]
    assert machine.phase is mig.SourcePhase.HOLD
    assert machine.plan.throttle == 0


def test_stop_and_copy_pauses_before_the_first_page() -> None:
    machine = mig.Source("m", "g", 5, 2, MigrationParams(mode="stop-and-copy", deadline_s=60))
    machine.handle(mig.Start(), 0)
    assert kinds(machine.handle(mig.TargetPrepared(), 1)) == ["Persist", "PauseGuest"]
    assert machine.wakeup == 60
    assert kinds(machine.handle(mig.Paused(0.0), 1)) == ["SendLastRound", "SaveState"]


def postcopy_target() -> mig.Target:
    """It runs, and pages are missing."""
    target = mig.Target("m", "g", 5, 1)
    target.handle(mig.PrepareAsked(), 0)
    target.handle(mig.Reserved(), 0)
    assert kinds(target.handle(mig.StateArrived(left=7), 0)) == ["Persist", "PullPages", "LoadState"]
    assert kinds(target.handle(mig.StateLoaded(), 0)) == ["AnswerReady"]
    assert kinds(target.handle(mig.FinishAsked("committed", 6), 1)) == ["StartGuest", "Persist"]
    assert kinds(target.handle(mig.GuestStarted(9.0, 7), 1)) == ["AnswerFinished", "PullPages", "Persist"]
    assert target.phase is mig.TargetPhase.PULL
    return target


def test_a_target_that_lacks_pages_ends_only_with_them_or_with_its_guest() -> None:
    target = postcopy_target()
    for event in (mig.SourceLost(), mig.CancelAsked(), mig.StoreAnswered("committed", 6, 2), mig.StepFailed("x", "y")):
        assert target.handle(event, 2) == []
    assert target.handle(mig.FinishAsked("committed", 6), 3) == [mig.AnswerFinished(9.0)]
    assert kinds(target.handle(mig.PullDone(), 4)) == ["Forget", "Done"]
    target = postcopy_target()
    assert kinds(target.handle(mig.StepFailed("guest", "it powered off"), 2)) == ["ReleaseSource"]
    assert kinds(target.handle(mig.PullDone(), 3)) == ["Forget", "Done"]


def test_a_source_keeps_its_pages_until_the_target_has_them_all() -> None:
    machine = source(mode="postcopy")
    assert kinds(machine.handle(done(9), 1)) == ["Persist", "PauseGuest"]
    assert kinds(machine.handle(mig.Paused(100.0), 1)) == ["LeavePages", "SaveState"]
    machine.handle(mig.LastRoundDone(1, 0, 4096, 7), 1)
    assert kinds(machine.handle(mig.StateSaved(), 1)) == ["SendState"]
    assert machine.handle(mig.TargetReady(), 1) == [mig.AskStore("commit")]
    effects = machine.handle(mig.StoreAnswered("committed", 6, 2), 1)
    assert kinds(effects) == ["FinishTarget", "Persist", "ServePages"]
    assert mig.Persist(mig.Record("source", "m", "g", 5, 2, "serve", True)) in effects
    assert kinds(machine.handle(mig.TargetLost("the link is cut"), 2)) == []
    assert machine.phase is mig.SourcePhase.SERVE
    for event in (mig.TargetLost("again"), mig.CancelAsked(), mig.CoordinatorLost(), mig.Tick()):
        assert kinds(machine.handle(event, 1000)) == []
    machine.handle(mig.Served(5, 1, 20480, 1), 1001)
    assert machine.left == 1
    assert kinds(machine.handle(mig.Pulled(), 1002)) == ["Persist", "FreeGuest", "Forget", "Done"]


@pytest.mark.parametrize("when", ["before the commit", "behind it"])
def test_a_source_whose_pages_are_all_pulled_frees_them_after_a_restart(when: str) -> None:
    """The target says once that it has everything; it may be done with the migration when the source is back."""
    machine = source(mode="postcopy")
    machine.handle(done(9), 1)
    machine.handle(mig.Paused(100.0), 1)
    machine.handle(mig.LastRoundDone(1, 0, 4096, 7), 1)
    machine.handle(mig.StateSaved(), 1)
    machine.handle(mig.TargetReady(), 1)
    if when == "behind it":
        machine.handle(mig.StoreAnswered("committed", 6, 2), 1)
    (noted, *_) = machine.handle(mig.Pulled(), 1)
    assert isinstance(noted, mig.Persist)
    again, effects = mig.Source.recover(noted.record, 2)
    if when == "before the commit":
        assert effects == [mig.AskStore("abort", "the source's agent was restarted")]
        effects = again.handle(mig.StoreAnswered("committed", 6, 2), 2)
        assert "ServePages" not in kinds(effects)
    assert "FreeGuest" in kinds(effects)


def test_a_limit_of_bandwidth_outlives_a_restart(tmp_path: Path) -> None:
    machine = source(mode="postcopy", bandwidth=5_000_000)
    [record] = [effect.record for effect in machine.handle(done(9), 1) if isinstance(effect, mig.Persist)]
    save_note(tmp_path, note_of(record))
    note = load_note(tmp_path)
    assert note is not None
    again, _ = mig.Source.recover(record_of(note), 2)
    assert record_of(note) == record
    assert again.params.bandwidth == 5_000_000


def test_a_guest_that_was_taken_back_frees_nothing() -> None:
    machine, _ = mig.Source.recover(mig.Record("source", "m", "g", 5, 2, "serve", True), 0)
    effects = machine.handle(mig.TakenBack(), 1)
    assert kinds(effects) == ["Forget", "Done"]
    assert machine.phase is mig.SourcePhase.DONE
    assert machine.handle(mig.StepFailed("guest", "its place was taken"), 2) == []


def test_the_death_of_a_serving_source_is_told_with_what_it_takes_along() -> None:
    machine, effects = mig.Source.recover(mig.Record("source", "m", "g", 5, 2, "serve", True), 0)
    assert kinds(effects) == ["ServePages"]
    machine.handle(mig.Served(5, 0, 20480, 12), 1)
    *_, end = machine.handle(mig.StepFailed("guest", "it was killed"), 2)
    assert isinstance(end, mig.Done)
    assert "12 pages had not been pulled" in end.result.reason
    assert end.result.outcome == "committed"


def test_at_the_deadline_the_rest_is_left_to_be_pulled_where_that_is_wished() -> None:
    machine = source(deadline_s=60, on_stall="postcopy")  # type: ignore[arg-type]
    machine.handle(mig.Copying(1 << 20, 1000), 55)
    assert kinds(machine.handle(mig.Tick(), 60)) == ["EndRound"]
    machine.handle(mig.Copying(2 << 20, 1000), 61)
    assert kinds(machine.handle(done(0), 62)) == ["Persist", "PauseGuest"]
    assert machine.postcopy
    machine = source(deadline_s=60, on_stall="postcopy")  # type: ignore[arg-type]
    machine.handle(mig.CoordinatorLost(), 55)
    machine.handle(mig.Tick(), 60)
    assert kinds(machine.handle(done(0), 62)) == []
    assert machine.phase is mig.SourcePhase.HOLD
    assert "ResumeGuest" in kinds(machine.handle(mig.Tick(), 90)), "nobody came"
