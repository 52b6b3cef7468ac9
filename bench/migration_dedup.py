"""What need not be sent because the target has it: rows dedup_ratio and return_ratio of ``make bench-migration``.

Two Debian guests of one image, one on each node. One moves to the other's node (dedup_ratio: its pages may stand in the
other's memory), then back (return_ratio: its own memory stayed there for a while). Bytes that the source says it sent,
over the bytes of the guest's different pages that are not zero, on a link of 1 Gbit/s. Of the way back those that the
guest had written meanwhile, in pages, are told beside it.
"""

from __future__ import annotations

import argparse
import mmap
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import trio

from bench import cluster_runs as runs
from bench import migration_guest
from bench.migration_guest import Limit, NoFigure
from bench.migration_ours import unique_bytes
from node.machine import Machine
from node.migration.pages import BATCH
from node.ramview import PAGE, RamView
from wherry.client import Client
from wherry.errors import WherryError

MBIT = 1000
PAGES = 4096  # of those that are sent again
IDLE_S = 2.0  # what the guest does by itself at the node that it will leave
STAYS, MOVES = "staying", "moving"


class Moved(NamedTuple):
    """Bytes on the wire and of the guest's different pages; milliseconds."""

    wire: int
    resident: int
    total_ms: float
    pause_ms: float

    @property
    def ratio(self) -> float:
        return self.wire / self.resident


class Pair(NamedTuple):
    """There, to a node with another guest of the image, and back."""

    there: Moved
    back: Moved


def resent() -> float:
    """Bytes that a batch takes for a page that was sent before, 8 random bytes of which have changed since."""
    dice = random.Random(1)
    machine = Machine(PAGES * PAGE, 1)
    view = RamView(machine.ram_fd, machine.share_fd)
    with mmap.mmap(machine.ram_fd, PAGES * PAGE) as memory:
        memory[:] = dice.randbytes(PAGES * PAGE)
        view.track(True)
        view.remember(PAGES)
        _packed(view)
        for at in range(0, PAGES * PAGE, PAGE):
            word = at + 8 * dice.randrange(PAGE // 8)
            memory[word : word + 8] = dice.randbytes(8)
        view.owe(b"\xff" * (PAGES // 8))  # dirty, all of them
        size = _packed(view)
    view.close()
    machine.close()
    return size / PAGES


def _packed(view: RamView) -> int:
    view.round()
    buffer, size = bytearray(BATCH), 0
    while True:
        batch = view.pack(buffer)
        size += batch.size
        if not batch.more:
            return size


async def pair(folder: Path, mbit: int = MBIT, flags: Sequence[str] = ()) -> Pair:
    """One cluster, one move there and one back. Raises NoFigure."""
    library = runs.image_library()
    image = migration_guest.image(library)
    memory = migration_guest.MEMORY_MIB << 20
    async with runs.cluster(folder, ["n1", "n2"], library, flags) as client:
        await client.push(library, image, lambda *_: None)
        await runs.boot(client, STAYS, "n2", image.name, memory)
        await runs.boot(client, MOVES, "n1", image.name, memory)
        links = [int(node.link.rsplit(":", 1)[1]) for node in await client.nodes() if node.link]
        with Limit(mbit, links):
            await trio.sleep(IDLE_S)
            there = await _move(client, folder / "nodes" / "n1", "n2", 0)
            await trio.sleep(IDLE_S)
            back = await _move(client, folder / "nodes" / "n2", "n1", there.resident)
        return Pair(there, back)


async def _move(client: Client, folder: Path, to: str, resident: int) -> Moved:
    """``resident``: 0: the only guest under ``folder`` is looked at."""
    resident = resident or await trio.to_thread.run_sync(unique_bytes, folder)
    try:
        result = await runs.migrate(client, MOVES, to)
    except WherryError as error:
        raise NoFigure(f"wherry: {error}") from None
    return Moved(int(result["bytes_sent"]), resident, float(result["total_ms"]), float(result["blackout_ms"]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.migration_dedup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mbit", type=int, default=MBIT, help="of the link, 0: loopback as it is")
    parser.add_argument("--dedup", default="all", help="as a node takes it")
    arguments = parser.parse_args()
    print(f"a page that was sent before: {resent():.1f} bytes")
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory(prefix="wherry-bench-") as folder:
            both = trio.run(pair, Path(folder), arguments.mbit, ("--dedup", arguments.dedup))
        for name, move in both._asdict().items():
            print(
                f"{name}: {move.wire / 1e6:.2f} MB of {move.resident / 1e6:.1f}, ratio {move.ratio:.3f},"
                f" total {move.total_ms:.0f} ms, pause {move.pause_ms:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
