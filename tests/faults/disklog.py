"""A guest that writes a log to its disk (tests/guest/programs/logger.c), and what must be on the disk wherever it is.

The guest says "f N" when its record N is flushed; from then on the disk must have it, until record N + BLOCKS has its
place. It compares the whole disk with what it knows when it is asked to.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import trio

from node.guest import adopt
from node.machine import CH_UART
from tests.faults.cluster import Cluster

BLOCK, BLOCKS = 4096, 4096
_WORDS = BLOCK // 8


@cache
def record(n: int) -> bytes:
    """As the guest makes it."""
    words, x, mask = [n], n + 1, 2**64 - 1
    for _ in range(_WORDS - 1):
        x ^= x << 13 & mask
        x ^= x >> 7
        x ^= x << 17 & mask
        words.append(x)
    return b"".join(word.to_bytes(8, "little") for word in words)


def image_disk(records: int = 3000) -> bytes:
    """A disk whose blocks 1..records hold those records; the rest are zeros."""
    return b"".join([bytes(BLOCK), *(record(n) for n in range(1, records + 1))]).ljust(BLOCKS * BLOCK, b"\0")


def flushed(log: bytes) -> list[int]:
    """What the guest was told is durable."""
    return [int(number) for number in re.findall(rb"^f (\d+)\n", log, re.MULTILINE)]


def disk_file(cluster: Cluster, guest: str, node: str) -> Path:
    return cluster.folder / node / "guests" / guest / "disk0.img"


def missing(disk: bytes, last: int) -> list[int]:
    """Records up to ``last`` that should be there, and are not: neither they nor ones that came later."""
    out = []
    for n in range(max(1, last - BLOCKS + 2), last + 1):
        at = n % BLOCKS * BLOCK
        found = int.from_bytes(disk[at : at + 8], "little")
        if found < n or found % BLOCKS != n % BLOCKS or disk[at : at + BLOCK] != record(found):
            out.append(n)
    return out


async def check_log(cluster: Cluster, guest: str, node: str) -> None:
    """It goes on; every record that it was told is durable is in this node's file; and the disk that it sees is the one
    that it wrote."""
    before = flushed(await cluster.log(guest, node))

    async def further() -> bool:
        return flushed(await cluster.log(guest, node))[-1:] > before[-1:]

    await cluster.until("the guest goes on writing", further)
    log = await cluster.log(guest, node)
    assert b"bad" not in log
    assert b"failed" not in log
    numbers = flushed(log)
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "a record was written twice, or never"
    disk = await trio.to_thread.run_sync(disk_file(cluster, guest, node).read_bytes)
    assert missing(disk, numbers[-1]) == []
    assert await ask(cluster, guest, node, b"c") == b"whole"


async def ask(cluster: Cluster, guest: str, node: str, key: bytes, answer: bytes = rb"^(whole|bad \d+)\n") -> bytes:
    """Press a key at the guest's console; what it answers."""
    handle = await adopt(cluster.folder / node / "guests" / guest)
    try:
        stream = await handle.attach(CH_UART, kept=False)
        async with stream:
            await stream.send_all(key)
            said = b"\n"
            with trio.fail_after(60):
                while not (found := re.search(answer, said, re.MULTILINE)):
                    said += await stream.receive_some(65536)
            return found[1]
    finally:
        handle.close()


async def begun(cluster: Cluster, guest: str, node: str) -> int:
    """Where a boot found the end of the log on its disk."""
    found: list[int] = []

    async def said() -> bool:
        log = await cluster.log(guest, node)
        found[:] = [int(number) for number in re.findall(rb"^begin (\d+)\n", log, re.MULTILINE)]
        return bool(found)

    await cluster.until("it has read its disk", said)
    return found[-1]
