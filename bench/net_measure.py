"""One figure each, between two hosts of ``bench.net_hosts`` over whatever joins their inner addresses."""

from __future__ import annotations

import json
import os
import re
import select
import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.net_hosts import Host

LOST = 1e-4  # of the frames: what counts as none on a machine that does other things too
_TICK = os.sysconf("SC_CLK_TCK")
_TIME = re.compile(rb"time=([0-9.]+) ms")


class NoFigure(Exception):
    """A measurement failed; the text says how."""


def processor_s(pids: Iterable[int]) -> float:
    """User and system seconds that these processes have had, all threads."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICK


class Steal:
    """How much of the machine's time the hypervisor took since it was made."""

    def __init__(self) -> None:
        self._began = self._read()

    @staticmethod
    def _read() -> tuple[int, int]:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return fields[7], sum(fields[:8])

    def share(self) -> float:
        now = self._read()
        return (now[0] - self._began[0]) / max(1, now[1] - self._began[1])


@dataclass(frozen=True)
class Tcp:
    """``gbps`` as received; ``cpu_s_per_gb``: of the daemons on both hosts, None where there is none."""

    gbps: float
    cpu_s_per_gb: float | None


def tcp(source: Host, target: Host, address: str, seconds: float, daemons: list[int]) -> Tcp:
    """One iperf3 stream to ``address`` of ``target``."""
    server = subprocess.Popen(
        [*target.enter, "iperf3", "-s", "-1", "--forceflush", "-B", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_line(server, b"listening")
        before = processor_s(daemons)
        done = subprocess.run(
            [*source.enter, "iperf3", "-J", "-c", address, "-t", str(seconds), "--connect-timeout", "5000"],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 15,
        )
        spent = processor_s(daemons) - before
    except subprocess.TimeoutExpired:
        raise NoFigure("iperf3 did not end") from None
    finally:
        server.kill()
        server.wait()
    try:
        received = json.loads(done.stdout)["end"]["sum_received"]
        size, rate = float(received["bytes"]), float(received["bits_per_second"])
    except (ValueError, KeyError):
        raise NoFigure(f"iperf3: {(done.stdout or done.stderr).strip()[-200:]}") from None
    if not size:
        raise NoFigure("iperf3: nothing came through")
    return Tcp(rate / 1e9, spent / (size / 1e9) if daemons else None)


def _wait_line(process: subprocess.Popen[bytes], word: bytes, seconds: float = 10.0) -> None:
    """Until it has said ``word``."""
    assert process.stdout is not None
    text, deadline = b"", time.monotonic() + seconds
    while word not in text:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not data:
            raise NoFigure(f"{process.args!r} did not say {word.decode()!r}: {text[-200:].decode(errors='replace')}")
        text += data


def rtt_us(source: Host, address: str, count: int, wait_s: float = 1.0) -> float:
    """Median round trip of ``count`` pings, 10 ms apart, in microseconds."""
    done = subprocess.run(
        [*source.enter, "ping", "-n", "-c", str(count), "-i", "0.01", "-W", str(wait_s), address],
        capture_output=True,
        check=False,
        timeout=count * 0.05 + 30,
    )
    times = [float(match[1]) * 1000 for match in _TIME.finditer(done.stdout)]
    if len(times) < count / 2:
        raise NoFigure(f"only {len(times)} of {count} pings came back")
    return statistics.median(times)


def reachable(source: Host, address: str, seconds: float) -> bool:
    """Whether pings come through within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done = subprocess.run(
            [*source.enter, "ping", "-n", "-c", "1", "-W", "1", address], capture_output=True, check=False
        )
        if done.returncode == 0:
            return True
        time.sleep(0.2)
    return False


class Sink:
    """The receiving end of the frame-rate measurement: counts what arrives."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def count(self) -> int:
        """Frames since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"count\n")
        ready, _, _ = select.select([self._process.stdout], [], [], 10.0)
        if not ready:
            raise NoFigure("the receiving end does not answer")
        return int(self._process.stdout.readline())


@contextmanager
def sink(target: Host, udpload: Path, address: str, port: int) -> Iterator[Sink]:
    process = subprocess.Popen(
        [*target.enter, str(udpload), "recv", address, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    try:
        _wait_line(process, b"ready")
        yield Sink(process)
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Load:
    """What was sent in ``seconds``, and how many of them arrived."""

    sent: int
    arrived: int
    seconds: float

    @property
    def lossless(self) -> bool:
        return self.sent - self.arrived <= self.sent * LOST

    @property
    def arrived_pps(self) -> float:
        return self.arrived / self.seconds


def load(source: Host, udpload: Path, address: str, port: int, rate: int, ms: int, into: Sink) -> Load:
    into.count()
    done = subprocess.run(
        [*source.enter, str(udpload), "send", address, str(port), str(rate), str(ms)],
        capture_output=True,
        text=True,
        check=False,
        timeout=ms / 1000 + 20,
    )
    if done.returncode:
        raise NoFigure(done.stderr.strip()[-200:])
    sent, nanoseconds = (int(word) for word in done.stdout.split())
    return Load(sent, _settled(into), nanoseconds / 1e9)


def _settled(into: Sink) -> int:
    """All that arrives, until nothing has for 20 ms."""
    total = into.count()
    while True:
        time.sleep(0.02)
        more = into.count()
        if not more:
            return total
        total += more


def lossless_pps(source: Host, target: Host, udpload: Path, address: str, ms: int, steps: int = 7) -> float:
    """The highest rate of 64-byte frames that arrive all but :data:`LOST`, by bisection: frames a second."""
    with sink(target, udpload, address, 9000) as into:
        load(source, udpload, address, 9000, 1000, 50, into)  # learned and keyed before it counts
        flood = load(source, udpload, address, 9000, 0, ms, into)
        low, high, best = 0.0, max(2.0, flood.arrived_pps * 1.5), 0.0
        for _ in range(steps):
            middle = (low + high) / 2
            seen = load(source, udpload, address, 9000, int(middle), ms, into)
            if seen.lossless:
                low, best = middle, max(best, seen.arrived_pps)
            else:
                high = middle
    return best


def ceiling_pps(source: Host, target: Host, udpload: Path, address: str, ms: int) -> float:
    """How fast the sender sends over the bare cable: what it could offer an overlay at most."""
    with sink(target, udpload, address, 9000) as into:
        flood = load(source, udpload, address, 9000, 0, ms, into)
    return flood.sent / flood.seconds
