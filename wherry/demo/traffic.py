"""The guests' traffic, started and read through ``exec``: pings, a paced stream with checksums, one burst.

The scripts use only what the built image has: busybox, and iputils' ping by its full path (busybox's shell prefers its
own). The stream carries a counter before each block, so that a block that is lost, doubled or swapped changes the sum.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import trio

from wherry.client import Client
from wherry.demo import pings
from wherry.errors import WherryError

INTERVAL_S = 0.02
_STREAM_PORT = 7000
_BURST_PORT = 7001
_BURST_MIB = 4
_SHA = re.compile(r"^([0-9a-f]{64})\b")
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing


async def sh(client: Client, guest: str, script: str, timeout_s: float = 60.0) -> str:
    """Output of a shell script in ``guest``. Raises :class:`WherryError` unless it exits with 0."""
    result = await client.exec(guest, ["/bin/sh", "-c", script], timeout_s=timeout_s)
    if result.exit_code != 0:
        said = (result.stderr or result.stdout).decode(errors="replace").strip()[-300:]
        raise WherryError(f"{guest}: exit status {result.exit_code}: {said}")
    return result.stdout.decode(errors="replace")


class Pings:
    """A ping that runs in ``guest`` until it is stopped."""

    def __init__(self, client: Client, guest: str, address: str) -> None:
        self.client, self.guest, self.address = client, guest, address

    async def start(self) -> None:
        """Returns after the first reply, so that address resolution is no part of what is measured."""
        await sh(self.client, self.guest, f"/usr/bin/ping -c 1 -W 20 {self.address}", 40)
        await sh(
            self.client,
            self.guest,
            f"/usr/bin/ping -D -i {INTERVAL_S} {self.address} < /dev/null > /tmp/ping.log 2>&1 &\n"
            "echo $! > /tmp/ping.pid",
        )

    async def last(self) -> int:
        """Sequence number of the newest reply."""
        run = pings.parse(await sh(self.client, self.guest, "tail -n 1 /tmp/ping.log"))
        return run.replies[-1].seq if run.replies else 0

    async def reach(self, seq: int, timeout_s: float = 20.0) -> int:
        """Wait until a reply of at least ``seq`` is there; returns the newest."""
        with trio.fail_after(timeout_s):
            while True:
                newest = await self.last()
                if newest >= seq:
                    return newest
                await trio.sleep(0.1)  # the guest cannot tell us; each look costs it a process

    async def stop(self) -> pings.Run:
        # Compressed: the guest agent's channel is slow, and thousands of lines are much alike.
        script = "kill -INT $(cat /tmp/ping.pid); sleep 0.3; gzip -c /tmp/ping.log"
        result = await self.client.exec(self.guest, ["/bin/sh", "-c", script])
        try:
            text = zlib.decompress(result.stdout, wbits=zlib.MAX_WBITS | 16).decode(errors="replace")
        except zlib.error as error:
            raise WherryError(f"{self.guest}: the pings' record came back damaged: {error}") from None
        return pings.without_in_flight(pings.parse(text), INTERVAL_S)


@dataclass(frozen=True)
class StreamResult:
    """``blocks`` as the sender counted them; sums are SHA-256 over everything sent and everything received."""

    sent_sum: str
    received_sum: str
    blocks: int

    @property
    def intact(self) -> bool:
        return self.sent_sum == self.received_sum != _EMPTY and self.blocks > 0 and bool(self.sent_sum)


class Stream:
    """A TCP stream from ``sender`` to ``receiver``, about 300 KB/s, until it is stopped."""

    def __init__(self, client: Client, sender: str, receiver: str, address: str) -> None:
        self.client, self.sender, self.receiver, self.address = client, sender, receiver, address

    async def start(self) -> None:
        # nc leaves at the end of its input, so the receiver's is a pipe that nobody closes.
        await sh(
            self.client,
            self.receiver,
            "rm -f /tmp/hold /tmp/rx.*; mkfifo /tmp/hold; exec 9<>/tmp/hold\n"
            f"(nc -l -p {_STREAM_PORT} <&9 | sha256sum > /tmp/rx.part; mv /tmp/rx.part /tmp/rx.sum) > /dev/null 2>&1 &",
        )
        await sh(
            self.client,
            self.sender,
            "rm -f /tmp/stop /tmp/tx.*; mkfifo /tmp/tx.fifo\n"
            "dd if=/dev/urandom of=/tmp/block bs=16k count=1 2> /dev/null\n"
            "(sha256sum < /tmp/tx.fifo > /tmp/tx.part; mv /tmp/tx.part /tmp/tx.sum) > /dev/null 2>&1 &\n"
            "(n=0; while [ ! -e /tmp/stop ]; do\n"
            "n=$((n+1)); echo $n; cat /tmp/block; echo $n > /tmp/tx.count; usleep 50000\n"
            f"done | tee /tmp/tx.fifo | nc {self.address} {_STREAM_PORT} > /dev/null) > /dev/null 2>&1 &",
        )

    async def stop(self) -> StreamResult:
        wait = (
            "n=0; while [ ! -e {0} ] && [ $n -lt 300 ]; do usleep 100000; n=$((n+1)); done\n"
            "cat {0} 2> /dev/null || true"
        )
        sent = await sh(self.client, self.sender, "touch /tmp/stop; " + wait.format("/tmp/tx.sum"))
        received = await sh(self.client, self.receiver, wait.format("/tmp/rx.sum"))
        count = await sh(self.client, self.sender, "cat /tmp/tx.count 2> /dev/null || echo 0")
        return StreamResult(_sum(sent), _sum(received), int(count.strip() or 0))


async def burst_mbit_s(client: Client, sender: str, receiver: str, address: str) -> float:
    """One TCP transfer of 4 MiB by busybox nc, timed by the sender's clock: Mbit/s. nc copies a few KiB at a
    time, so this is a floor of what the network carries."""
    await sh(
        client,
        receiver,
        "rm -f /tmp/hold2; mkfifo /tmp/hold2; exec 9<>/tmp/hold2\n"
        f"(nc -l -p {_BURST_PORT} <&9 > /dev/null) > /dev/null 2>&1 &",
    )
    script = (
        "usleep 300000; read a b < /proc/uptime; "
        f"dd if=/dev/zero bs=64k count={_BURST_MIB * 16} 2> /dev/null | nc {address} {_BURST_PORT} > /dev/null; "
        "read c d < /proc/uptime; echo $a $c"
    )
    first, last = map(float, (await sh(client, sender, script, 120)).split())
    return _BURST_MIB * 8 * 1.048576 / max(last - first, 0.01)


def _sum(text: str) -> str:
    match = _SHA.match(text.strip())
    return match[1] if match else ""
