"""The target's hands: protocol.migration.Target with a real guest process and the source's requests.

At most one request of the source waits for an answer (prepare, state or finish); :class:`Slot` is where the machine's
answer meets it. After the end ``resumed_at`` is kept, so that a source that asks late still learns it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time

import trio

from node.core import CoreError
from node.guest import GuestGone
from node.guestcopy import Guest
from node.host import Host
from node.migration import imagefiles
from node.migration.arrival import DiskArrival
from node.migration.channel import Channel, new_keys
from node.migration.driver import Driver
from node.migration.known import Donors, donors
from node.migration.pages import PageReceiver, limiter
from node.migration.protect import Protector
from node.migration.pull import Puller
from node.ramview import RamView
from node.record import Record as GuestRecord
from protocol.errors import Refused
from protocol.messages import (
    Asked,
    Finished,
    GuestSpec,
    GuestState,
    Message,
    MigrationAsk,
    MigrationFinish,
    MigrationProtect,
    MigrationPull,
    MigrationResult,
    MigrationState,
    MigrationWarm,
    Prepared,
    Warmed,
)
from protocol.messages import TargetReady as Ready
from protocol.migration import (
    AnswerFinished,
    AnswerPrepared,
    AnswerReady,
    DestroyIncoming,
    Effect,
    FinishAsked,
    GuestStarted,
    KeepIncoming,
    LoadState,
    PrepareAsked,
    PullDone,
    PullPages,
    RefuseSource,
    ReleaseSource,
    Reserve,
    Reserved,
    SourceLost,
    StartGuest,
    StateArrived,
    StateLoaded,
    StepFailed,
    Target,
    TargetPhase,
    skew,
)
from protocol.transport import Link, LinkStream

log = logging.getLogger("wherry.node.migration")

WARM_MS = 250
LINK_TIMEOUT = 1.0  # then the one who dials is told to hurry again


class Slot:
    """One answer, waited for by one request (``kind``: prepare, state, finish)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._event = trio.Event()
        self._answer: Message | Refused | None = None

    def put(self, answer: Message | Refused) -> None:
        self._answer = answer
        self._event.set()

    async def get(self) -> Message:
        await self._event.wait()
        assert self._answer is not None
        if isinstance(self._answer, Refused):
            raise self._answer
        return self._answer


