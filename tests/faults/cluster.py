"""A whole cluster of real daemons on loopback, for fault tests: killed, restarted, held at a phase, cut apart.

:class:`Cluster` is one coordinator and its nodes, each a process of its own in a folder of the test; nodes are dialled
through a :class:`Proxy` each, and dial the coordinator through another, so that every path can be cut. Guests are small
programs (tests/guest/programs) that boot in no time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from node.guest import GuestGone, adopt
from tests.faults.processes import Daemon, Proxy, free_port
from tests.guest.programs import build
from wherry.demo.daemons import guest_processes

MIB = 1 << 20


class Cluster:
    """Made by :func:`running`. ``nodes`` by name; ``proxies`` lead to them, ``controls`` to the coordinator.
    ``direct``: nodes dial each other without proxies, which carry no tunnels."""

    def __init__(self, folder: Path, nursery: trio.Nursery, *, direct: bool = False) -> None:
        self.direct = direct
        self.folder = folder
        self.holds = folder / "holds"
        self.holds.mkdir(parents=True)
        self.environment = {"WHERRY_HOLD_DIR": str(self.holds), "WHERRY_HOME": str(folder)}
        self.nodes: dict[str, Daemon] = {}
        self.proxies: dict[str, Proxy] = {}
        self.controls: dict[str, Proxy] = {}
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
        await self.add_image("ticker")

    async def add_node(self, name: str, *, cut: bool = False) -> None:
        """``cut``: no other node can dial it from the beginning."""
        port = free_port()
        control = int(self.coordinator.ready["link"].rpartition(":")[2])
        self.proxies[name] = Proxy(self._nursery, port)
        self.controls[name] = Proxy(self._nursery, control)
        for proxy in (self.proxies[name], self.controls[name]):
            await proxy.open()
        if cut:
            self.proxies[name].cut()
        token = (await self.api.post("/v1/join-tokens", json={"ttl_s": 600})).raise_for_status().json()["join"]
        join = f"{token.rpartition('@')[0]}@127.0.0.1:{self.controls[name].port}"
        arguments = ["node", "--name", name, "--state", str(self.folder / name), "--listen", f"127.0.0.1:{port}"]
        dialled = port if self.direct else self.proxies[name].port
        arguments += ["--advertise", f"127.0.0.1:{dialled}", "--memory", "1G", "--log-level", "debug"]
        node = self.nodes[name] = Daemon([*arguments, "--join", join], self.folder / f"{name}.log", self.environment)
        await node.start()
        node.arguments = arguments

    async def add_image(self, program: str, *, disk: bytes = b"") -> None:
        """An image of one of tests/guest/programs, by its name; with a disk of this content."""
        files = []
        for role, data in (("kernel", build(program).read_bytes()), ("disk", disk)):
            if data:
                digest = hashlib.sha256(data).hexdigest()
                (await self.api.put(f"/v1/blobs/{digest}", content=data)).raise_for_status()
                files.append({"role": role, "sha256": digest, "size": len(data)})
        manifest = {
            "format": 1,
            "name": program,
            "kind": "linux",
            "arch": "riscv64",
            "files": files,
            "cmdline": "",
            "min_memory": 16 * MIB,
            "created": 0,
            "source": {},
        }
        (await self.api.post("/v1/images", json=manifest)).raise_for_status()

    # -- what tests ask and do

    async def run_guest(self, name: str, on: str, *, image: str = "ticker") -> dict[str, Any]:
        wish = {"name": name, "image": image, "memory": 32 * MIB, "cpus": 1, "networks": ["lan"], "on": on}
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

    async def node_state(self, name: str) -> str:
        nodes = (await self.api.get("/v1/nodes")).raise_for_status().json()["nodes"]
        return next(str(node["state"]) for node in nodes if node["name"] == name)

    async def all_alive(self) -> bool:
        return all([await self.node_state(name) == "alive" for name in self.nodes])

    async def unfinished(self) -> list[dict[str, Any]]:
        """Operations that are under way."""
        found = (await self.api.get("/v1/operations")).raise_for_status().json()["operations"]
        return [operation for operation in found if operation["state"] in ("pending", "running")]

    def processes(self, guest: str) -> dict[str, int]:
        """Process ids of a guest by node, as the host sees them."""
        found = guest_processes(self.folder).items()
        return {path.parent.parent.name: pid for pid, path in found if path.name == guest}

    def folders(self, guest: str) -> list[str]:
        """Nodes that keep something of a guest."""
        return sorted({path.parent.parent.name for path in self.folder.glob(f"*/guests/{guest}*")})

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
async def running(folder: Path, names: list[str], *, direct: bool = False) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(folder, nursery, direct=direct)
        try:
            await cluster.start(names)
            yield cluster
        finally:
            with trio.CancelScope(shield=True):
                await cluster.close()
            nursery.cancel_scope.cancel()
