"""What the source keeps of a guest that stands still here: its pages are served, what the target's copy writes is kept,
and it is run again, or let go of.
"""

from __future__ import annotations

import logging
import os

import trio

from node.core import CoreError
from node.guestcopy import Guest
from node.migration.bucket import TokenBucket
from node.migration.channel import DIAL_TIMEOUT, dial
from node.migration.driver import Driver
from node.migration.pages import limiter
from node.migration.protect import Image, copy_memory
from node.migration.serve import PageServer
from node.ramview import RamView
from protocol.errors import Refused
from protocol.messages import GuestStatus, MigrationPull
from protocol.migration import Pulled, Served, Source, SourcePhase, StepFailed, TakenBack
from protocol.transport import LinkStream

log = logging.getLogger("wherry.node.migration")

HURRY_S = 1.0
TOLD_S = 10.0  # that ports wait for the target's word


class PausedCopy:
    """``driver`` runs ``machine``; ``address`` is where the target accepts connections, if known, ``bandwidth`` bytes/s
    (0: no limit). The methods that are no handlers run in the driver's tasks."""

    def __init__(self, driver: Driver, machine: Source, *, bandwidth: int, address: str) -> None:
        self._driver = driver
        self._machine = machine
        self._bandwidth = bandwidth
        self._address = address
        self._view: RamView | None = None  # after a restart
        self._server: PageServer | None = None
        self._image: Image | None = None
        self._pushing = False  # pages that nobody asked for may go: the target runs, or will at once
        self._keeping = False  # disks, until the target runs with its own
        self._noted = trio.Event()  # that the target has all pages
        self._telling = False
        self._told = trio.Event()  # the target has answered FinishTarget, or will not
        self._gone = False  # the ports of this copy are the target's
        self._freeing = False  # nothing of the guest stays here
        self._taking = False  # back: the paused process makes room for a new one
        self._taken = trio.Event()

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            if self._server is not None:
                await self._server.close()
            if self._image is not None:
                await self._image.close()
        if self._view is not None:
            self._view.close()
        self._server = self._image = self._view = None

    def outlives_process(self) -> bool:
        """Whether the end of the guest's process is not that of its migration."""
        if self._taking:
            return True
        if self._keeping and not self._guest_ending():
            log.warning("%s the paused process has died: its disk is kept", self._driver.tag)
            return True
        serving = self._server is not None and self._machine.phase in (SourcePhase.FINISH, SourcePhase.SERVE)
        if not serving or self._driver.guest.ending:
            return False
        log.warning("%s the paused process has died: its memory is mapped here, and served on", self._driver.tag)
        return True

    def _guest_ending(self) -> bool:
        guest = self._driver.host.guests.find(self._machine.guest)
        return guest is None or guest.ending

    # -- pages

    def open(self, view: RamView) -> None:
        """From now on the pages of ``view`` may be asked for, by a target that will need them."""
        self._server = self._page_server(view)

    def _page_server(self, view: RamView) -> PageServer:
        return PageServer(
            view,
            push=lambda: self._pushing,
            tell=lambda *figures: self._driver.feed(Served(*figures)),
            pulled=self._all_pulled,
            bucket=TokenBucket(self._bandwidth),
        )

    async def _all_pulled(self, *figures: int) -> None:
        """The target has everything and says so once: it hears that we know when we will know it after a crash too."""
        self._driver.feed(Pulled(*figures))
        await self._noted.wait()

    def note_pulled(self) -> None:
        """It is on disk that the target has everything."""
        self._noted.set()

    async def pull(self, opening: MigrationPull, stream: LinkStream) -> None:
        """Handler of the target's pull stream: ends with it. Memory that may still change is not given out."""
        phase = self._machine.phase
        if phase not in (SourcePhase.SWITCH, SourcePhase.COMMIT, SourcePhase.FINISH, SourcePhase.SERVE):
            raise Refused("not_found", f"migration {self._machine.migration} is {phase.value} here")
        guest = self._driver.guest
        if guest.handle is None and self._server is None:
            raise Refused("not_found", "the guest's process has ended")
        if self._server is None:  # after a restart
            if (await guest.live.call("status"))["state"] != "paused":
                raise Refused("conflict", "the guest is not paused here")
            self._view = self._view or guest.live.open_view()
            self._server = self._server or self._page_server(self._view)
        if opening.ticket:
            self._driver.spawn(self._serve_channel, self._server, opening)
        await self._server.serve(stream, squeezed=opening.squeezed)

    async def _serve_channel(self, server: PageServer, opening: MigrationPull) -> None:
        """The same pull on a connection of its own, where the target can be dialled; the link carries it until then."""
        tag = self._driver.tag
        known = self._driver.host.peers.nodes().get(self._machine.target)
        address = self._address or (known.link if known is not None else "")
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                channel = await dial(address, opening.ticket, seal=opening.key_back, open=opening.key_there)
        except (OSError, ValueError, trio.BrokenResourceError, trio.TooSlowError) as error:
            log.info("%s no channel to %s, the link carries the pull: %s", tag, address, error or "too slow")
            return
        try:
            await server.serve(channel, squeezed=opening.squeezed)
        except (CoreError, trio.BrokenResourceError) as error:
            log.info("%s the pull's channel ended: %s", tag, error)
        finally:
            channel.abort("cancelled", "the pull is over")

    async def serve_pages(self) -> None:
        """The target runs the guest, or will at once, and lacks pages."""
        guest = self._driver.guest
        if guest.handle is None and self._server is None:
            self._driver.feed(StepFailed("guest", "the guest's process has ended"))
            return
        self._driver.spawn(self._keep_linked)
        await self._driver.hold("serve")
        self._pushing = True
        if self._server is not None:
            self._server.poke()
        await self._give_ports(guest)
        guests = self._driver.host.guests
        guests.ports.detach(guest)
        guests.changed(guest, "migrating", f"node {self._machine.target} pulls its memory")

    async def _keep_linked(self) -> None:
        """While the target lacks pages the link to it comes back as soon as it can."""
        peers = self._driver.host.peers
        while True:
            if self._machine.target not in peers.links():
                peers.hurry(self._machine.target)
            await trio.sleep(HURRY_S)

    # -- the disk

    async def keep_disks(self) -> None:
        """The target is to run the guest with its own disk; this one is the last word until it has said so."""
        guest = self._driver.guest
        self._keeping = True
        await self._driver.hold("handed")
        await self._give_ports(guest)
        guests = self._driver.host.guests
        if guest.handle is not None:
            guests.ports.detach(guest)
        guests.changed(guest, "migrating", f"node {self._machine.target} has it; its disk is kept here until it runs")
        self._driver.spawn(self._until_removed, guest)
        self._driver.spawn(self._keep_linked)

    async def _until_removed(self, guest: Guest) -> None:
        """By the coordinator, which knows when nobody needs this copy."""
        while self._driver.host.guests.find(guest.id) is guest:  # noqa: ASYNC110 - a table has no event
            await trio.sleep(HURRY_S)
        self._driver.feed(StepFailed("guest", "this copy was removed"))

    # -- what the target's copy writes

    async def protect(self, stream: LinkStream) -> None:
        """Handler of the target's epochs: ends with them."""
        phase = self._machine.phase
        if phase not in (SourcePhase.COMMIT, SourcePhase.FINISH, SourcePhase.SERVE) or self._taking:
            raise Refused("conflict", f"migration {self._machine.migration} is {phase.value} here")
        if self._image is None:
            live = self._driver.guest.live
            self._image = Image(live.open_view(), os.dup(live.fds["ram"]))
        await self._image.take(stream)

    async def take_back(self, generation: int) -> GuestStatus:
        """Run the guest here again as it was at the end of the last epoch. The store has given it to this node, under
        this generation, knowing that the target's copy is no more."""
        guest, image = self._driver.guest, self._image
        if self._taking:  # the order came twice
            await self._taken.wait()
            return guest.status()
        if image is None or not image.state:
            raise Refused("not_found", f"nothing of guest {guest.record.spec.name} was streamed back to this node")
        if generation != self._machine.generation + 2:
            raise Refused("fenced", f"generation {generation} is not the one behind the target's")
        if self._freeing:
            raise Refused("conflict", "the target had all of the guest's memory: what is left here is being removed")
        self._taking = True
        if self._server is not None:
            await self._server.close()
        log.warning("%s is taken back, as it was %.3f s ago", self._driver.tag, trio.current_time() - image.at)
        try:
            await image.stop()
            state = image.state

            async def fill(made: Guest) -> None:
                await trio.to_thread.run_sync(copy_memory, image.memory, made.live.fds["ram"], limiter=limiter)
                await made.live.call("load", state=state)

            await self._driver.host.guests.revive(guest, generation, fill)
        finally:
            self._taken.set()
            self._driver.feed(TakenBack())
        return guest.status()

    # -- the end

    def has_no_ports(self) -> None:
        """The guest is stopped."""
        self._gone = True

    def expect_told(self) -> None:
        """The target is being told: what leaves here waits for its answer, if not for ever."""
        self._telling = True

    def told(self) -> None:
        self._told.set()

    async def _give_ports(self, guest: Guest) -> None:
        """Its ports are the target's from now on."""
        if self._gone:
            return
        self._gone = True
        if self._telling:
            with trio.move_on_after(TOLD_S):  # frames that waited are to find it running, and its port open
                await self._told.wait()
        self._driver.host.guests.ports.moved(guest, self._machine.target, self._machine.generation + 1)

    async def free(self) -> None:
        """Nothing of the guest stays here."""
        try:
            guest = self._driver.guest
        except Refused:
            return
        if self._taking:
            await self._taken.wait()
        if guest.record.generation > self._machine.generation:
            return  # the target had the last page and died: the guest is this node's again
        self._freeing = True
        await self._give_ports(guest)
        if self._server is not None:
            await self._server.close()
        async with guest.lock:
            if guest.handle is not None:
                self._driver.host.stays.keep(guest.id, guest.handle.fds["ram"])
            await self._driver.host.guests.discard(guest)
