"""The guests of this node: run, stop, forget, list; kept on disk, found again by the next agent.

Every guest has a folder with its record (node/record.py), at most one process (node/guest.py) and a generation. An
order with an older generation than the one known is refused as "fenced"; the same order twice does its work once.
Changes of one guest happen one at a time, under its lock. Whenever a state changes ``on_change`` is called, and the
agent reports.

Ports belong to the running copy: attached when its process is there, enabled only while it may speak.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import trio

from node.channel.qga import QgaError, QgaUnavailable
from node.core import CoreError
from node.disks import DISK, own_disk
from node.guest import GuestGone, GuestHandle, adopt, read_exit, spawn
from node.guestcopy import Guest, Ports, outcome, resident
from node.record import DamagedRecord, Record, keep_reserve, remove_folder, save_note
from node.stays import Stays
from protocol.errors import Refused
from protocol.messages import GuestSpec, GuestState, GuestStatus, ImageFile

log = logging.getLogger("wherry.node.guests")

_FIGURES_S = 2.0  # to wait for a process's figures
_KILL_AFTER = 5.0  # seconds that a guest process has to leave by itself
_PROBE_FIRST, _PROBE_LAST = 0.5, 2.0
_ID = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_CODES = {-2: "invalid", -5: "invalid", -6: "unsupported", -1: "full", -9: "full", -13: "unsupported", -12: "conflict"}

FetchFile = Callable[[ImageFile], Awaitable[Path]]


class Guests:
    """``folder``: ``guests/`` of the state folder. ``memory``: bytes that may be given to guests, 0: no limit here.
    ``stays``: what is kept of guests that have left gives way to those that come.

    Owner of every Guest; its background tasks live in ``nursery`` and end with it, the guests' processes do not.
    """

    def __init__(
        self,
        folder: Path,
        nursery: trio.Nursery,
        *,
        ports: Ports,
        fetch: FetchFile,
        on_change: Callable[[], None],
        memory: int = 0,
        stays: Stays | None = None,
    ) -> None:
        self._folder = folder
        self._nursery = nursery
        self._ports = ports
        self._fetch = fetch
        self._on_change = on_change
        self._memory = memory
        self._stays = stays or Stays(0)
        self._guests: dict[str, Guest] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def ports(self) -> Ports:
        return self._ports

    def __iter__(self) -> Iterator[Guest]:
        return iter(list(self._guests.values()))

    def get(self, guest: str) -> Guest:
        """Raises Refused("not_found")."""
        found = self._guests.get(guest)
        if found is None:
            raise Refused("not_found", f"guest {guest} is not on this node", guest=guest)
        return found

    def find(self, guest: str) -> Guest | None:
        return self._guests.get(guest)

    def statuses(self) -> list[GuestStatus]:
        return [guest.status() for guest in self._guests.values()]

    def changed(self, guest: Guest, state: GuestState, reason: str = "") -> None:
        """Move a guest to a state and tell the agent."""
        if (guest.state, guest.reason) != (state, reason):
            log.info("%s is %s%s", guest.tag, state, f": {reason}" if reason else "")
        guest.state, guest.reason = state, reason
        self._on_change()

    async def refresh(self) -> None:
        """Take the figures of the running guests anew, for a report. Not of migrating ones: their pause is short."""
        for guest in self:
            if guest.handle is not None and guest.state == "running" and (guest.pulling or not guest.migration):
                answer: dict[str, Any] | None = None
                with contextlib.suppress(GuestGone, CoreError), trio.move_on_after(_FIGURES_S):
                    answer = await guest.handle.call("status")
                if answer is None or guest.handle is None:
                    continue  # it is about to end, or stands still for lack of a page
                guest.counters = {name: int(value) for name, value in answer["stats"].items()}
                guest.sampled = time.monotonic()
                guest.instructions = guest.counters["instructions"]
                guest.resident = await trio.to_thread.run_sync(resident, guest.handle.fds.get("ram", -1))

    # -- orders

    async def run(self, spec: GuestSpec, generation: int) -> GuestStatus:
        """Make and start. Idempotent for the same (guest, generation), also when it has ended since: a restart comes
        under a new generation, so a repeated order never runs a guest again that has crashed."""
        guest = self._guests.get(spec.guest)
        if guest is None:
            self.check_memory(spec)
            guest = self._guests[spec.guest] = Guest(self._folder / spec.guest, Record(spec, generation, "run", {}))
        async with guest.lock:
            self.fence(guest, generation)
            if generation == guest.generation and guest.state != "pending":
                return guest.status()
            if guest.handle is not None:
                await self._end(guest, "replaced by a newer generation")
            self.check_memory(spec, but=guest)
            self._stays.forget(guest.id)
            guest.booted = 0.0
            guest.record = Record(spec, generation, "run", {})
            guest.migration = ""
            save_note(guest.folder, None)
            self.changed(guest, "starting")
            try:
                await self.make(guest)
                await self.begin(guest, generation)
            except BaseException as error:
                await self._failed(guest, error)
                raise
            return guest.status()

    async def revive(self, guest: Guest, generation: int, fill: Callable[[Guest], Awaitable[None]]) -> None:
        """A copy that is here runs again under a new generation, in a new process that ``fill`` gives memory and state.
        Raises Refused, CoreError, GuestGone, OSError: it has crashed then."""
        async with guest.lock:
            self.fence(guest, generation)
            spec = guest.record.spec
            await self._end(guest, "its place is taken by a later copy")
            guest.record = Record(spec, generation, "incoming", {})
            save_note(guest.folder, None)
            self.changed(guest, "starting", "it is taken back")
            try:
                await self.make(guest)
                await fill(guest)
                guest.migration = ""
                await self.begin(guest, generation)
                guest.record = Record(spec, generation, "run", guest.record.files)
                guest.record.save(guest.folder)
                self._ports.announce(guest)
            except BaseException as error:
                await self._failed(guest, error)
                raise

    async def stop(self, guest_id: str, generation: int, force: bool, grace_s: float) -> GuestStatus:
        guest = self.get(guest_id)
        async with guest.lock:
            self.fence(guest, generation)
            if guest.handle is None:
                return guest.status()
            if guest.migration and not guest.pulling:
                raise Refused("conflict", f"guest {guest.record.spec.name} is migrating", migration=guest.migration)
            self.changed(guest, "stopping")
            if not force:
                await self._power_off(guest, grace_s)
            await self._end(guest, "stopped on request")
            return guest.status()

    async def forget(self, guest_id: str, generation: int) -> None:
        self._stays.forget(guest_id)
        guest = self._guests.get(guest_id)
        if guest is None:
            return
        async with guest.lock:
            self.fence(guest, generation)
            await self.discard(guest)

    async def discard(self, guest: Guest) -> None:
        """Kill if it runs and remove every trace. The caller holds the lock."""
        await self._end(guest, "forgotten")
        await trio.to_thread.run_sync(remove_folder, guest.folder)
        if self._guests.get(guest.id) is guest:
            del self._guests[guest.id]
        log.info("%s forgotten", guest.tag)
        self._on_change()

    async def keep(self, guest: Guest, generation: int, why: str, *, state: GuestState = "crashed") -> None:
        """An arrival that is the guest's, and whose process is lost or to end, stays as one that has ended: its disk
        is the guest's. The caller holds the lock."""
        await self._end(guest, why)
        guest.record = Record(guest.record.spec, generation, "run", guest.record.files)
        guest.migration = ""
        guest.record.save(guest.folder)
        self.changed(guest, state, why)

    @staticmethod
    def fence(guest: Guest, generation: int) -> None:
        if generation < guest.generation:
            raise Refused(
                "fenced",
                f"generation {generation} of guest {guest.record.spec.name} is older than {guest.generation}",
                generation=guest.generation,
            )

    def check_memory(self, spec: GuestSpec, but: Guest | None = None) -> None:
        taken = sum(g.record.spec.memory for g in self._guests.values() if g is not but and g.takes_memory)
        if self._memory and taken + spec.memory > self._memory:
            raise Refused(
                "full",
                f"memory: {spec.memory} bytes are wanted, {max(0, self._memory - taken)} of {self._memory} are free",
                field="memory",
            )
        if self._memory:
            self._stays.shrink(self._memory - taken - spec.memory)

    # -- steps that migrations use as well

    def check_absent(self, spec: GuestSpec) -> None:
        """Raises Refused("conflict") when a copy is here that runs or takes part in a migration."""
        old = self._guests.get(spec.guest)
        if old is not None and (old.handle is not None or old.migration):
            raise Refused("conflict", f"guest {spec.name} is on this node already", state=old.state)

    def add_incoming(self, spec: GuestSpec, generation: int, migration: str, source: int) -> Guest:
        """Reserve the place of a guest that is to arrive. Raises Refused (conflict, fenced, full)."""
        self.check_absent(spec)
        old = self._guests.get(spec.guest)
        if old is not None:
            self.fence(old, generation)
        self.check_memory(spec, but=old)
        record = Record(spec, generation, "incoming", {}, migration=migration, source=source)
        guest = self._guests[spec.guest] = Guest(self._folder / spec.guest, record)
        self.changed(guest, "migrating")
        return guest

    async def make(self, guest: Guest, *, new_disk: bool = False) -> None:
        """Fetch what is needed, write the record, start the process, attach its ports (disabled)."""
        await self.lay_out(guest, new_disk=new_disk)
        try:
            self._hold(guest, await spawn(guest.folder))
        except CoreError as error:
            code = _CODES.get(error.status, "internal")
            raise Refused(code, str(error), field=error.field) from error
        except GuestGone as error:
            raise Refused("unavailable", str(error)) from error

    async def lay_out(self, guest: Guest, *, new_disk: bool) -> None:
        """Its folder: what the process will need. ``new_disk``: the image's again, whatever lies here."""
        record = guest.record
        try:
            guest.folder.mkdir(mode=0o700, exist_ok=True)
            for file in record.spec.image.files:
                path = await self._fetch(file)
                if file.role == "disk":
                    made = partial(own_disk, path, guest.folder / DISK, sha256=file.sha256 if new_disk else "")
                    path = await trio.to_thread.run_sync(made)
                record.files[file.role] = str(path)
            record.save(guest.folder)
            keep_reserve(guest.folder)
        except OSError as error:
            raise _host_refused(error) from error

    async def begin(self, guest: Guest, generation: int) -> float:
        """First instructions under ``generation``; the record must say so already. CLOCK_REALTIME of them."""
        self._ports.enable(guest, True)  # before: its first frame may come at once
        answer = await guest.live.call("start", generation=generation)
        guest.started = float(answer["at"])
        self.changed(guest, "running")
        self.probe(guest)
        return guest.started

    def running(self, guest: Guest) -> None:
        """It runs already: open its ports, watch for its agent."""
        self._ports.enable(guest, True)
        self.changed(guest, "running")
        self.probe(guest)

    def probe(self, guest: Guest) -> None:
        """Look for the guest agent in the background, unless it has spoken."""
        if guest.handle is not None and not guest.booted:
            self._nursery.start_soon(self._probe, guest, guest.handle)

    def _hold(self, guest: Guest, handle: GuestHandle) -> None:
        guest.handle = handle
        guest.ended, guest.ending = trio.Event(), False
        self._nursery.start_soon(self._watch, guest, handle)
        self._ports.attach(guest, enabled=False)

    async def _failed(self, guest: Guest, error: BaseException) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _KILL_AFTER + 1):
            await self._end(guest, str(error))
            self.changed(guest, "crashed", f"could not be started: {error}")

    async def _end(self, guest: Guest, reason: str) -> None:
        """Make sure that no process of this guest is left."""
        handle = guest.handle
        if handle is None:
            return
        ended, guest.ending = guest.ended, True
        with trio.move_on_after(_KILL_AFTER):
            with contextlib.suppress(GuestGone, CoreError):
                await handle.call("stop", reason=reason)
            await ended.wait()
        if not ended.is_set():
            handle.kill()
            await ended.wait()

    async def _power_off(self, guest: Guest, grace_s: float) -> None:
        with trio.move_on_after(grace_s):
            try:
                await (await guest.agent()).shutdown()
            except (QgaError, QgaUnavailable, GuestGone, CoreError) as error:
                log.info("%s takes no guest-shutdown: %s", guest.tag, error)
                return  # nobody there who could use the time of grace
            await guest.ended.wait()

    # -- background

    async def _watch(self, guest: Guest, handle: GuestHandle) -> None:
        """Wait for the end of one process."""
        exit_ = await handle.wait_end()
        if guest.handle is not handle:
            return
        self._ports.detach(guest)
        await guest.drop_agent()
        guest.release()
        state, reason = outcome(exit_)
        if guest.state != "stopping" and exit_.reason == "reboot" and (guest.pulling or not guest.migration):
            self._nursery.start_soon(self._reboot, guest)
        else:
            self.changed(guest, state, reason)
        guest.ended.set()

    async def _reboot(self, guest: Guest) -> None:
        async with guest.lock:
            if guest.handle is not None or self._guests.get(guest.id) is not guest:
                return
            self.changed(guest, "starting", "reboot")
            guest.booted = 0.0
            try:
                await self.make(guest)
                await self.begin(guest, guest.generation)
            except (Refused, GuestGone, CoreError, OSError) as error:
                log.warning("%s could not reboot: %s", guest.tag, error)
                await self._failed(guest, error)

    async def _probe(self, guest: Guest, handle: GuestHandle) -> None:
        """Ask the guest agent until it speaks for the first time: the guest has booted."""
        pause = _PROBE_FIRST
        while guest.handle is handle and not guest.booted:
            try:
                await (await guest.agent()).ping(timeout=pause)
                guest.booted = time.time()
                log.info("%s booted in %.2f s", guest.tag, guest.booted - guest.started)
                self._on_change()
                return
            except (QgaError, QgaUnavailable, GuestGone, CoreError, Refused):
                await trio.sleep(pause)
                pause = min(pause * 1.3, _PROBE_LAST)

    # -- adoption

    async def adopt_all(self) -> None:
        """Find the guests of an earlier agent: the living are adopted, of the others the reason is kept."""
        for folder in sorted(self._folder.iterdir()):
            if folder.name.endswith(".gone"):
                await trio.to_thread.run_sync(shutil.rmtree, folder, True)
            elif folder.is_dir() and _ID.match(folder.name):
                if not (folder / "spec.msgpack").exists():
                    await trio.to_thread.run_sync(remove_folder, folder)  # an arrival that had not begun
                    continue
                try:
                    await self._adopt(folder)
                except (DamagedRecord, FileNotFoundError) as error:
                    log.error("guest=%s cannot be adopted: %s", folder.name, error)

    async def _adopt(self, folder: Path) -> None:
        guest = Guest(folder, Record.load(folder))
        self._guests[guest.id] = guest
        try:
            handle = await adopt(folder)
        except GuestGone:
            noted = (folder / "migration.msgpack").exists()
            if guest.record.role == "incoming" and noted and guest.record.spec.image.disk is not None:
                self.changed(guest, "migrating", "its migration is not settled")  # if it was committed the disk is here
                return
            if guest.record.role == "incoming":
                guest.migration = ""
                await self.discard(guest)  # it never ran and its RAM is gone
                return
            self.changed(guest, *outcome(read_exit(folder)))
            return
        self._hold(guest, handle)
        guest.started = float(handle.info["started"])
        state = handle.info["state"]
        log.info("%s adopted: pid %d, %s", guest.tag, handle.pid, state)
        if handle.info.get("throttle"):
            await handle.call("throttle", percent=0, lease_ms=0)  # whoever wanted that is gone
        noted = (folder / "migration.msgpack").exists()
        if guest.record.role == "incoming" and not noted:
            await self.discard(guest)  # its migration has ended
        elif noted:
            self.changed(guest, "migrating", "its migration is not settled")
        elif state == "loaded":
            await self.begin(guest, guest.generation)
        else:
            if state == "paused":
                await handle.call("resume")
            self.running(guest)

    def close(self) -> None:
        """Let go of every process; they go on."""
        for guest in self._guests.values():
            guest.release()


def _host_refused(error: OSError) -> Refused:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = "the node's disk is full" if full else f"the node's disk: {error.strerror}"
    return Refused("full" if full else "unavailable", f"the guest's files cannot be written: {text}")
