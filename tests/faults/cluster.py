"""A whole cluster of real daemons on loopback, for fault tests: killed, restarted, held at a phase, cut apart.

:class:`Cluster` is one coordinator and its nodes, each a process of its own in a folder of the test; nodes are dialled
through a :class:`Proxy`, which can be cut. Guests are small programs (tests/guest/programs) that boot in no time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from node.guest import GuestGone, adopt
from tests.guest.programs import build

ROOT = Path(__file__).parents[2]
READY_S = 60.0
MIB = 1 << 20


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


class Proxy:
    """Forwards a TCP port to ``target`` until it is cut; then connections break and new ones are refused."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._open: set[trio.CancelScope] = set()
        self.target = 0
        self.port = 0
        self.whole = True

    async def open(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        self._nursery.start_soon(trio.serve_listeners, self._serve, listeners)

    def cut(self) -> None:
        self.whole = False
        for scope in self._open:
            scope.cancel()

    def heal(self) -> None:
        self.whole = True

    async def _serve(self, client: trio.SocketStream) -> None:
        if not self.whole:
            return
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.target) as server:
                async with trio.open_nursery() as nursery:
                    self._open.add(nursery.cancel_scope)
                    nursery.start_soon(_copy, client, server, nursery.cancel_scope)
                    nursery.start_soon(_copy, server, client, nursery.cancel_scope)
                self._open.discard(nursery.cancel_scope)
        except OSError:
            return


