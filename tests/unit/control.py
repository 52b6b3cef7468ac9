"""A whole coordinator on loopback with an HTTP client, for tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import trio

from coordinator.config import Config
from coordinator.service import Ready, coordinator
from tests.unit.fake_agent import FakeAgent

MIB = 1 << 20


def config(folder: Path, **changes: Any) -> Config:
    base = Config(
        state=folder / "coordinator",
        cli_file=folder / "cli.json",
        link=("127.0.0.1", 0),
        api=("127.0.0.1", 0),
    )
    return replace(base, **changes)


class Silent:
    """A node's answer to a request: none, ever."""

    def __init__(self) -> None:
        self._asked = trio.Event()

    async def __call__(self, request: Any) -> Any:
        self._asked.set()
        await trio.sleep_forever()

    async def asked_for(self) -> None:
        with trio.fail_after(5):
            await self._asked.wait()


class Control:
    """People's side of a running coordinator."""

    def __init__(self, ready: Ready, folder: Path, http: httpx.AsyncClient) -> None:
        self.ready, self.folder, self.http = ready, folder, http

    async def get(self, path: str) -> Any:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any = None, *, status: int = 202) -> Any:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def delete(self, path: str, *, status: int = 200) -> Any:
        answer = await self.http.delete(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def ended(self, operation: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = await self.get(f"/v1/operations/{operation['id']}?wait=10")
        return found

    async def done(self, operation: dict[str, Any]) -> dict[str, Any]:
        found = await self.ended(operation)
        assert found["state"] == "succeeded", found
        return found

    async def node(self, name: str, **options: Any) -> FakeAgent:
        """A joined, not yet connected fake node."""
        agent = FakeAgent(self.ready, name, self.folder, **options)
        await agent.join((await self.post("/v1/join-tokens", status=201))["token"])
        return agent

    async def image(self, name: str = "tiny", **changes: Any) -> dict[str, Any]:
        """An image of one small kernel."""
        kernel = b"kernel of " + name.encode()
        sha256 = hashlib.sha256(kernel).hexdigest()
        answer = await self.http.put(f"/v1/blobs/{sha256}", content=kernel)
        assert answer.status_code == 201, answer.text
        manifest = {
            "format": 1,
            "name": name,
            "kind": "linux",
            "arch": "riscv64",
            "files": [{"role": "kernel", "sha256": sha256, "size": len(kernel)}],
            "cmdline": "console=ttyS0",
            "min_memory": 64 * MIB,
            **changes,
        }
        created: dict[str, Any] = await self.post("/v1/images", manifest, status=201)
        return created

    async def run(self, name: str, *, status: int = 202, **changes: Any) -> Any:
        body = {"name": name, "image": "tiny", "memory": 128 * MIB, "networks": ["lan"], **changes}
        return await self.post("/v1/guests", body, status=status)

    async def guest(self, name: str) -> Any:
        return await self.get(f"/v1/guests/{name}")

    async def until_guest(self, name: str, **want: Any) -> Any:
        """The guest once it is as wanted; looks again at each event."""
        return await self._until(f"/v1/guests/{name}", want)

    async def until_node(self, name: str, **want: Any) -> Any:
        return await self._until(f"/v1/nodes/{name}", want)

    async def _until(self, path: str, want: dict[str, Any]) -> Any:
        with trio.fail_after(10):
            async with self.http.stream("GET", "/v1/events?follow=1") as events:
                async for line in events.aiter_lines():
                    if line.startswith("data:"):
                        found = await self.get(path)
                        if all(found[k] == v for k, v in want.items()):
                            return found
        raise AssertionError("the event stream ended")

    async def events(self) -> list[dict[str, Any]]:
        text = (await self.http.get("/v1/events")).text
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@asynccontextmanager
async def running(folder: Path, **changes: Any) -> AsyncIterator[Control]:
    async with coordinator(config(folder, **changes)) as ready:
        headers = {"Authorization": f"Bearer {ready.token}"}
        async with httpx.AsyncClient(base_url=ready.api, headers=headers, timeout=20, trust_env=False) as http:
            yield Control(ready, folder, http)
