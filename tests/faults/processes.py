"""What faults are done to: daemons that are killed and started again, and TCP paths that are cut or fall silent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).parents[2]
READY_S = 60.0


class Daemon:
    """One process that prints ``ready {json}``. Its log is in ``log``."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self.arguments = arguments
        self.log = log
        self.environment = environment
        self.ready: dict[str, Any] = {}
        self._process: trio.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", *self.arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
                cwd="/",
            )
        output = b""
        assert self._process.stdout is not None
        with trio.fail_after(READY_S):
            while b"\n" not in output:
                more = await self._process.stdout.receive_some(65536)
                assert more, f"{self.arguments[0]} ended: {self.log.read_text()[-2000:]}"
                output += more
        line = output.split(b"\n", 1)[0].decode()
        assert line.startswith("ready ")
        self.ready = json.loads(line[6:])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(how)
            with trio.move_on_after(20) as slow:
                await process.wait()
            if slow.cancelled_caught:
                process.kill()
                await process.wait()


def free_port() -> int:
    """A port that a daemon may listen on, TCP and UDP, now and after a restart."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        port: int = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        return port


class Proxy:
    """A path to the TCP port ``target``. Cut: connections break, new ones are refused. Silent: nothing breaks and
    nothing passes, as with a cable that was pulled out."""

    def __init__(self, nursery: trio.Nursery, target: int) -> None:
        self._nursery = nursery
        self._open: set[trio.CancelScope] = set()
        self._flows = trio.Event()
        self._flows.set()
        self._whole = True
        self.target = target
        self.port = 0

    async def open(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        self._nursery.start_soon(trio.serve_listeners, self._serve, listeners)

    def cut(self) -> None:
        self._whole = False
        for scope in self._open:
            scope.cancel()

    def silence(self) -> None:
        if self._flows.is_set():
            self._flows = trio.Event()

    def heal(self) -> None:
        self._whole = True
        self._flows.set()

    async def _serve(self, client: trio.SocketStream) -> None:
        if not self._whole:
            return
        scope = trio.CancelScope()
        self._open.add(scope)
        try:
            with scope:
                server = await trio.open_tcp_stream("127.0.0.1", self.target)
                async with server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, client, server, scope)
                    nursery.start_soon(self._copy, server, client, scope)
        except OSError:
            return
        finally:
            self._open.discard(scope)

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some(65536):
                await self._flows.wait()
                await sink.send_all(data)
            await self._flows.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
