"""The source's hands: protocol.migration.Source with a real guest, page stream and peer.

The paused path is short on purpose: links and the page stream are open before it, the last pages go out while the state
is saved, the state goes right behind them, nothing is synced to the disk here, and there are three waits only: for the
target, which has the pages in place and the state loaded when it answers, for the store, and for the start.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import trio

from node.core import CoreError, CoreStateError
from node.disks import used
from node.guest import GuestGone
from node.host import Host
from node.links import SOFTWARE
from node.migration import imagefiles
from node.migration.bucket import TokenBucket
from node.migration.channel import DIAL_TIMEOUT, Channel, dial
from node.migration.disks import DiskSender, TargetFull, open_sender
from node.migration.driver import Driver
from node.migration.hot import WATCH_S, HotPages
from node.migration.known import Asker
from node.migration.pages import PageSender, RoundStats, limiter
from node.migration.paused import PausedCopy
from node.migration.squeeze import FASTEST, Squeezer
from node.migration.throttle import Throttle
from node.pageindex import KEY
from node.ramview import LATER, NEEDED, RamView
from protocol.errors import LinkError, RemoteError
from protocol.messages import (
    Asked,
    Finished,
    GuestSpec,
    MigrationAsk,
    MigrationFinish,
    MigrationPages,
    MigrationParams,
    MigrationPrepare,
    MigrationResult,
    MigrationState,
    MigrationWarm,
    Prepared,
    Warmed,
)
from protocol.messages import TargetReady as Ready
from protocol.migration import (
    Checksummed,
    ComputeChecksum,
    Copying,
    DisksDone,
    Effect,
    EndRound,
    FinishTarget,
    FreeGuest,
    KeepDisks,
    LastRoundDone,
    LeavePages,
    Paused,
    PauseGuest,
    PrepareTarget,
    Record,
    ReportProgress,
    ResumeGuest,
    RoundDone,
    SaveState,
    SendDisks,
    SendLastRound,
    SendRound,
    SendState,
    ServePages,
    SetThrottle,
    Source,
    SourcePhase,
    StateSaved,
    StepFailed,
    StopCopy,
    TargetFinished,
    TargetLost,
    TargetPrepared,
    TargetReady,
    skew,
)
from protocol.transport import Link, LinkStream

log = logging.getLogger("wherry.node.migration")

LINK_TIMEOUT = 10.0
REMEMBERED = 1 << 18  # pages of which marks are kept (1 KiB each), so that what changes in them goes alone
PREPARE_TIMEOUT = 120.0  # the target may have to fetch the image ...
DISK_RATE = 16 << 20  # ... and makes a disk of it, at this many bytes a second at least
STATE_TIMEOUT = 30.0
FINISH_TIMEOUT = 10.0
WARM_TIMEOUT = 1.0
ASKING = ("auto", "precopy", "hybrid")  # modes with rounds: what was sent is remembered, what the target has is named
ASK_TIMEOUT = 10.0  # the target may still be reading what it has
LOOK_S = 0.25
FIRST_LOOK_S, LONGEST_LOOK_S = 0.005, LOOK_S  # between two looks at a round under way
MOST_LOOKS = 200  # at one round: its curve says no more by then
FIRST_WAITS_S = 0.2
FIRST_S = 0.4  # of a post-copy's first pass: it is to be short
SHORTEST_HOT = 8  # bytes: a shorter list names no block
_CLOCK_SAMPLES = 4


def prepare_timeout(spec: GuestSpec) -> float:
    """Seconds."""
    return PREPARE_TIMEOUT + (spec.image.disk.size / DISK_RATE if spec.image.disk is not None else 0.0)


class SourceDriver(Driver):
    """``prepared`` is set when the target has reserved, or when it is over before that."""

    role = "source"

    def __init__(self, host: Host, machine: Source, params: MigrationParams, address: str) -> None:
        super().__init__(host, machine)
        self.machine: Source = machine
        self.params = params
        self._address = address
        self.prepared = trio.Event()
        self.rate = 0  # bytes/s of the way, as earlier migrations had it; 0: unknown
        self._link: Link | None = None
        self._stream: LinkStream | Channel | None = None
        self._view: RamView | None = None
        self._sender: PageSender | None = None
        self._disk: DiskSender | None = None
        self._copy = trio.CancelScope()
        self._throttle = Throttle()
        self._bulk = False  # the link carries rounds of a running guest, which may wait
        self._warmed = False
        self._state = b""
        self._absent = b""
        self._paused_at = 0.0
        self._hot: HotPages | None = None
        self._questions: Asker | None = None
        self.paused = PausedCopy(self, machine, bandwidth=params.bandwidth, address=address)

    @property
    def pulls(self) -> bool:
        """The target lacks pages of a post-copy: that may take long."""
        return self.machine.phase is SourcePhase.SERVE and not self.machine.pulled

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_guest)
                nursery.start_soon(self._throttle.keep, self.guest)
                await super().run()
                nursery.cancel_scope.cancel()
        finally:
            self.prepared.set()
            self._carry_bulk(False)
            if self._stream is not None:
                self._stream.abort("cancelled", "the migration is over")
            if self._disk is not None:
                self._disk.close()
            await self.paused.close()
            if self._view is not None:
                self._view.close()
            self._let_go()

    def _let_go(self) -> None:
        """Drivers are kept for questions that come late; their buffers and compressors, megabytes each, are not."""
        self._link = self._stream = self._view = self._sender = None
        self._hot = self._disk = self._questions = None
        self._state = self._absent = b""

    async def _watch_guest(self) -> None:
        """A guest that ends by itself ends its migration."""
        guest = self.guest
        if guest.handle is not None:
            await guest.ended.wait()
            if self.paused.outlives_process():
                return
            self.feed(StepFailed("guest", f"the guest has ended: {guest.reason}"))

    async def effect(self, effect: Effect) -> None:
        match effect:
            case PrepareTarget():
                self.start(self._prepare, effect)
            case SendDisks():
                self.start(self._send_disks, effect)
            case SendRound():
                self.start(self._send_round, effect)
            case StopCopy():
                await self._stop_copy()
            case EndRound():
                if self._sender is not None:
                    self._sender.end_round()
            case SetThrottle(percent):
                await self._throttle.set(self.guest, percent)
            case PauseGuest():
                self.start(self._pause, effect)
            case SendLastRound():
                self.start(self._send_last_round, effect)
            case LeavePages():
                self.start(self._leave_pages, effect)
            case SaveState():
                self.start(self._save, effect)
            case ComputeChecksum():
                self.start(self._checksum, effect)
            case SendState():
                self.start(self._send_state, effect)
            case FinishTarget("aborted"):
                self.host.nursery.start_soon(self._finish, effect)  # nobody waits for it, this driver may be done
            case FinishTarget():
                self.paused.expect_told()
                self.start(self._finish, effect)
            case ResumeGuest():
                await self._resume()
            case ServePages():
                self.start(self._serve_pages, effect)
            case KeepDisks():
                await self.paused.keep_disks()
            case FreeGuest():
                await self.paused.free()
            case ReportProgress(progress):
                await self.host.coordinator.notify(progress)
            case _:
                raise AssertionError(f"{effect} is not the source's")

    async def done(self, result: MigrationResult) -> None:
        await self.hold("done")
        guest = self.host.guests.find(self.machine.guest)
        if guest is not None and guest.migration == self.machine.migration:
            guest.migration = ""
            self.host.report_soon()
        log.info(
            "%s generation=%d %s %s: %d rounds, %d pages, %d bytes, blackout %.2f ms +- %.2f",
            self.tag,
            self.machine.generation,
            result.outcome,
            result.reason,
            result.rounds,
            result.pages_sent,
            result.bytes_sent,
            result.blackout_ms,
            result.blackout_error_ms,
        )
        await self.host.coordinator.notify(result)

    # -- PREPARE, COPY

    async def _prepare(self, effect: PrepareTarget) -> None:
        await self.hold("prepare")
        try:
            why_not = await self._arrange()
        except RemoteError as error:
            why_not = f"the target refuses: {error.message or error.code}"
        except LinkError as error:
            why_not = str(error)
        if why_not:
            self.feed(TargetLost(why_not))
            return
        self.prepared.set()
        self._carry_bulk(True)
        await self.hold("copy")
        self.feed(TargetPrepared())

    async def _arrange(self) -> str:
        """Have the target make room, and open the ways there. Returns why that cannot be, "" when it is done. Raises
        RemoteError, LinkError, and what :meth:`Driver.start` feeds back."""
        guest = self.guest
        if (await guest.live.call("status")).get("debugger"):
            raise CoreStateError(-4, "debugger", "a debugger is attached to the guest: detach it first")
        link = self._link = await self.host.peers.link(self.machine.target, LINK_TIMEOUT)
        view = self._view = guest.live.open_view()
        found = trio.Event()
        self._nursery.start_soon(self._find_pages, view, found)
        disk = guest.record.files["disk"] if self.machine.disks else ""
        prepared: Prepared = await link.call(
            MigrationPrepare(
                migration=self.machine.migration,
                spec=guest.record.spec,
                generation=self.machine.generation,
                source=self.host.identity.node,
                state_version=skew.STATE_VERSION,
                disk_bytes=max(used(Path(disk)), 1) if disk else 0,
                asks=self.params.mode in ASKING,
                rate=self.rate,
            ),
            timeout=prepare_timeout(guest.record.spec),
        )
        if why_not := self._unfit(link, prepared):
            return why_not
        bucket = TokenBucket(self.params.bandwidth)
        self._stream = await self._open_stream(link, prepared)
        if disk:
            self._disk = await open_sender(self, guest, link, prepared, self._address, bucket)
        await found.wait()
        if not prepared.files:
            view.files(())
        view.track(True)
        view.fills(prepared.fills)
        squeezer = Squeezer(FASTEST) if prepared.squeezed else None
        self._sender = PageSender(view, self._stream, bucket, squeezer, self._asker(link, prepared.names))
        if prepared.squeezed and self.params.mode in ASKING:
            view.remember(REMEMBERED)
        return ""

    def _unfit(self, link: Link, prepared: Prepared) -> str:
        """Why the target's software is not up to this migration, or ""."""
        params = self.params
        if not prepared.postcopy and (params.mode in ("postcopy", "hybrid") or params.on_stall == "postcopy"):
            lacks = "the target node's software knows no post-copy"
        elif params.protect and not prepared.protect:
            lacks = "the target node's software cannot protect a post-copy"
        elif self.machine.disks and not prepared.disks:
            lacks = "the target node's software does not move disks"
        else:
            lacks = ""
        other = skew.refusal(
            skew.STATE_VERSION,
            prepared.state_oldest,
            prepared.state_version,
            source=SOFTWARE,
            target=link.peer.software,
        )
        return other or lacks

    def _asker(self, link: Link, key: bytes) -> Asker | None:
        """None: the target has nothing that can be asked for."""
        if len(key) != KEY or self._view is None:
            return None

        async def call(names: bytes, pages: bytes) -> bytes:
            request = MigrationAsk(migration=self.machine.migration, names=names, pages=pages)
            answer: Asked = await link.call(request, timeout=ASK_TIMEOUT)
            return answer.found

        try:
            self._questions = Asker(self._view, key, call, self._asked)
        except CoreError as error:
            log.info("%s the target is not asked for pages: %s", self.tag, error)
        return self._questions

    async def _asked(self) -> None:
        assert self._questions is not None
        found, asked = self._questions.found, self._questions.asked
        log.info("%s the target has %d of %d pages that it was asked for", self.tag, found, asked)
        await self.hold("asked")

    async def _find_pages(self, view: RamView, found: trio.Event) -> None:
        """While the target makes the guest's process."""
        try:
            await imagefiles.find(view, self.guest.record)
        finally:
            found.set()

    async def _open_stream(self, link: Link, prepared: Prepared) -> LinkStream | Channel:
        """A channel where the target can be dialled, else a stream of the link."""
        if prepared.ticket and self._address:
            try:
                with trio.fail_after(DIAL_TIMEOUT):
                    return await dial(self._address, prepared.ticket, seal=prepared.key_there, open=prepared.key_back)
            except (OSError, ValueError, trio.BrokenResourceError, trio.TooSlowError) as error:
                why = error or "it takes too long"
                log.info("%s no channel to %s, the link carries the pages: %s", self.tag, self._address, why)
        return await link.open_stream(MigrationPages(migration=self.machine.migration))

    async def _send_disks(self, effect: SendDisks) -> None:
        assert self._disk is not None
        began = trio.current_time()
        self._copy, looking = trio.CancelScope(), trio.CancelScope()
        self._nursery.start_soon(self._look, looking, began, [])
        await self.hold("mirror")
        with self._copy:
            try:
                size = await self._disk.send_round()
            except (TargetFull, trio.BrokenResourceError) as error:
                self.feed(TargetLost(f"the disk cannot be copied: {error}"))
                return
            finally:
                looking.cancel()
            seconds = trio.current_time() - began
            self.feed(DisksDone(size, seconds, self._disk.expected, min(self._disk.looked, seconds)))

    async def _send_written(self) -> int:
        """What the guest wrote to its disk since the last round; bytes that went."""
        if self._disk is None or not self._disk.dirty:
            return 0
        return await self._disk.send_round()

    async def _send_round(self, effect: SendRound) -> None:
        assert self._sender is not None
        assert self._view is not None
        began = trio.current_time()
        curve: list[tuple[float, int]] = []
        self._copy, looking = trio.CancelScope(), trio.CancelScope()
        self._nursery.start_soon(self._look, looking, began, curve)
        with self._copy:
            try:
                disk_size = await self._send_written()
                if effect.likely:
                    stats = await self._send_likely(began)
                    disk_size += await self._send_written()  # that took its time
                else:
                    stats = await self._sender.send_round()
            except trio.BrokenResourceError as error:
                self.feed(TargetLost(f"the page stream broke: {error}"))
                return
            except TargetFull as error:
                self.feed(TargetLost(f"the disk cannot be copied: {error}"))
                return
            finally:
                looking.cancel()
            seconds = trio.current_time() - began
            curve.append((seconds, self._view.dirty_now))
            await self._warm()
            self.feed(
                RoundDone(
                    stats.pages,
                    stats.zero_pages,
                    stats.size,
                    seconds,
                    self._view.dirty_now,
                    tuple(curve),
                    disk_size,
                    self._disk.expected if self._disk is not None else 0,
                    stats.probe,
                )
            )

    async def _send_likely(self, began: float) -> RoundStats:
        """The short pass of a post-copy: what will be needed first, then what the link carries in the time."""
        assert self._sender is not None
        assert self._view is not None
        hot = HotPages(self._view)
        await hot.settle()
        await self._name_recent()
        stats = await self._sender.send_round(kinds=LATER)
        hot.rate = stats.size / max(trio.current_time() - began - WATCH_S, 1e-3)
        left = FIRST_S - (trio.current_time() - began - WATCH_S)
        if left > 0:
            stats = stats.and_more(await self._sender.send_round(seconds=left))
        await self._warm()
        await hot.watch()
        self._hot = hot
        return stats

    async def _look(self, scope: trio.CancelScope, began: float, curve: list[tuple[float, int]]) -> None:
        """While a round is under way: how many pages are dirty by now, at times that double, and that it is alive."""
        assert self._sender is not None
        assert self._view is not None
        after = FIRST_LOOK_S
        with scope:
            while True:
                await trio.sleep(after)
                dirty = self._view.dirty_now
                if len(curve) < MOST_LOOKS:
                    curve.append((trio.current_time() - began, dirty))
                disk = (self._disk.left, self._disk.sent) if self._disk is not None else (0, 0)
                self.feed(Copying(self._sender.sent + disk[1], dirty, *disk))
                after = min(2 * after, LONGEST_LOOK_S)

    async def _warm(self) -> None:
        """Once, behind the first round: the target has the code, and the guest still runs here while it is translated.
        Whatever goes wrong costs the guest some speed after the switch and nothing else."""
        if self._warmed or self._link is None:
            return
        self._warmed = True
        try:
            with trio.fail_after(WARM_TIMEOUT):
                hot = (await self.guest.live.call("hot"))["hot"]
                if len(hot) < SHORTEST_HOT:
                    return
                answer: Warmed = await self._link.call(
                    MigrationWarm(migration=self.machine.migration, hot=hot), timeout=WARM_TIMEOUT
                )
            log.info("%s warm start: the target translated %d hot blocks", self.tag, answer.blocks)
        except (LinkError, RemoteError, CoreError, trio.TooSlowError) as error:
            log.info("%s no warm start: %s", self.tag, error)

    def _carry_bulk(self, on: bool) -> None:
        """Once the guest stands still nothing is as urgent as its last pages."""
        if self._link is not None and on is not self._bulk:
            self._bulk = on
            self._link.carry_bulk(1 if on else -1)

    async def _stop_copy(self) -> None:
        self._copy.cancel()
        if self._stream is not None:
            self._stream.abort("cancelled", "the copy was stopped")
        if self._view is not None:
            self._view.track(False)
        if self._disk is not None:
            self._disk.stop()
        await self._throttle.off(self.host.guests.find(self.machine.guest))

    # -- SWITCH

    async def _pause(self, effect: PauseGuest) -> None:
        await self.hold("switch")
        self._carry_bulk(False)
        if self.machine.phase is not SourcePhase.SWITCH:
            return  # given up before it was this task's turn: a pause now would come after ResumeGuest, and stay
        guest = self.guest
        ports = self.host.guests.ports
        ports.hold(guest)
        answer = await guest.live.call("pause")
        ports.hold(guest)
        self._paused_at = float(answer["at"])
        self.feed(Paused(self._paused_at))

    async def _send_last_blocks(self) -> int:
        if self._disk is None:
            return 0
        return await self._disk.send_round(last=True, limited=not self.machine.rounds)

    async def _send_last_round(self, effect: SendLastRound) -> None:
        assert self._sender is not None
        await trio.lowlevel.checkpoint()  # the guest's process is asked for the state first, and works meanwhile
        try:
            disk_size = await self._send_last_blocks()
            stats = await self._sender.send_round(last=True, limited=not self.machine.rounds)
        except trio.BrokenResourceError as error:
            self.feed(TargetLost(f"the page stream broke: {error}"))
            return
        self.feed(LastRoundDone(stats.pages, stats.zero_pages, stats.size, disk_bytes=disk_size))

    async def _leave_pages(self, effect: LeavePages) -> None:
        assert self._view is not None
        assert self._stream is not None
        assert self._sender is not None
        disk_size = await self._send_last_blocks()
        await self._name_recent()
        stats = await self._sender.send_round(last=True, limited=False, kinds=NEEDED)
        self._absent = self._view.left()
        left = int.from_bytes(self._absent, "little").bit_count()
        if not left:
            self._absent = b""
        self.paused.open(self._view)
        self.feed(LastRoundDone(stats.pages, stats.zero_pages, stats.size, left, disk_size))

    async def _save(self, effect: SaveState) -> None:
        self._state = (await self.guest.live.call("save"))["state"]
        self.feed(StateSaved())

    async def _name_recent(self) -> None:
        """What the guest will need first. A hint: nothing depends on it."""
        assert self._view is not None
        try:
            needed, soon, later = (await self.guest.live.call("recent"))["pages"]
            if self._hot is not None:
                hot = int.from_bytes(needed, "little") | int.from_bytes(self._hot.hot(soon), "little")
                needed = hot.to_bytes(len(needed), "little")
            self._view.first((needed, soon, later))
        except CoreError as error:
            log.info("%s it is not known what was touched of late: %s", self.tag, error)

    async def _checksum(self, effect: ComputeChecksum) -> None:
        assert self._view is not None
        self.feed(Checksummed((await trio.to_thread.run_sync(self._view.checksum, limiter=limiter)).hex()))

    async def _send_state(self, effect: SendState) -> None:
        assert self._link is not None
        try:
            ready: Ready = await self._link.call(
                MigrationState(
                    migration=self.machine.migration,
                    state=self._state,
                    paused_at=self._paused_at,
                    verify=self.params.verify and not self._absent,
                    absent=self._absent,
                    protect=self.params.protect and bool(self._absent),
                ),
                timeout=STATE_TIMEOUT,
            )
        except RemoteError as error:
            self.feed(TargetLost(f"the target cannot run it: {error.message or error.code}"))
        except LinkError as error:
            self.feed(TargetLost(str(error)))
        else:
            self.feed(TargetReady(ready.checksum, ready.verify_ms))

    # -- COMMIT and after

    async def _finish(self, effect: FinishTarget) -> None:
        """Bring the target the store's word. The first answer takes as long as the start; the request is then repeated,
        which changes nothing, for a short round trip: its half bounds how far the clocks are known. A guest that waits
        for its first pages meanwhile comes before that."""
        request = MigrationFinish(
            migration=self.machine.migration, decision=effect.decision, generation=effect.generation
        )
        best = TargetFinished(0.0, 0.0, 0.0, math.inf)
        try:
            link = await self.host.peers.link(self.machine.target, LINK_TIMEOUT)
            for turn in range(1 if effect.decision == "aborted" else _CLOCK_SAMPLES):
                if turn == 1 and self._absent:
                    self.feed(best)
                    await trio.sleep(FIRST_WAITS_S)
                sent_at = time.time()
                answer: Finished = await link.call(request, timeout=FINISH_TIMEOUT)
                sample = TargetFinished(answer.resumed_at, answer.clock, sent_at, time.time())
                if sample.received_at - sample.sent_at < best.received_at - best.sent_at:
                    best = sample
                self.paused.told()
        except LinkError as error:
            if best.received_at == math.inf:
                over = isinstance(error, RemoteError) and error.code == "not_found"
                self.feed(TargetLost(str(error), over=over))
                return
        finally:
            self.paused.told()
        self.feed(best)

    async def _resume(self) -> None:
        guest = self.guest
        if guest.handle is None:
            return
        try:
            if (await guest.handle.call("status"))["state"] == "paused":
                await guest.handle.call("resume")
        except (CoreError, GuestGone) as error:
            log.error("%s could not be resumed: %s", self.tag, error)
            return
        self.host.guests.ports.enable(guest, True)
        self.host.guests.ports.release(guest)
        self.host.guests.changed(guest, "running")
        self.host.guests.probe(guest)

    # -- the paused copy

    async def _serve_pages(self, effect: ServePages) -> None:
        await self.paused.serve_pages()

    async def _persist(self, record: Record) -> None:
        await super()._persist(record)
        if self.machine.pulled:
            self.paused.note_pulled()