async def _copy(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some(65536):
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


class Cluster:
    """Made by :func:`running`. ``nodes`` by name, ``proxies`` beside them."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.holds = folder / "holds"
        self.holds.mkdir(parents=True)
        self.environment = {"WHERRY_HOLD_DIR": str(self.holds), "WHERRY_HOME": str(folder)}
        self.nodes: dict[str, Daemon] = {}
        self.proxies: dict[str, Proxy] = {}
        self._nursery = nursery
        self.coordinator = Daemon([], folder / "coordinator.log", self.environment)
        self.api = httpx.AsyncClient()

    async def start(self, names: list[str]) -> None:
        state = ["--state", str(self.folder / "coordinator"), "--cli-file", str(self.folder / "cli.json")]
        self.coordinator.arguments = ["coordinator", *state, "--link", "127.0.0.1:0", "--api", "127.0.0.1:0"]
        await self.coordinator.start()
        # From now on at the same ports, also after a kill.
        ready = self.coordinator.ready
        api = ready["api"].partition("//")[2]
        self.coordinator.arguments = ["coordinator", *state, "--link", ready["link"], "--api", api]
        access = json.loads((self.folder / "cli.json").read_text())
        self.api = httpx.AsyncClient(
            base_url=access["api"], headers={"Authorization": f"Bearer {access['token']}"}, timeout=60
        )
        for name in names:
            await self.add_node(name)
        await self._add_image()

    async def add_node(self, name: str, *, cut: bool = False) -> None:
        proxy = self.proxies[name] = Proxy(self._nursery)
        await proxy.open()
        if cut:
            proxy.cut()
        token = (await self.api.post("/v1/join-tokens", json={"ttl_s": 600})).raise_for_status().json()["join"]
        common = ["node", "--name", name, "--state", str(self.folder / name), "--memory", "1G", "--log-level", "debug"]
        common += ["--advertise", f"127.0.0.1:{proxy.port}"]
        node = Daemon(
            [*common, "--listen", "127.0.0.1:0", "--join", token], self.folder / f"{name}.log", self.environment
        )
        self.nodes[name] = node
        # The ready line comes after the registration, which others act on: the proxy must lead somewhere before.
        await node.start()
        await self._aim(name)
        node.arguments = [*common, "--listen", "127.0.0.1:0"]

    async def restart(self, name: str) -> None:
        await self.nodes[name].start()
        await self._aim(name)

    async def _aim(self, name: str) -> None:
        log = self.nodes[name].log.read_text()
        self.proxies[name].target = int(re.findall(r"listening on 127\.0\.0\.1:(\d+)", log)[-1])

    async def _add_image(self) -> None:
        data = build("ticker").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        (await self.api.put(f"/v1/blobs/{digest}", content=data)).raise_for_status()
        manifest = {
            "format": 1,
            "name": "ticker",
            "kind": "linux",
            "arch": "riscv64",
            "files": [{"role": "kernel", "sha256": digest, "size": len(data)}],
            "cmdline": "",
            "min_memory": 16 * MIB,
            "created": "2026-01-01T00:00:00Z",
            "source": {},
        }
        (await self.api.post("/v1/images", json=manifest)).raise_for_status()

    # -- what tests ask and do

    async def run_guest(self, name: str, on: str) -> dict[str, Any]:
        wish = {"name": name, "image": "ticker", "memory": 32 * MIB, "cpus": 1, "networks": ["lan"], "on": on}
        operation = await self.finish(await self.api.post("/v1/guests", json=wish))
        assert operation["state"] == "succeeded", operation
        return await self.guest(name)

    async def guest(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.api.get(f"/v1/guests/{name}")).raise_for_status().json()
        return found

    async def migrate(self, name: str, to: str, **params: Any) -> str:
        """The operation's id."""
        answer = await self.api.post(f"/v1/guests/{name}/migrate", json={"to": to, **params})
        assert answer.status_code < 300, answer.text
        return str(_operation(answer)["id"])

    async def finish(self, answer: httpx.Response, within: float = 60.0) -> dict[str, Any]:
        assert answer.status_code < 300, answer.text
        return await self.wait_operation(str(_operation(answer)["id"]), within)

    async def wait_operation(self, ident: str, within: float = 60.0) -> dict[str, Any]:
        """Until it has ended; a coordinator that is being restarted is waited for."""
        with trio.fail_after(within):
            while True:
                try:
                    answer = await self.api.get(f"/v1/operations/{ident}", params={"wait": 1})
                    operation: dict[str, Any] = answer.raise_for_status().json()
                    if operation["state"] not in ("pending", "running"):
                        return operation
                except httpx.TransportError:
                    await trio.sleep(0.2)

    async def until(self, what: str, condition: Callable[[], Awaitable[bool]], within: float = 45.0) -> None:
        with trio.move_on_after(within):
            while not await condition():  # noqa: ASYNC110 - other processes have no events
                await trio.sleep(0.05)
            return
        raise AssertionError(f"not within {within:g} s: {what}")

    async def all_alive(self) -> bool:
        nodes = (await self.api.get("/v1/nodes")).raise_for_status().json()["nodes"]
        return all(node["state"] == "alive" for node in nodes)

    async def copies(self, guest: str) -> dict[str, str]:
        """State of every process of a guest, by node."""
        found = {}
        for name in self.nodes:
            folder = self.folder / name / "guests" / guest
            if (folder / "guest.sock").exists():
                try:
                    handle = await adopt(folder)
                except GuestGone:
                    continue
                found[name] = str(handle.info["state"])
                handle.close()
        return found

    async def log(self, guest: str, node: str) -> bytes:
        handle = await adopt(self.folder / node / "guests" / guest)
        try:
            data: bytes = (await handle.call("log"))["data"]
            return data
        finally:
            handle.close()

    def hold(self, point: str) -> None:
        (self.holds / f"{point}.reached").unlink(missing_ok=True)
        (self.holds / f"{point}.hold").touch()

    def release(self, point: str) -> None:
        (self.holds / f"{point}.hold").unlink(missing_ok=True)

    async def reached(self, point: str) -> None:
        async def there() -> bool:
            return (self.holds / f"{point}.reached").exists()

        await self.until(f"{point} is reached", there)

    async def close(self) -> None:
        await self.api.aclose()
        for node in self.nodes.values():
            await node.stop()
        await self.coordinator.stop()
        for folder in self.folder.glob("*/guests/*"):
            try:
                handle = await adopt(folder)
            except (GuestGone, OSError):
                continue
            handle.kill()
            handle.close()


def _operation(answer: httpx.Response) -> dict[str, Any]:
    value: dict[str, Any] = answer.json()
    inner: dict[str, Any] = value.get("operation", value)
    return inner


@asynccontextmanager
async def running(folder: Path, names: list[str]) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(folder, nursery)
        try:
            await cluster.start(names)
            yield cluster
        finally:
            with trio.CancelScope(shield=True):
                await cluster.close()
            nursery.cancel_scope.cancel()
