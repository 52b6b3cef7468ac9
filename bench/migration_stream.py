"""The page stream of a migration alone: one round of a machine's whole RAM over a sealed channel on loopback.

Two processes, as in a migration: this one packs, seals and sends, the other one opens and places. Beside it, in the
same run: AES-256-GCM alone (``openssl speed``), zstd -1 and memcpy of the same bytes on one processor.
"""

from __future__ import annotations

import argparse
import mmap
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio
import zstandard

from bench.harness import ROOT
from bench.migration_guest import NoFigure
from node.machine import Machine
from node.migration.bucket import TokenBucket
from node.migration.channel import Channel, new_keys
from node.migration.pages import PageReceiver, PageSender
from node.migration.squeeze import FASTEST, Squeezer
from node.ramview import PAGE, RamView

MEMORY = 256 << 20
FILLED = 128 << 20
REPEATS = 3


class Streamed(NamedTuple):
    """One round: bytes of pages, bytes on the wire, seconds, and processor seconds of the two ends."""

    content: int
    wire: int
    seconds: float
    source_s: float
    target_s: float


def content(size: int) -> bytes:
    """Pages of random bytes: none is worth squeezing, each goes as it is."""
    return random.Random(1).randbytes(size)


async def stream(data: bytes | mmap.mmap, *, squeezed: bool = True, rounds: int = 1) -> list[Streamed]:
    """Raises NoFigure."""
    machine = Machine(MEMORY, 1)
    ram = mmap.mmap(machine.ram_fd, MEMORY)
    _fill(ram, data)
    view = RamView(machine.ram_fd, machine.share_fd)
    try:
        return [await _one(view, squeezed) for _ in range(rounds)]
    finally:
        view.close()
        ram.close()
        machine.close()


def _fill(ram: mmap.mmap, data: bytes | mmap.mmap) -> None:
    zero = bytes(PAGE)
    for at in range(0, min(len(data), MEMORY), PAGE):
        page = data[at : at + PAGE]
        if page != zero:
            ram[at : at + len(page)] = page


async def _one(view: RamView, squeezed: bool) -> Streamed:
    there, back = new_keys()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "bench.migration_stream", "--receive", there.hex(), back.hex()],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    port = int(await _line(process.stdout))
    channel = Channel(await trio.open_tcp_stream("127.0.0.1", port), seal=there, open=back)
    view.track(True)
    view.remember(view.pages if squeezed else 0)
    view.fills(True)
    sender = PageSender(view, channel, TokenBucket(0), Squeezer(FASTEST) if squeezed else None)
    began, used = time.perf_counter(), _used()
    stats = await sender.send_round()
    seconds, used = time.perf_counter() - began, _used() - used
    await sender.send_round(last=True)
    their_used = float(await _line(process.stdout))
    await process.wait()
    channel.abort("cancelled", "")
    return Streamed(stats.pages * PAGE, stats.size, seconds, used, their_used)


async def _line(stream: trio.abc.ReceiveStream) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        data = await stream.receive_some()
        if not data:
            raise NoFigure("the receiving end has ended")
        text += data
    return text


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _receive(there: bytes, back: bytes) -> None:
    machine = Machine(MEMORY, 1)
    view = RamView(machine.ram_fd, machine.share_fd)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    channel = Channel(await listener.accept(), seal=back, open=there)
    used = _used()
    await PageReceiver(view, channel).run()
    print(_used() - used, flush=True)
    view.close()
    machine.close()


# -- what it stands beside: MB/s of one processor


def openssl_gcm(_: bytes) -> float:
    """AES-256-GCM as ``openssl speed`` tells it, records of 256 KiB; 0: it is not there."""
    argv = ["openssl", "speed", "-seconds", "1", "-bytes", str(256 << 10), "-evp", "aes-256-gcm"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return 0.0
    found = re.search(r"(?i)aes-256-gcm\s+([0-9.]+)k", done.stdout)
    return float(found[1]) / 1000 if found else 0.0


def _rate(size: int, work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return size / (time.thread_time() - began) / 1e6


def zstd_1(data: bytes) -> float:
    codec = zstandard.ZstdCompressor(level=1)
    return _rate(len(data), lambda: [codec.compress(data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20)])


def memcpy(data: bytes) -> float:
    to = bytearray(len(data))
    return _rate(len(data), lambda: to.__setitem__(slice(None), data))


STAGES = {"openssl speed aes-256-gcm": openssl_gcm, "zstd -1": zstd_1, "memcpy": memcpy}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.migration_stream", description=__doc__)
    parser.add_argument("--receive", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help="a file of guest memory in place of random pages")
    arguments = parser.parse_args()
    if arguments.receive:
        trio.run(_receive, bytes.fromhex(arguments.receive[0]), bytes.fromhex(arguments.receive[1]))
        return
    if arguments.image:
        with arguments.image.open("rb") as file:
            data: bytes | mmap.mmap = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    else:
        data = content(FILLED)
    for one in trio.run(partial(stream, data, rounds=REPEATS)):
        print(
            f"{one.content / 1e6:.1f} MB of pages, {one.wire / 1e6:.1f} MB sent, {one.seconds * 1000:.0f} ms,"
            f" {one.content / one.seconds / 1e6:.0f} MB/s; processor {one.source_s * 1000:.0f} +"
            f" {one.target_s * 1000:.0f} ms"
        )


if __name__ == "__main__":
    main()
