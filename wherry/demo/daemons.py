"""The demo's coordinator and nodes: real daemons on loopback, in a private state folder, on free ports.

Each daemon leads its own session, so that a Ctrl-C on the terminal reaches only the demo, which then stops them in
order. Guest processes outlive their agents by design; :meth:`Daemons.stop` looks for them in /proc by the demo's own
folder in their command line, and ends what is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from wherry.errors import WherryError

READY_S = 30.0
_STOP_S = 5.0
_READY = b"ready "


@dataclass
class Daemon:
    """A started daemon; ``ready`` is what its ready line told."""

    name: str
    process: trio.Process
    ready: dict[str, Any] = field(default_factory=dict)


class Daemons:
    """Everything that was started in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Daemon] = []

    @property
    def access_file(self) -> Path:
        return self.folder / "cli.json"

    async def coordinator(self, host: str = "127.0.0.1") -> Daemon:
        """``host``: where it listens for nodes; the API stays on loopback."""
        state = self.folder / "coordinator"
        flags = ["--state", str(state), "--link", f"{host}:0", "--api", "127.0.0.1:0"]
        return await self._start("coordinator", "coordinator", [*flags, "--cli-file", str(self.access_file)])

    async def node(
        self, name: str, join: str, host: str = "127.0.0.1", enter: Sequence[str] = (), options: Sequence[str] = ()
    ) -> Daemon:
        """``enter``: a command prefix that runs it elsewhere, such as ``ip netns exec NAME``; ``host``: its address;
        ``options``: more of `wherry node`."""
        state = self.folder / "nodes" / name
        flags = ["--name", name, "--state", str(state), "--listen", f"{host}:0", "--join", join]
        return await self._start(name, "node", [*flags, *options], enter)

    async def _start(self, name: str, module: str, flags: list[str], enter: Sequence[str] = ()) -> Daemon:
        """Raises :class:`WherryError` with the daemon's last words when it ends or stays silent."""
        environment = {**os.environ, "WHERRY_HOME": str(self.folder)}
        log = self.log(name)
        with log.open("ab") as errors:
            process = await trio.lowlevel.open_process(
                [*enter, sys.executable, "-P", "-m", module, *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        daemon = Daemon(name, process)
        self.running.append(daemon)
        with trio.move_on_after(READY_S):
            daemon.ready = await _ready_line(process)
        if not daemon.ready:
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            ended = process.poll() is not None
            raise WherryError(f"{name} {'ended' if ended else f'was not ready in {READY_S:.0f} s'}: {last[0][:300]}")
        return daemon

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    async def stop(self) -> int:
        """End all of it, nodes before the coordinator, guests last. Returns how many guest processes were left over."""
        for daemon in reversed(self.running):
            with suppress(ProcessLookupError):
                daemon.process.send_signal(signal.SIGTERM)
        for daemon in reversed(self.running):
            with trio.move_on_after(_STOP_S) as late:
                await daemon.process.wait()
            if late.cancelled_caught:
                daemon.process.kill()
                await daemon.process.wait()
        self.running.clear()
        left = guest_processes(self.folder)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(left)


def guest_processes(folder: Path) -> dict[int, Path]:
    """Processes that run a guest whose folder lies under ``folder``: pid to guest folder."""
    found: dict[int, Path] = {}
    prefix = os.fsencode(folder) + b"/"
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"node.guestproc" in arguments:
            for argument in arguments:
                if argument.startswith(prefix):
                    found[int(entry.name)] = Path(os.fsdecode(argument))
    return found


async def _ready_line(process: trio.Process) -> dict[str, Any]:
    """The object after ``ready``; {} when the output ends first."""
    assert process.stdout is not None
    buffer = b""
    while chunk := await process.stdout.receive_some(4096):
        buffer += chunk
        for line in buffer.split(b"\n")[:-1]:
            if line.startswith(_READY):
                data = json.loads(line[len(_READY) :])
                return data if isinstance(data, dict) else {}
    return {}
