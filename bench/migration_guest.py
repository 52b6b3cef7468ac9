"""What both sides of ``make bench-migration`` run: the guest's load, the host's client, the limit on the link."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from dataclasses import dataclass

from bench import cluster_runs, core_guest, net_peers, net_programs
from bench.harness import ROOT
from bench.net_hosts import HostsError, run
from wherry.image import importer
from wherry.image.store import Image, Library

PROGRAMS = ROOT / "bench" / "programs" / "migration"
IMAGE = "debian-migration"
LOAD = "load"
MEMORY_MIB = 256
_HERE, _TABLE = "lo", "wherry_bench_migration"


@dataclass(frozen=True)
class Case:
    """``working_set`` MiB are dirtied at ``rate`` MiB/s; ``mbit`` limits the link, 0: not; ``mode``: ours."""

    name: str
    working_set: int
    rate: int
    mbit: int = 0
    mode: str = "auto"

    @property
    def command(self) -> str:
        """Starts the load in a guest's shell; returns when memory is filled."""
        end = f"killall {LOAD} 2> /dev/null; while pidof {LOAD} > /dev/null; do usleep 20000; done; rm -f /tmp/load"
        start = f"{end}; /{LOAD} {self.working_set} {self.rate} > /tmp/load 2>&1 &"
        return f"{start} until grep -qs ready /tmp/load; do usleep 50000; done"


@dataclass(frozen=True)
class Move:
    """One migration: milliseconds and bytes. ``gap``: longest time without an answer to the client. Of ours only:
    ``final_bytes``, sent in the pause; ``resident``, of the guest's different pages that are not zero; ``fault``: how
    long it waits for a page of a post-copy, median and longest: us, 0 where it waited for none."""

    total_ms: float
    pause_ms: float
    gap_udp_ms: float
    gap_tcp_ms: float
    wire_bytes: int
    final_bytes: int = 0
    resident: int = 0
    fault_us: float = 0.0
    fault_max_us: float = 0.0


class NoFigure(Exception):
    """A run that gave no figure, and why."""


def image(library: Library) -> Image:
    """The bench's Debian image with the load in it."""
    base = library.get(cluster_runs.IMAGE)
    files = {file.role: library.blob(file.sha256) for file in base.files}
    binary = core_guest.build("riscv64-linux-musl", PROGRAMS / "guest", LOAD)
    archive = core_guest.initrd(files["initrd"], binary, LOAD)
    return importer.store_linux(library, IMAGE, files["kernel"], archive, base.cmdline, {"kind": "bench"})


class Poller:
    """The client, polling a guest at ``address`` until it is closed."""

    def __init__(self, address: str) -> None:
        program = net_programs.build("client", folder=PROGRAMS)
        self._process = subprocess.Popen(
            [str(program), address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        try:
            self._line(20)
        except NoFigure:
            self.close()
            raise

    def _line(self, seconds: float) -> list[str]:
        assert self._process.stdout is not None
        text, deadline = b"", time.monotonic() + seconds
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not data:
                raise NoFigure("the guest does not answer the client")
            text += data
        return text.decode().split()

    def reset(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"reset\n")

    def gaps(self) -> tuple[float, float]:
        """Longest time without an answer since the reset, UDP and TCP: ms."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"read\n")
        words = self._line(10)
        return float(words[1]), float(words[2])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Limit:
    """``with Limit(mbit, ports)``: TCP of these ports on loopback passes at that rate; everything else as before."""

    def __init__(self, mbit: int, ports: list[int]) -> None:
        self._mbit, self._ports = mbit, ports

    def __enter__(self) -> None:
        if not self._mbit:
            return
        self.__exit__()
        run("tc", "qdisc", "add", "dev", _HERE, "root", "handle", "1:", "htb", "default", "1")
        for minor, rate in ((1, "100gbit"), (3, f"{self._mbit}mbit")):
            shape = ["rate", rate, "burst", "256kb", "cburst", "256kb", "quantum", "65536"]
            run("tc", "class", "add", "dev", _HERE, "parent", "1:", "classid", f"1:{minor}", "htb", *shape)
        ports = ", ".join(map(str, self._ports))
        marks = "".join(f"tcp {side} {{ {ports} }} meta priority set 1:3\n" for side in ("sport", "dport"))
        table = f"table ip {_TABLE} {{\n chain out {{ type filter hook output priority 0;\n{marks}}}\n}}\n"
        run(*net_peers.tools()["nft"], "-f", "-", text=table)

    def __exit__(self, *exc: object) -> None:
        if not self._mbit:
            return
        with contextlib.suppress(HostsError):  # there was none
            run("tc", "qdisc", "del", "dev", _HERE, "root")
        with contextlib.suppress(HostsError):
            run(*net_peers.tools()["nft"], "delete", "table", "ip", _TABLE)
