"""A headless Chromium driven over its DevTools protocol: open a page, run JavaScript, take a picture."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_QUIET = "--disable-background-networking --disable-component-update --disable-sync --disable-quic --no-first-run"
_LISTENING = re.compile(rb"ws://127\.0\.0\.1:(\d+)/")


class Page:
    """One tab. Methods raise RuntimeError with the browser's own words."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(await self._socket.get_message())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    async def until(self, condition: str, seconds: float = 20.0) -> None:
        """Wait in the page until a JavaScript condition holds."""
        script = (
            "new Promise((done, fail) => { const end = Date.now() + %d; const look = () => { if (%s) done(true);"
            " else if (Date.now() > end) fail(document.body.innerText); else setTimeout(look, 50); }; look(); })"
        )
        await self.evaluate(script % (int(seconds * 1000), condition))

    async def picture(self, path: Path) -> None:
        data = await self.call("Page.captureScreenshot", format="png")
        await trio.Path(path).write_bytes(base64.b64decode(data["data"]))


@asynccontextmanager
async def page(url: str, profile: Path) -> AsyncIterator[Page]:
    """A browser of its own with ``url`` open; it is gone afterwards."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", *_QUIET.split(), "--window-size=1200,800"]
    process = await trio.lowlevel.open_process(
        [CHROMIUM, *flags, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        with trio.fail_after(60):
            port = await _port(process)
        async with httpx.AsyncClient(trust_env=False) as client:
            tabs = (await client.get(f"http://127.0.0.1:{port}/json/list")).json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with open_websocket_url(address, max_message_size=64 << 20) as socket:
            tab = Page(socket)
            await tab.call("Page.enable")
            await tab.call("Page.navigate", url=url)
            await tab.until("document.readyState === 'complete' && location.href !== 'about:blank'")
            yield tab
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _port(process: trio.Process) -> int:
    assert process.stderr is not None
    said = b""
    while chunk := await process.stderr.receive_some(4096):
        said += chunk
        if found := _LISTENING.search(said):
            return int(found[1])
    raise RuntimeError(f"chromium ended: {said[-400:]!r}")