class TargetDriver(Driver):
    """``spec`` is None for a migration that is recovered after a restart; ``disk_bytes``: that the guest's disk will
    take, as far as the source knows."""

    role = "target"

    def __init__(self, host: Host, machine: Target, spec: GuestSpec | None, disk_bytes: int = 0) -> None:
        super().__init__(host, machine)
        self.machine: Target = machine
        self.resumed_at = 0.0
        self._spec = spec
        self._disk = DiskArrival(self, disk_bytes) if machine.disks and spec is not None else None
        self._slot: Slot | None = None
        self._view: RamView | None = None
        self._state = b""
        self._absent = b""  # post-copy: what the source has not sent
        self._pull_begun = False
        self._puller: Puller | None = None
        self._protect = False
        self._protector: Protector | None = None
        self._expecting = trio.Event()  # the guest process knows what is absent
        self._pages: trio.CancelScope | None = None
        self._pages_ended = trio.Event()
        self._whole = False  # the page stream came to its proper end
        self._known: Donors | None = None  # what pages need not be sent
        self._reserving: trio.CancelScope | None = None
        self._reserved = trio.Event()
        self._given_up = False
        self._asks, self._rate = False, 0

    @property
    def pulls(self) -> bool:
        """Pages of a post-copy are missing: that may take long."""
        return self.machine.phase is TargetPhase.PULL and (self._view is None or self._view.absent > 0)

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            asked = self._slot.kind if self._slot is not None else ""
            self._answer(self.finished_answer() if asked == "finish" else Refused("cancelled", "the migration is over"))
            with trio.CancelScope(shield=True):
                await self._end_pages()
            view, self._view = self._view, None
            if view is not None:
                view.close()
            await self._forget_known()
            if self._protector is not None:
                self._protector.close()
            self._puller = self._protector = None  # this driver is kept for questions that come late
            self._state = self._absent = b""

    async def _end_pages(self) -> None:
        """The page stream's handler may be in a thread that writes to RAM: wait until it is out of it."""
        if self._disk is not None:
            await self._disk.end()
        if self._pages is not None:
            self._pages.cancel()
            await self._pages_ended.wait()

    # -- what the source asks

    async def prepare(self, link: Link, *, asks: bool, rate: int) -> Message:
        """``asks``: the source may ask for pages that are here; ``rate``: bytes/s of the way to here, 0: unknown."""
        self._asks, self._rate = asks, rate
        self.host.nursery.start_soon(self._watch_source, link)
        self.feed(PrepareAsked())
        return await self._wait("prepare")

    def _prepared(self) -> Prepared:
        there, back = new_keys()

        async def take(raw: trio.SocketStream) -> None:
            """Runs in the task that accepted the connection, and ends with it."""
            async with raw:
                try:
                    channel = Channel(raw, seal=back, open=there)
                    await channel.greet(first=True)  # a source that hears nothing has the link carry the pages
                    await self.pages(channel)
                except (Refused, CoreError, trio.BrokenResourceError) as error:
                    log.info("%s the page channel ended: %s", self.tag, error)

        ticket = self.host.tickets.give(take)
        disk_ticket, disk_there, disk_back = self._disk.ticket() if self._disk is not None else (b"", b"", b"")
        return Prepared(
            state_version=skew.STATE_VERSION,
            state_oldest=skew.OLDEST_STATE,
            postcopy=True,
            squeezed=True,
            fills=True,
            files=self._view is not None and imagefiles.offer(self._view, self.guest.record),
            protect=True,
            names=self._known.key if self._known is not None else b"",
            ticket=ticket,
            key_there=there,
            key_back=back,
            disks=True,
            disk_ticket=disk_ticket,
            disk_key_there=disk_there,
            disk_key_back=disk_back,
        )

    async def disk(self, stream: LinkStream) -> None:
        """Handler of the disk's stream: ends with it."""
        if self._disk is None:
            raise Refused("conflict", "no disk is expected")
        await self._disk.receive(stream)

    async def ask(self, request: MigrationAsk) -> Message:
        """Which pages need not be sent."""
        if self._known is None:
            raise Refused("conflict", "no pages can be asked for")
        return Asked(found=await self._known.ask(request.names, request.pages))

    async def _forget_known(self) -> None:
        known, self._known = self._known, None
        if known is not None:
            await known.close()

    async def warm(self, request: MigrationWarm) -> Message:
        """The incoming process translates, in its only state where nobody waits for it."""
        if self._view is None or self._state:
            raise Refused("conflict", "no copy is under way")
        try:
            answer = await self.guest.live.call("warm", hot=request.hot, most_ms=WARM_MS)
        except CoreError as error:
            raise Refused("invalid", str(error)) from None
        return Warmed(blocks=int(answer["blocks"]))

    async def state(self, request: MigrationState) -> Message:
        """It comes right behind the last pages, which have to be in place first."""
        if self._pages is None:
            raise Refused("conflict", "no pages were sent")
        await self._pages_ended.wait()
        if not self._whole:
            raise Refused("conflict", "the pages did not arrive whole")
        if self._disk is not None:
            await self._disk.whole()
        self._state, self._absent, self._protect = request.state, request.absent, request.protect
        self.feed(StateArrived(request.verify, int.from_bytes(request.absent, "little").bit_count()))
        return await self._wait("state")

    async def finish(self, request: MigrationFinish) -> Message:
        if self.finished.is_set():
            return self.finished_answer()
        self.feed(FinishAsked(request.decision, request.generation))
        return await self._wait("finish")

    def finished_answer(self) -> Finished:
        return Finished(resumed_at=self.resumed_at, clock=time.time())

    async def pages(self, stream: LinkStream | Channel) -> None:
        """Handler of the page stream or channel: ends with it."""
        if self._view is None:
            raise Refused("conflict", "nothing is reserved")
        if self._pages is not None:
            raise Refused("conflict", "there is a page stream already")
        self._pages = trio.CancelScope()
        try:
            with self._pages:
                await self.hold("copy")
                await PageReceiver(self._view, stream).run()
                self._whole = True
        except trio.BrokenResourceError:
            raise  # the link says so itself
        except Exception as error:
            self.feed(StepFailed("pages", str(error)))
            raise
        finally:
            self._view.use_index(None)
            self._pages_ended.set()  # first: the guest may stand still, and the index is large
            await self._forget_known()

    async def _wait(self, kind: str) -> Message:
        if self.finished.is_set():
            raise Refused("conflict", "the migration is over")  # nobody would answer
        self._answer(Refused("conflict", "the source asked something else meanwhile"))
        slot = self._slot = Slot(kind)
        return await slot.get()

    def _answer(self, answer: Message | Refused) -> None:
        if self._slot is not None:
            slot, self._slot = self._slot, None
            slot.put(answer)

    async def _watch_source(self, link: Link) -> None:
        await link.wait_closed()
        self.feed(SourceLost())

    # -- effects

    async def effect(self, effect: Effect) -> None:
        match effect:
            case Reserve():
                self.start(self._reserve, effect)
            case AnswerPrepared():
                self._answer(self._prepared())
            case PullPages():
                if not self._pull_begun:
                    self._pull_begun = True
                    self.start(self._pull, effect)
            case ReleaseSource():
                if self._protector is not None and self.guest.state == "crashed":
                    self.feed(PullDone())  # the source is not released: it may take the guest back
                elif self._puller is not None:
                    self._puller.release()
                else:
                    self.feed(PullDone())
            case LoadState():
                self.start(self._load, effect)
            case AnswerReady(checksum, verify_ms):
                self._answer(Ready(checksum=checksum, verify_ms=verify_ms))
            case StartGuest():
                await self._start_guest(effect)
            case AnswerFinished(resumed_at):
                self.resumed_at = resumed_at
                self._answer(self.finished_answer())
            case RefuseSource(code, reason):
                self._answer(Refused(code, reason))
            case KeepIncoming(generation):
                await self._keep(generation)
            case DestroyIncoming():
                await self._destroy()
            case _:
                raise AssertionError(f"{effect} is not the target's")

    async def done(self, result: MigrationResult) -> None:
        await self.hold("done")
        guest = self.host.guests.find(self.machine.guest)
        if guest is not None and guest.pulling and guest.migration == self.machine.migration:
            guest.migration, guest.pulling = "", False
            self.host.report_soon()
        log.info("%s generation=%d %s %s", self.tag, self.machine.generation, result.outcome, result.reason)

    async def _reserve(self, effect: Reserve) -> None:
        assert self._spec is not None
        await self.hold("prepare")
        if self._given_up:
            return  # the end was asked for before this task had its first turn: nobody would clear up after it
        guests = self.host.guests
        if self._disk is not None:
            self._disk.check_room(self._spec)
        known = self._known = donors(self.host, self._spec, rate=self._rate) if self._asks else Donors([], 0)
        guest = guests.add_incoming(self._spec, self.machine.generation, self.machine.migration, self.machine.source)
        self._nursery.start_soon(known.build, self.tag)
        self._reserving = trio.CancelScope()
        try:
            with self._reserving:
                await guests.make(guest, new_disk=self._disk is not None)
        finally:
            self._reserved.set()
        if self._reserving.cancelled_caught:
            return
        if self._disk is not None:
            self._disk.open(guest)
        self._view = guest.live.open_view()
        self._view.use_index(known.index)
        self.host.nursery.start_soon(self._watch_guest, guest)
        self.feed(Reserved())

    async def _watch_guest(self, guest: Guest) -> None:
        await guest.ended.wait()
        self.feed(StepFailed("guest", f"the incoming guest process has ended: {guest.reason}"))

    async def _load(self, effect: LoadState) -> None:
        await self.hold("switch")
        if self._absent:
            await self._expecting.wait()
        await self.guest.live.call("load", state=self._state)
        self._state = b""
        if self._protect and self._pull_begun:
            self._protector = Protector(self.guest, self.guest.live.open_view(), self._open_protect)
            self._protector.begin()
        checksum, began = "", time.perf_counter()
        if effect.verify:
            assert self._view is not None
            checksum = (await trio.to_thread.run_sync(self._view.checksum, limiter=limiter)).hex()
        verify_ms = (time.perf_counter() - began) * 1000 if effect.verify else 0.0
        self.feed(StateLoaded(checksum, verify_ms))

    async def _start_guest(self, effect: StartGuest) -> None:
        """The first instruction comes first, then the record: the store knows already who owns the guest, and an agent
        that dies in between asks it (Target.recover)."""
        await self.hold("commit")
        guest = self.guest
        guest.record.generation = effect.generation
        state = (await guest.live.call("status"))["state"] if self._spec is None else "loaded"
        if state == "loaded":
            at = await self.host.guests.begin(guest, effect.generation)
        else:
            at = guest.started
            self.host.guests.running(guest)
        self.host.stays.forget(guest.id)
        self.host.guests.ports.announce(guest)
        if self._protector is not None:
            self._nursery.start_soon(self._protector.run)
        record = guest.record
        guest.record = GuestRecord(record.spec, effect.generation, "run", record.files)
        await trio.to_thread.run_sync(guest.record.save, guest.folder, limiter=limiter)  # others' first pages wait not
        absent = self._open_view().absent
        guest.pulling = absent > 0 or self.machine.pulls
        guest.migration = guest.migration if guest.pulling else ""
        self.host.report_soon()
        self.feed(GuestStarted(at, absent))

    def _open_view(self) -> RamView:
        if self._view is None:
            self._view = self.guest.live.open_view()
        return self._view

    # -- post-copy

    async def _pull(self, effect: PullPages) -> None:
        guest = self.guest
        view = self._open_view()
        if self._absent:
            await guest.live.call("expect", absent=self._absent)
            self._absent = b""
            self._expecting.set()
        else:  # after a restart
            guest.pulling = True
            if (await guest.live.call("status"))["state"] == "paused":  # by the agent before: for lack of pages
                await guest.live.call("resume")
            self.host.nursery.start_soon(self._watch_guest, guest)
        await self.hold("pull")
        bell = os.dup(guest.live.fds["wanted"])  # ours: the guest's end closes that of its handle
        puller = self._puller = Puller(
            view,
            bell,
            self._open_pull,
            give_up=self._give_up_link,
            trouble=lambda text, lost: self._trouble(guest, text, lost),
            figures=lambda: _waits(guest),
        )
        began = trio.current_time()
        try:
            await puller.run()
        finally:
            os.close(bell)
        log.info(
            "%s all pages are here after %.3f s and %d connections",
            self.tag,
            trio.current_time() - began,
            puller.connections,
        )
        self._trouble(guest, "", False)
        self.feed(PullDone())

    async def _open_pull(self) -> LinkStream:
        """A stream of the link, on which it begins at once; the source may come with a channel."""
        self.host.peers.hurry(self.machine.source)
        link = await self.host.peers.link(self.machine.source, LINK_TIMEOUT)
        there, back = new_keys()

        async def take(raw: trio.SocketStream) -> None:
            async with raw:
                channel = Channel(raw, seal=there, open=back)
                with contextlib.suppress(trio.BrokenResourceError):
                    await channel.greet(first=True)
                    if self._puller is not None and not self.finished.is_set():
                        await self._puller.go_over(channel)

        ticket = self.host.tickets.give(take)
        return await link.open_stream(
            MigrationPull(
                migration=self.machine.migration, squeezed=True, ticket=ticket, key_there=there, key_back=back
            )
        )

    async def _open_protect(self) -> LinkStream:
        link = await self.host.peers.link(self.machine.source, LINK_TIMEOUT)
        return await link.open_stream(MigrationProtect(migration=self.machine.migration))

    def _give_up_link(self) -> None:
        """The next connection is to use a new link: this one is broken, or may be and does not know."""
        link = self.host.peers.links().get(self.machine.source)
        if link is not None:
            self.host.nursery.start_soon(link.aclose)

    def _trouble(self, guest: Guest, text: str, lost: bool) -> None:
        """Pages that may come make the guest wait where it needs them. Those that are lost make it stand still: what it
        has is kept, and what is to become of it is its owner's choice."""
        if guest.handle is None or guest.state not in ("running", "paused"):
            return
        if lost:
            text = (
                f"{text}; all else is here. They come if that node's copy comes back; else `wherry stop --force` and"
                f" `wherry start` boot {guest.record.spec.name} anew, `wherry rm --force` removes it"
            )
        state: GuestState = "paused" if lost else "running"
        if state != guest.state:
            self._nursery.start_soon(self._stand_still, guest, lost)
        self.host.guests.changed(guest, state, text if lost or not text else f"degraded: {text}")

    async def _stand_still(self, guest: Guest, still: bool) -> None:
        """Refused where a hart is in the middle of an instruction that needs a lost page: that one waits anyway."""
        try:
            await guest.live.call("pause" if still else "resume")
        except (CoreError, GuestGone, Refused) as error:
            log.info("%s does not %s: %s", guest.tag, "stand still" if still else "go on", error)

    async def _keep(self, generation: int) -> None:
        """The store gave the guest to this copy, which will not run; its disk is the guest's."""
        await self._end_pages()
        guest = self.host.guests.find(self.machine.guest)
        if guest is None or guest.migration != self.machine.migration:
            return
        async with guest.lock:
            await self.host.guests.keep(guest, generation, "its copy was lost before it ran; its disk is here")

    async def _destroy(self) -> None:
        self._given_up = True
        await self._end_pages()
        if self._reserving is not None:
            self._reserving.cancel()
            await self._reserved.wait()
        guest = self.host.guests.find(self.machine.guest)
        if guest is None or guest.migration != self.machine.migration or guest.record.role != "incoming":
            return  # never reserved, or not this migration's copy
        async with guest.lock:
            await self.host.guests.discard(guest)


async def _waits(guest: Guest) -> list[int]:
    """How often somebody waited for a page, the median and the longest: us. Zeros when nobody can tell."""
    try:
        stats = (await guest.live.call("status"))["stats"]
    except (CoreError, GuestGone, Refused):
        return [0, 0, 0]
    median, longest = stats["fault_wait_median_ns"], stats["fault_wait_max_ns"]
    return [int(stats["pages_faulted"]), int(median) // 1000, int(longest) // 1000]
