"""The disk of a guest that arrives: room for it, its stream or channel, and the word that it is whole."""

from __future__ import annotations

import logging
import shutil

import trio

from node.blobs import RESERVE
from node.core import CoreError
from node.guestcopy import Guest
from node.migration.channel import Channel, new_keys
from node.migration.disks import DiskReceiver, open_target
from node.migration.driver import Driver
from protocol.errors import Refused
from protocol.messages import GuestSpec
from protocol.migration import StepFailed
from protocol.transport import LinkStream

log = logging.getLogger("wherry.node.migration")


class DiskArrival:
    """``driver`` is the target's; ``size``: bytes of the disk that have content at the source."""

    def __init__(self, driver: Driver, size: int) -> None:
        self._driver = driver
        self._size = size
        self._guest: Guest | None = None
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._whole = False

    def check_room(self, spec: GuestSpec) -> None:
        """Before anything is made. Raises Refused: the file system cannot take it, or the source's software cannot."""
        if not self._size:
            raise Refused("unsupported", "the source node's software does not move disks")
        state = self._driver.host.config.state
        image = spec.image.disk
        has = image is None or (state / "blobs" / "sha256" / image.sha256).exists()
        need = self._size + (0 if has or image is None else image.size)
        free = shutil.disk_usage(state).free
        if free < need + RESERVE:
            raise Refused("full", f"the guest's disk wants {need} bytes and {RESERVE} to spare, {free} are free here")

    def open(self, guest: Guest) -> None:
        """Its file is there, and holds what the image's does."""
        self._guest = guest

    def ticket(self) -> tuple[bytes, bytes, bytes]:
        """For a channel: ticket, key of what the source sends, key of the way back."""
        there, back = new_keys()

        async def take(raw: trio.SocketStream) -> None:
            async with raw:
                try:
                    channel = Channel(raw, seal=back, open=there)
                    await channel.greet(first=True)
                    await self.receive(channel)
                except (Refused, CoreError, OSError, trio.BrokenResourceError) as error:
                    log.info("%s the disk's channel ended: %s", self._driver.tag, error)

        return self._driver.host.tickets.give(take), there, back

    async def receive(self, stream: LinkStream | Channel) -> None:
        """Ends with the stream. A failure of this host is fed to the machine."""
        if self._guest is None:
            raise Refused("conflict", "nothing is reserved")
        if self._scope is not None:
            raise Refused("conflict", "there is a disk stream already")
        self._scope = trio.CancelScope()
        view = open_target(self._guest)
        try:
            with self._scope:
                await self._driver.hold("mirror")
                await DiskReceiver(view, self._guest.folder, stream).run()
                self._whole = True
        except trio.BrokenResourceError:
            raise  # the link says so itself
        except Exception as error:
            self._driver.feed(StepFailed("disk", str(error)))
            raise
        finally:
            view.close()
            self._ended.set()

    async def whole(self) -> None:
        """Wait until all of it is here and synced. Raises Refused: it will not be."""
        if self._scope is None:
            raise Refused("conflict", "the disk was not sent")
        await self._ended.wait()
        if not self._whole:
            raise Refused("conflict", "the disk did not arrive whole")

    async def end(self) -> None:
        """Wait until nobody writes to the file."""
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()
