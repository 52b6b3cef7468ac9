"""Row guest_tcp_gbps: iperf3 between two Debian guests on two nodes, against two guests of QEMU over its own sockets.

Same kernel, initrd and iperf3 everywhere, one hart and 256 MiB a guest, one stream. Ours goes through two agents and an
encrypted tunnel over loopback; QEMU's (TCG) straight from process to process in clear, by ``-netdev dgram`` and by
``-netdev stream``. QEMU's guests take their commands at the console's shell.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import trio

from bench import cluster_runs as runs
from bench import peers
from bench.harness import Row
from bench.net_measure import NoFigure
from bench.peers import Peer

HOWS = ("dgram", "stream")
_USER_SPACE = b"wherry: user space"
_JSON = re.compile(r"\{.*\}", re.S)


class Console:
    """A guest of an emulator; its console is the process's stdin and stdout."""

    def __init__(self, argv: list[str]) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )

    def until(self, word: bytes, seconds: float) -> str:
        """Its output up to and with ``word``."""
        assert self._process.stdout is not None
        text, deadline = b"", time.monotonic() + seconds
        while word not in text:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise NoFigure(f"an emulator's guest did not say {word.decode()!r}: {text[-200:].decode('latin-1')}")
            text += data
        return text.decode("latin-1")

    def shell(self, command: str, seconds: float) -> str:
        """What a command prints. The mark is written so that its echo is not it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}; echo end''-of-it\n".encode())
        return self.until(b"end-of-it", seconds)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Emulated:
    """Two guests of one emulator, joined; kept up for all rounds."""

    def __init__(self, peer: Peer, how: str, files: dict[str, Path], folder: Path) -> None:
        self.name = f"{peer.name} {how}"
        self._guests: list[Console] = []
        try:
            for end in (0, 1):
                self._guests.append(Console(_command(peer, how, files, folder, end)))
                if end == 0 and how == "stream":
                    _appears(folder / "stream")
            for guest in self._guests:
                guest.until(_USER_SPACE, 120)
            for guest in self._guests:
                guest.shell("echo", 30)
        except BaseException:
            self.close()
            raise

    def gbps(self, seconds: float) -> float:
        client, server = self._guests
        server.shell("iperf3 -s -1 -D > /dev/null 2>&1; usleep 300000", 20)
        text = client.shell(f"iperf3 -J -t {max(1, round(seconds))} -c 10.96.0.2", seconds + 60)
        found = _JSON.search(text)
        try:
            return float(json.loads(found[0] if found else "")["end"]["sum_received"]["bits_per_second"]) / 1e9
        except (ValueError, KeyError):
            raise NoFigure(f"{self.name}: {text.strip()[-200:]}") from None

    def close(self) -> None:
        for guest in self._guests:
            guest.close()


def _appears(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > deadline:
            raise NoFigure(f"{path} did not appear")
        time.sleep(0.05)


def _command(peer: Peer, how: str, files: dict[str, Path], folder: Path, end: int) -> list[str]:
    mac = f"52:54:00:00:00:0{end + 1}"
    if how == "dgram":
        ours, theirs = (folder / f"dgram{n}" for n in (end, 1 - end))
        netdev = f"local.type=unix,local.path={ours},remote.type=unix,remote.path={theirs}"
    else:
        netdev = f"server={'on' if end == 0 else 'off'},addr.type=unix,addr.path={folder}/stream"
    append = f"console=ttyS0 quiet wherry.name=e{end} wherry.nic={mac},10.96.0.{end + 1}/24,,1400"
    argv = [*peer.argv, "-M", "virt", "-m", "256M", "-nographic", "-no-reboot"]
    argv += ["-kernel", str(files["kernel"]), "-initrd", str(files["initrd"]), "-append", append]
    return [*argv, "-netdev", f"{how},id=n0,{netdev}", "-device", f"virtio-net-device,netdev=n0,mac={mac}"]


async def measure(row: Row, rounds: int, seconds: float, folder: Path) -> list[str]:
    """Fill the row, ours and theirs in turn; returns what is missing or went wrong."""
    found, faults = peers.find()
    library = runs.image_library()
    files = {file.role: library.blob(file.sha256) for file in library.get(runs.IMAGE).files}
    emulated: list[Emulated] = []
    try:
        for number, (peer, how) in enumerate((peer, how) for peer in found for how in HOWS):
            room = folder / f"e{number}"
            room.mkdir()
            try:
                emulated.append(await trio.to_thread.run_sync(Emulated, peer, how, files, room))
            except (NoFigure, OSError) as error:
                faults.append(f"{peer.name} {how}: {error}")
        async with runs.cluster(folder / "guests", ["n1", "n2"], library) as client:
            async with trio.open_nursery() as nursery:
                for name, node in (("left", "n1"), ("right", "n2")):
                    nursery.start_soon(runs.boot, client, name, node)
            for _ in range(rounds):
                row.ours.append(await runs.tcp_gbps(client, "left", "right", max(1, round(seconds))))
                text = f"  guests: wherry {row.ours[-1]:.3f} Gbit/s"
                for pair in emulated:
                    try:
                        figure = await trio.to_thread.run_sync(pair.gbps, seconds)
                    except NoFigure as error:
                        faults.append(str(error))
                    else:
                        row.rivals.setdefault(pair.name, []).append(figure)
                        text += f", {pair.name} {figure:.3f}"
                print(text, file=sys.stderr, flush=True)
    finally:
        for pair in emulated:
            pair.close()
    row.face_best()
    return faults
