"""A guest that is stopped moves with its disk: the same machines, and no process at either end.

What is paused stands still already, there are no pages and no state; the disk goes as it does with a guest that runs.
The target keeps the guest as one that is stopped, and it starts there.
"""

from __future__ import annotations

import time
from pathlib import Path

import trio

from node.disks import used
from node.guestcopy import Guest
from node.host import Host
from node.migration.bucket import TokenBucket
from node.migration.disks import open_sender
from node.migration.source import LINK_TIMEOUT, LOOK_S, SourceDriver, prepare_timeout
from node.migration.target import TargetDriver
from protocol.errors import Refused
from protocol.messages import (
    GuestState,
    Message,
    MigrationParams,
    MigrationPrepare,
    MigrationState,
    Prepared,
)
from protocol.migration import (
    Checksummed,
    ComputeChecksum,
    Copying,
    GuestStarted,
    LastRoundDone,
    LoadState,
    Paused,
    PauseGuest,
    Reserve,
    Reserved,
    SaveState,
    SendLastRound,
    Source,
    StartGuest,
    StateArrived,
    StateLoaded,
    StateSaved,
    TargetLost,
    skew,
)

STOPPED: tuple[GuestState, ...] = ("stopped", "crashed")


def check(guest: Guest) -> None:
    """Raises Refused when it is not one that can be moved so."""
    name = guest.record.spec.name
    if guest.handle is not None or guest.state not in STOPPED or guest.migration:
        raise Refused("conflict", f"guest {name} is {guest.state}; mode cold moves a stopped guest", field="mode")
    if not guest.record.files.get("disk") or not Path(guest.record.files["disk"]).exists():
        raise Refused("conflict", f"guest {name} has no disk here yet: start it first", field="name")


class ColdSource(SourceDriver):
    """``guest`` as it is before anything is done."""

    def __init__(self, host: Host, machine: Source, params: MigrationParams, address: str, guest: Guest) -> None:
        super().__init__(host, machine, params, address)
        self._before = (guest.state, guest.reason)
        self.paused.has_no_ports()

    async def _arrange(self) -> str:
        guest = self.guest
        link = self._link = await self.host.peers.link(self.machine.target, LINK_TIMEOUT)
        prepared: Prepared = await link.call(
            MigrationPrepare(
                migration=self.machine.migration,
                spec=guest.record.spec,
                generation=self.machine.generation,
                source=self.host.identity.node,
                state_version=skew.STATE_VERSION,
                cold=True,
                disk_bytes=max(used(Path(guest.record.files["disk"])), 1),
            ),
            timeout=prepare_timeout(guest.record.spec),
        )
        if not prepared.disks:
            return "the target node's software does not move disks"
        bucket = TokenBucket(self.params.bandwidth)
        self._disk = await open_sender(self, guest, link, prepared, self._address, bucket, running=False)
        return ""

    async def _look(self, scope: trio.CancelScope, began: float, curve: list[tuple[float, int]]) -> None:
        assert self._disk is not None
        with scope:
            while True:
                await trio.sleep(LOOK_S)
                self.feed(Copying(self._disk.sent, 0, self._disk.left, self._disk.sent))

    async def _pause(self, effect: PauseGuest) -> None:
        await self.hold("switch")
        self._carry_bulk(False)
        self._paused_at = time.time()
        self.feed(Paused(self._paused_at))

    async def _send_last_round(self, effect: SendLastRound) -> None:
        try:
            size = await self._send_last_blocks()
        except trio.BrokenResourceError as error:
            self.feed(TargetLost(f"the disk's stream broke: {error}"))
            return
        self.feed(LastRoundDone(0, 0, 0, disk_bytes=size))

    async def _save(self, effect: SaveState) -> None:
        self.feed(StateSaved())

    async def _checksum(self, effect: ComputeChecksum) -> None:
        self.feed(Checksummed(""))

    async def _resume(self) -> None:
        self.host.guests.changed(self.guest, *self._before)


class ColdTarget(TargetDriver):
    """No process is made."""

    async def _reserve(self, effect: Reserve) -> None:
        assert self._spec is not None
        assert self._disk is not None
        await self.hold("prepare")
        if self._given_up:
            return
        self._disk.check_room(self._spec)
        guests = self.host.guests
        guest = guests.add_incoming(self._spec, self.machine.generation, self.machine.migration, self.machine.source)
        self._reserving = trio.CancelScope()
        try:
            with self._reserving:
                await guests.lay_out(guest, new_disk=True)
        finally:
            self._reserved.set()
        if self._reserving.cancelled_caught:
            return
        self._disk.open(guest)
        self.feed(Reserved())

    async def state(self, request: MigrationState) -> Message:
        assert self._disk is not None
        await self._disk.whole()
        self.feed(StateArrived())
        return await self._wait("state")

    async def _load(self, effect: LoadState) -> None:
        await self.hold("switch")
        self.feed(StateLoaded())

    async def _start_guest(self, effect: StartGuest) -> None:
        await self.hold("commit")
        guest = self.guest
        async with guest.lock:
            await self.host.guests.keep(guest, effect.generation, "moved here", state="stopped")
        self.feed(GuestStarted(0.0))  # it does not run: there is no blackout
