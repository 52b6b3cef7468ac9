"""The HTTP API as an async client for trio. Every method is one call; errors are :mod:`wherry.errors`.

async with Client(context.load()) as client:
    guest = await client.guest("web")
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import trio
from trio_websocket import HandshakeError, WebSocketConnection, open_websocket_url

from wherry import model, sse
from wherry.context import Target
from wherry.errors import ApiError, ApiUnreachable, WherryError
from wherry.image.store import Image, Library

T = TypeVar("T")
_CHUNK = 4 << 20  # one PUT of a blob: small enough that a broken one costs little


class Client:
    """One cluster. ``transport`` replaces the network in tests."""

    def __init__(self, target: Target, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.target = target
        headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
        self._http = httpx.AsyncClient(
            base_url=target.api,
            headers=headers,
            verify=target.verify(),
            transport=transport,
            timeout=30.0,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    # ---- plumbing ------------------------------------------------------------------------------------------------

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Raises :class:`ApiUnreachable` or :class:`ApiError`; any 2xx comes back."""
        response = await self._answer(method, path, **options)
        if response.is_error:
            raise api_error(response.status_code, response.content)
        return response

    async def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Whatever the coordinator answers. Raises :class:`ApiUnreachable`."""
        try:
            return await self._http.request(method, path, **options)
        except httpx.TimeoutException:
            raise ApiUnreachable(
                f"the coordinator at {self.target.api} did not answer in time ({method} {path})"
            ) from None
        except httpx.HTTPError as error:
            hint = "is it running? (wherry coordinator)"
            raise ApiUnreachable(
                f"no coordinator at {self.target.api}: {error or type(error).__name__}; {hint}"
            ) from None

    async def _json(self, method: str, path: str, **options: Any) -> Any:
        response = await self.request(method, path, **options)
        try:
            return response.json()
        except ValueError:
            raise ApiError(502, "invalid", f"{self.target.api}{path} answered no JSON; is it a coordinator?") from None

    async def _object(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        data = await self._json(method, path, **options)
        if not isinstance(data, dict):
            raise ApiError(502, "invalid", f"{path} answered {str(data)[:120]}")
        return data

    async def _list(self, cls: type[T], path: str, key: str) -> list[T]:
        data = await self._json("GET", path)
        items = data.get(key) if isinstance(data, dict) else None
        if not isinstance(items, list):
            raise ApiError(502, "invalid", f"{path} answered no list of {key}")
        return [model.parse(cls, item) for item in items]

    async def info(self) -> dict[str, Any]:
        data = await self._json("GET", "/v1/info")
        return data if isinstance(data, dict) else {}

    # ---- guests ------------------------------------------------------------------------------------------------

    async def guests(self) -> list[model.Guest]:
        return await self._list(model.Guest, "/v1/guests", "guests")

    async def guest(self, name: str) -> model.Guest:
        return model.parse(model.Guest, await self._json("GET", _guest(name)))

    async def stats(self) -> list[model.GuestStats]:
        """What every guest does, some seconds ago at most."""
        return await self._list(model.GuestStats, "/v1/stats", "stats")

    async def run(self, **request: Any) -> model.Operation:
        """``name image memory cpus networks on cmdline``; see POST /v1/guests."""
        return _operation(await self._json("POST", "/v1/guests", json=request))

    async def explain(self, **request: Any) -> dict[str, Any]:
        """Where the guest would run and why; nothing is started."""
        data = await self._json("POST", "/v1/guests", json={**request, "explain": True})
        placement = data.get("placement") if isinstance(data, dict) else None
        if not isinstance(placement, dict):
            raise ApiError(502, "invalid", f"explain answered {str(data)[:120]}")
        return placement

    async def guest_action(self, name: str, action: str, **request: Any) -> model.Operation:
        """``start``, ``stop`` or ``migrate``."""
        return _operation(await self._json("POST", f"{_guest(name)}/{action}", json=request))

    async def estimate(self, name: str, **request: Any) -> dict[str, Any]:
        """What a migration would take; nothing is moved. ``request`` as for ``migrate``."""
        data = await self._object("POST", f"{_guest(name)}/migrate", json={**request, "dry_run": True})
        found = data.get("estimate")
        if not isinstance(found, dict):
            raise ApiError(502, "invalid", f"the estimate is {str(data)[:120]}")
        return found

    async def migrations(self, name: str) -> list[dict[str, Any]]:
        """Reports of the guest's migrations that have ended, the newest first, without samples."""
        found = (await self._object("GET", f"{_guest(name)}/migrations")).get("migrations")
        return found if isinstance(found, list) else []

    async def migration(self, identity: str) -> dict[str, Any]:
        """The report of one, with samples over time."""
        return await self._object("GET", f"/v1/migrations/{quote(identity, safe='')}")

    async def remove_guest(self, name: str, *, force: bool = False) -> model.Operation:
        """``force``: it is not asked to power off first."""
        return _operation(await self._json("DELETE", _guest(name), params={"force": force}))

    async def exec(
        self, name: str, argv: Sequence[str], stdin: bytes = b"", timeout_s: float = 60.0
    ) -> model.ExecResult:
        """Run a command in the guest and wait for it."""
        body = {"argv": list(argv), "stdin_b64": base64.b64encode(stdin).decode(), "timeout_s": timeout_s}
        data = await self._json("POST", f"{_guest(name)}/exec", json=body, timeout=timeout_s + 15)
        try:
            out, err = (base64.b64decode(data[key]) for key in ("stdout_b64", "stderr_b64"))
            return model.ExecResult(int(data["exit_code"]), out, err, bool(data.get("truncated", False)))
        except (KeyError, TypeError, ValueError) as error:
            raise ApiError(502, "invalid", f"exec answered {str(data)[:120]}: {error}") from None

    async def log(self, name: str) -> bytes:
        """The kept part of the guest's console."""
        return (await self.request("GET", f"{_guest(name)}/log")).content

    @asynccontextmanager
    async def console(self, name: str) -> AsyncIterator[WebSocketConnection]:
        """Duplex bytes to the guest's console; begins with the kept output."""
        async with self._socket(f"{_guest(name)}/console") as socket:
            yield socket

    @asynccontextmanager
    async def debugger(self, name: str) -> AsyncIterator[WebSocketConnection]:
        """GDB's remote protocol with the guest, which stands still until it is told to go on or this ends."""
        async with self._socket(f"{_guest(name)}/debugger") as socket:
            yield socket

    @asynccontextmanager
    async def _socket(self, path: str) -> AsyncIterator[WebSocketConnection]:
        url = "ws" + self.target.api.removeprefix("http") + path
        verify = self.target.verify()
        context = None if isinstance(verify, bool) else verify
        headers = [(b"Authorization", f"Bearer {self.target.token}".encode())]
        try:
            async with open_websocket_url(url, ssl_context=context, extra_headers=headers) as socket:
                yield socket
        except HandshakeError as error:
            status = getattr(error, "status_code", 502)
            body = getattr(error, "body", b"") or b""
            raise api_error(status, body if isinstance(body, bytes) else b"") from None
        except OSError as error:
            raise ApiUnreachable(f"no coordinator at {self.target.api}: {error}") from None

    # ---- nodes, networks, tokens ----------------------------------------------------------------------------------

    async def nodes(self) -> list[model.Node]:
        return await self._list(model.Node, "/v1/nodes", "nodes")

    async def drain(self, name: str, **request: Any) -> model.Operation:
        """Cordon the node and move its guests away, ``parallel`` at a time."""
        return _operation(await self._json("POST", f"/v1/nodes/{quote(name, safe='')}/drain", json=request))

    async def migrate_all(self, node: str, **request: Any) -> model.Operation:
        """Move what runs on a node; ``request`` as for one guest, and ``parallel``."""
        return _operation(await self._json("POST", f"/v1/nodes/{quote(node, safe='')}/migrate", json=request))

    async def uncordon(self, name: str) -> model.Node:
        return model.parse(model.Node, await self._json("POST", f"/v1/nodes/{quote(name, safe='')}/uncordon"))

    async def remove_node(self, name: str) -> None:
        await self.request("DELETE", f"/v1/nodes/{quote(name, safe='')}")

    async def networks(self) -> list[model.Network]:
        return await self._list(model.Network, "/v1/networks", "networks")

    async def create_network(self, name: str, **given: Any) -> model.Network:
        """``subnet mtu stations storm proxy bound``; None: as the coordinator has it."""
        body = {"name": name, **{key: value for key, value in given.items() if value is not None}}
        return model.parse(model.Network, await self._json("POST", "/v1/networks", json=body))

    async def set_network(self, name: str, **wish: Any) -> dict[str, Any]:
        """``mtu stations storm proxy bound``; with ``waiting``: the nodes that could not be told."""
        return await self._object("PATCH", f"/v1/networks/{quote(name, safe='')}", json=wish)

    async def remove_network(self, name: str) -> None:
        await self.request("DELETE", f"/v1/networks/{quote(name, safe='')}")

    # ---- ports ---------------------------------------------------------------------------------------------------

    async def ports(self) -> list[model.Port]:
        return await self._list(model.Port, "/v1/ports", "ports")

    async def net(self) -> model.Net:
        """Ports, tunnels and switches of all nodes that answer, with their counters."""
        return model.parse(model.Net, await self._json("GET", "/v1/net"))

    async def rates(self) -> list[dict[str, Any]]:
        """``node to rate``; see GET /v1/net/rates."""
        data = await self._object("GET", "/v1/net/rates")
        return list(data.get("rates") or [])

    async def set_rate(self, node: str, to: str | None, rate: int | None) -> dict[str, Any]:
        """``rates waiting``; see PUT /v1/net/rates."""
        return await self._object("PUT", "/v1/net/rates", json={"node": node, "to": to, "rate": rate})

    async def trace(self, **query: Any) -> dict[str, Any]:
        """``node port every seconds``; see GET /v1/trace."""
        data = await self._json("GET", "/v1/trace", params=query)
        return data if isinstance(data, dict) else {}

    async def attach(self, **request: Any) -> model.Port:
        """``network kind local remote on`` and the port's settings; see POST /v1/ports."""
        return model.parse(model.Port, await self._json("POST", "/v1/ports", json=request))

    async def set_port(self, key: str, **wish: Any) -> dict[str, Any]:
        """``vlan native guard stations storm broadcast multicast unknown open``; see PATCH /v1/ports/{key}."""
        return await self._object("PATCH", f"/v1/ports/{quote(key, safe='')}", json=wish)

    async def release(self, **which: Any) -> list[str]:
        """``mac network`` or ``port``: the stations that were held and may move again."""
        answer = await self._object("POST", "/v1/ports/release", json=which)
        return [str(mac) for mac in answer.get("released") or []]

    async def detach(self, identity: str) -> None:
        await self.request("DELETE", f"/v1/ports/{quote(identity, safe='')}")

    async def ca(self) -> model.Ca:
        return model.parse(model.Ca, await self._json("GET", "/v1/ca"))

    async def rotate_ca(self) -> model.Ca:
        """Begin: a new CA signs, both are trusted."""
        return model.parse(model.Ca, await self._json("POST", "/v1/ca/rotate"))

    async def finish_ca(self, *, force: bool = False) -> model.Ca:
        """Trust the new CA alone; ``force`` drops the nodes that do not follow it."""
        return model.parse(model.Ca, await self._json("POST", "/v1/ca/finish", json={"force": force}))

    async def create_join_token(self, ttl_s: float) -> model.JoinToken:
        return model.parse(model.JoinToken, await self._json("POST", "/v1/join-tokens", json={"ttl_s": ttl_s}))

    async def create_api_token(self, name: str, role: str, ttl_s: float | None = None) -> model.ApiToken:
        body = {"name": name, "role": role, "ttl_s": ttl_s}
        return model.parse(model.ApiToken, await self._json("POST", "/v1/tokens", json=body))

    async def api_tokens(self) -> list[model.ApiToken]:
        return await self._list(model.ApiToken, "/v1/tokens", "tokens")

    async def revoke_api_token(self, ident: str) -> None:
        await self.request("DELETE", f"/v1/tokens/{quote(ident, safe='')}")

    async def join_tokens(self) -> list[model.JoinToken]:
        return await self._list(model.JoinToken, "/v1/join-tokens", "tokens")

    # ---- images ------------------------------------------------------------------------------------------------

    async def images(self) -> list[model.RemoteImage]:
        return await self._list(model.RemoteImage, "/v1/images", "images")

    async def remove_image(self, name: str) -> None:
        await self.request("DELETE", f"/v1/images/{quote(name, safe='')}")

    async def push(self, library: Library, image: Image, report: Callable[[int, int], None]) -> None:
        """Send what the coordinator lacks, then the manifest. ``report(done, total)`` in bytes."""
        total, done = image.size, 0
        for file in image.files:
            path = library.blob(file.sha256)
            have = await self._blob_offset(file.sha256, file.size)
            report(done + have, total)
            with path.open("rb") as source:
                source.seek(have)
                while have < file.size:
                    chunk = source.read(_CHUNK)
                    if not chunk:
                        raise WherryError(
                            f"{path} is shorter than its {file.size} bytes; run: wherry image list --verify"
                        )
                    span = f"bytes {have}-{have + len(chunk) - 1}/{file.size}"
                    await self.request(
                        "PUT", f"/v1/blobs/{file.sha256}", content=chunk, headers={"Content-Range": span}
                    )
                    have += len(chunk)
                    report(done + have, total)
            done += file.size
        await self.request(
            "POST", "/v1/images", content=image.canonical(), headers={"Content-Type": "application/json"}
        )

    async def _blob_offset(self, sha256: str, size: int) -> int:
        """How many bytes of a blob are there already; a partial upload says so in ``Upload-Offset``."""
        response = await self._answer("HEAD", f"/v1/blobs/{sha256}")
        if response.status_code == httpx.codes.OK:
            return size
        offset = response.headers.get("Upload-Offset", "0")
        return min(int(offset), size) if offset.isdigit() else 0

    # ---- operations and events ------------------------------------------------------------------------------------

    async def operations(self) -> list[model.Operation]:
        return await self._list(model.Operation, "/v1/operations", "operations")

    async def operation(self, identity: str, wait_s: float = 0.0) -> model.Operation:
        path = f"/v1/operations/{quote(identity, safe='')}"
        return _operation(await self._json("GET", path, params={"wait": wait_s} if wait_s else {}))

    async def cancel(self, identity: str) -> model.Operation:
        return _operation(
            await self._json("POST", f"/v1/operations/{quote(identity, safe='')}", json={"state": "cancelled"})
        )

    async def finish(
        self, operation: model.Operation, report: Callable[[model.Operation], None] | None = None, poll_s: float = 0.1
    ) -> model.Operation:
        """Follow an operation to its end. Raises :class:`ApiError` with its own words when it failed."""
        while not operation.finished:
            await trio.sleep(poll_s)
            operation = await self.operation(operation.id)
            if report is not None:
                report(operation)
        if operation.state != "succeeded":
            error = operation.error or {}
            text = str(error.get("message") or operation.state)
            what = f"{operation.kind} {operation.subject}".strip()
            raise ApiError(409, str(error.get("code", operation.state)), f"{what}: {text}")
        return operation

    async def events(self, since: int = 0, *, follow: bool = False) -> AsyncIterator[model.Event]:
        """Events with an id above ``since``; with ``follow`` it goes on until the connection ends."""
        parser = sse.Parser()
        params: dict[str, Any] = {"since": since, "follow": 1 if follow else 0}
        headers = {"Accept": "text/event-stream"}
        try:
            async with self._http.stream(
                "GET", "/v1/events", params=params, headers=headers, timeout=httpx.Timeout(30.0, read=None)
            ) as response:
                if response.is_error:
                    raise api_error(response.status_code, await response.aread())
                async for chunk in response.aiter_bytes():
                    for item in parser.feed(chunk):
                        yield model.parse(model.Event, json.loads(item.data))
        except ValueError as error:
            raise ApiError(502, "invalid", f"/v1/events sent no JSON: {error}") from None
        except httpx.HTTPError as error:
            raise ApiUnreachable(f"the event stream from {self.target.api} broke: {error}") from None


def api_error(status: int, body: bytes) -> ApiError:
    """The error that a response tells, or its status where it tells none."""
    try:
        error = json.loads(body)["error"]
        return ApiError(
            status, str(error.get("code", "")), str(error.get("message", "")), str(error.get("field") or "")
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        hint = "; is the token right? (wherry doctor)" if status in (401, 403) else ""
        return ApiError(status, "", f"the coordinator answered {status}{hint}")


def _guest(name: str) -> str:
    return f"/v1/guests/{quote(name, safe='')}"


def _operation(data: Any) -> model.Operation:
    return model.parse(model.Operation, data)
