"""What a migration of a guest would take, measured without moving it (``migration.estimate``).

For a second the guest's pages are followed: how many it writes first within t, and how many have content at all; and
what it writes to its disk, which is compared with the image's for some seconds at most: the rest is taken to be alike.
The link's rate is that of earlier migrations to that node, or of a short probe: bytes that the target throws away.
"""

from __future__ import annotations

import os
import time
from typing import Any

import trio

from node.diskview import BLOCK, DiskView
from node.guestcopy import Guest
from node.host import Host
from node.migration.disks import open_source
from node.migration.pages import BATCH, limiter
from node.ramview import RamView
from protocol.errors import LinkError, Refused, RemoteError
from protocol.messages import Estimate, MigrationEstimate, MigrationProbe, Predicted
from protocol.migration.plan import Curve
from protocol.migration.rehearse import rehearse
from protocol.transport import LinkStream

WATCH_S = 1.0
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.005, 0.05
_ROUND_MS = 1000
_DISK_S = 5.0
PROBE_BYTES = 16 << 20
PROBE_S = 0.5
LINK_TIMEOUT = 10.0


async def estimate(host: Host, guest: Guest, order: MigrationEstimate, known_rate: float) -> Estimate:
    """``known_rate``: bytes/s of earlier migrations to the target; 0: none. The caller holds the guest's lock."""
    view = guest.live.open_view()
    disk = _Disk(open_source(guest, host.config.state / "blobs" / "sha256")) if guest.record.spec.image.disk else None
    try:
        view.track(True)
        points, pages, zero, size = await _watch(view, disk)
        present = view.resident
    finally:
        view.track(False)
        view.close()
        if disk is not None:
            disk.close()
    rate = known_rate or await _probe(host, order.target.node)
    done = rehearse(
        order.params,
        Curve(points, present),
        first_bytes=size,
        rate=rate,
        **(disk.figures() if disk is not None else {}),
    )
    return Estimate(
        mode=done.mode,
        reason=done.reason,
        throttle=done.throttle,
        predicted=Predicted(
            rounds=done.rounds,
            bytes=done.bytes,
            total_ms=1000 * done.total_s,
            blackout_ms=done.blackout_ms,
            converges=not done.reason,
        ),
        resident_pages=pages,
        zero_pages=zero,
        dirty_rate=Curve(points).rate,
        dirty_pages=points[-1][1],
        disk_bytes=disk.bytes if disk is not None else 0,
        disk_rate=disk.rate if disk is not None else 0.0,
        bytes_per_s=rate,
        rate_from="migrations" if known_rate else "probe",
    )


class _Disk:
    """A disk that is watched. ``bytes``: that differ from the image's, ``rate``: bytes/s that the guest writes."""

    def __init__(self, view: DiskView) -> None:
        self._view = view
        self.bytes = 0
        self.rate = 0.0
        view.track(True)

    def look(self) -> None:
        """In a thread."""
        buffer, began = bytearray(BATCH), time.monotonic()
        blocks = self._view.round()
        differ = 0
        while blocks:
            batch = self._view.pack(buffer)
            differ += batch.data_blocks
            if not batch.left or time.monotonic() - began > _DISK_S:
                differ = differ * blocks // max(blocks - batch.left, 1)
                break
        self.bytes = differ * BLOCK

    def watched(self, seconds: float) -> None:
        self.rate = self._view.dirty_now * BLOCK / seconds

    def figures(self) -> dict[str, Any]:
        return {"disk_bytes": self.bytes, "disk_rate": self.rate}

    def close(self) -> None:
        self._view.track(False)
        self._view.close()


async def _watch(view: RamView, disk: _Disk | None) -> tuple[list[tuple[float, int]], int, int, int]:
    """The curve, and (pages with content, pages of zeros, bytes) of a first round, which is packed and thrown away."""
    points: list[tuple[float, int]] = []
    packed: list[tuple[int, int, int]] = []
    await trio.to_thread.run_sync(view.round, _ROUND_MS, limiter=limiter)
    began = trio.current_time()

    async def pack() -> None:
        packed.append(await trio.to_thread.run_sync(_pack_all, view, limiter=limiter))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pack)
        after = _FIRST_LOOK_S
        while trio.current_time() - began < WATCH_S:
            await trio.sleep(after)
            points.append((trio.current_time() - began, view.dirty_now))
            after = min(2 * after, _LONGEST_LOOK_S)
    if disk is not None:
        disk.watched(trio.current_time() - began)
        await trio.to_thread.run_sync(disk.look, limiter=limiter)
    return points, *packed[0]


def _pack_all(view: RamView) -> tuple[int, int, int]:
    buffer = bytearray(BATCH)
    pages = zero = size = 0
    while True:
        batch = view.pack(buffer)
        pages, zero, size = pages + batch.data_pages, zero + batch.zero_pages, size + 4 + batch.size
        if not batch.more:
            return pages, zero, size


async def _probe(host: Host, node: int) -> float:
    """Bytes/s of the link, in at most half a second and 16 MiB."""
    data = os.urandom(1 << 18)
    try:
        link = await host.peers.link(node, LINK_TIMEOUT)
        stream = await link.open_stream(MigrationProbe())
        began, sent = trio.current_time(), 0
        while sent < PROBE_BYTES and trio.current_time() - began < PROBE_S:
            await stream.send_all(data)
            sent += len(data)
        await stream.send_eof()
        await stream.receive_some(1)  # the other end has read it all
        return sent / max(trio.current_time() - began, 1e-6)
    except (LinkError, RemoteError, trio.BrokenResourceError) as error:
        raise Refused("unavailable", f"the target does not answer: {error}", field="to") from error


async def swallow(stream: LinkStream) -> None:
    """The other end of a probe."""
    while await stream.receive_some(1 << 18):
        pass
    await stream.send_all(b"\x01")
