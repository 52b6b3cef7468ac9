"""A machine under test: boots a program or a kernel, talks to its UART, can be copied into a new one."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.machine import (
    BOOT_FIRMWARE,
    BOOT_LINUX,
    CH_UART,
    ENGINE_AUTO,
    EV_CRASH,
    EV_OUTPUT,
    EV_POWEROFF,
    EV_REBOOT,
    ICOUNT_OFF,
    Event,
    Machine,
)
from node.ramview import RamView

MIB = 1 << 20
DEADLINE = 60.0  # seconds; a program that needs longer hangs


class Hung(AssertionError):
    """The guest did not do in time what was waited for; the text has its output."""


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def carry(source: RamView, target: RamView) -> None:
    """The pages of the source's round set, batch by batch."""
    buffer = bytearray(MIB)
    more = True
    while more:
        batch = source.pack(buffer)
        target.unpack(memoryview(buffer)[: batch.size])
        more = batch.more


class Guest:
    """``ram`` in bytes. A context manager; the machine is made at once and starts with :meth:`boot`."""

    def __init__(
        self,
        *,
        ram: int = 64 * MIB,
        harts: int = 1,
        firmware: bool = False,
        seed: int = 1,
        nics: list[bytes] | None = None,
        mtu: int = 0,
        engine: int = ENGINE_AUTO,
        icount: int = ICOUNT_OFF,
        cpu: str = "rva22",
    ) -> None:
        self.config = {"ram": ram, "harts": harts, "firmware": firmware, "seed": seed, "nics": nics, "mtu": mtu}
        self.config |= {"engine": engine, "icount": icount, "cpu": cpu}
        boot = BOOT_FIRMWARE if firmware else BOOT_LINUX
        self.machine = Machine(ram, harts, boot, seed, engine=engine, icount=icount, cpu=cpu)
        for mac in nics or ():
            self.machine.add_nic(mac, mtu)
        self.output = b""
        self.end: Event | None = None
        self._offset = 0

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.close()

    def boot(self, program: Path, *, initrd: Path | None = None, cmdline: str = "") -> Guest:
        with opened(program) as fd:
            if self.config["firmware"]:
                self.machine.load_firmware(fd)
            elif initrd is None:
                self.machine.load_linux(fd, -1, cmdline)
            else:
                with opened(initrd) as initrd_fd:
                    self.machine.load_linux(fd, initrd_fd, cmdline)
        self.machine.start()
        return self

    def view(self) -> RamView:
        return RamView(self.machine.ram_fd, self.machine.share_fd)

    def write(self, data: bytes) -> None:
        while data:
            taken = self.machine.channel_write(CH_UART, data)
            data = data[taken:]

    def read_until(self, text: bytes, *, count: int = 1, timeout: float = DEADLINE) -> None:
        """Wait until ``text`` stands ``count`` times in the output."""
        self._wait(lambda: self.output.count(text) >= count, f"{text!r} x {count}", timeout)

    def wait_end(self, timeout: float = DEADLINE) -> Event:
        """The event that ended the guest; all output before it has been read."""
        self._wait(lambda: self.end is not None, "the end", timeout)
        assert self.end is not None
        return self.end

    def values(self) -> dict[str, str]:
        """The "name=value" lines of the output."""
        return dict(line.split("=", 1) for line in self.output.decode().splitlines() if "=" in line)

    def copy(self, rounds: int = 0) -> Guest:
        """A new machine that goes on from here: so many rounds of pages while this one still runs, then the last pages
        and the state document. This one stays paused."""
        other = Guest(**self.config)  # type: ignore[arg-type]
        source, target = self.view(), other.view()
        try:
            source.track(True)
            for _ in range(rounds):
                source.round(10_000)
                carry(source, target)
            self.machine.pause()
            source.round()
            carry(source, target)
            assert source.checksum() == target.checksum()
            other.machine.load(self.machine.save())
            self._drain()
            other.output = self.output
        finally:
            source.close()
            target.close()
        other.machine.start()
        return other

    def snapshot(self, path: Path) -> None:
        """Pause, and write the whole machine. It stays paused."""
        self.machine.pause()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self.machine.snapshot(fd, b"of a test")
        finally:
            os.close(fd)
        self._drain()

    def restored(self, path: Path, how: int) -> Guest:
        """A new machine from a snapshot of this one; it runs."""
        other = Guest(**self.config)  # type: ignore[arg-type]
        with opened(path) as fd:
            assert other.machine.restore(fd, how) == b"of a test"
        other.output = self.output
        other.machine.start()
        return other

    def _drain(self) -> None:
        while True:
            self._offset, data = self.machine.channel_read(CH_UART, self._offset)
            if not data:
                return
            self.output += data

    def _take_events(self) -> None:
        while (event := self.machine.next_event()) is not None:
            if event.kind == EV_OUTPUT and event.arg == CH_UART:
                self._drain()
            elif event.kind in (EV_POWEROFF, EV_REBOOT, EV_CRASH):
                self._drain()
                self.end = event

    def _wait(self, done, what: str, timeout: float) -> None:  # type: ignore[no-untyped-def]
        limit = time.monotonic() + timeout
        while not done():
            left = limit - time.monotonic()
            ready = select.select([self.machine.event_fd], [], [], max(0.0, left))[0]
            if not ready:
                raise Hung(
                    f"waited {timeout} s for {what}; output so far:\n{self.output.decode(errors='replace')[-3000:]}"
                )
            self._take_events()
            if self.end is not None and not done():
                raise Hung(f"ended with {self.end} before {what}:\n{self.output.decode(errors='replace')[-3000:]}")
