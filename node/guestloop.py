"""The loop of a guest process: its clients and its machine behind one selector.

One thread, nothing blocks but the machine's own pause. A client starts in "control" (requests and answers), and by its
own request becomes "raw" (bytes of one channel both ways) or "watch" (events only). Back-pressure: a client that does
not read leaves its output in the machine's ring, where a console's oldest bytes go and the agent channel's make the
guest wait (for the slowest reader; with none attached the oldest go there too); one that writes more than the guest
takes is not read from until it does.
"""

from __future__ import annotations

import array
import contextlib
import os
import selectors
import signal
import socket

import msgpack

from node.core import CoreError
from node.machine import CH_AGENT, CH_UART, EV_CHANNEL, EV_CRASH, EV_OUTPUT, EV_POWEROFF, EV_REBOOT, Event, Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_REQUEST = 9 << 20
MAX_CLIENTS = 64
SEND_CHUNK = 256 * 1024
OUT_LIMIT = 256 * 1024  # raw output queued for one client before the machine's ring keeps it instead
INPUT_RETRY_S = 0.005  # the core has no "input drained" event, so what a channel did not take is offered again
INVALID = -2
_END_REASONS = {EV_POWEROFF: "poweroff", EV_REBOOT: "reboot", EV_CRASH: "crash"}


class BadRequest(Exception):
    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(message)
        self.status, self.field, self.message = status, field, message


class Client:
    """One connection. ``mode``: "control", "raw" (attached to ``channel`` at ``offset``) or "watch"."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.mode = "control"
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.fds: list[int] = []  # go with the first byte of the outbox
        self.channel = CH_UART
        self.offset = 0
        self.greeting = b""  # what goes out right behind the answer to attach
        self.mask = selectors.EVENT_READ
        self.finished = False  # the other side sends no more


class Loop:
    """Serves ``listener`` until :meth:`finish`; ``end`` then says why. Subclasses answer requests (``op_*``)."""

    def __init__(self, machine: Machine, listener: socket.socket, debuggers: socket.socket) -> None:
        self.machine = machine
        self.state = "loaded"
        self.end: dict[str, Any] | None = None
        self._listener = listener
        self._debuggers = debuggers
        self._selector = selectors.DefaultSelector()
        self._clients: dict[socket.socket, Client] = {}
        self._retry = False

    def run(self) -> None:
        wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_w)
        self._selector.register(wake_r, selectors.EVENT_READ, "signal")
        self._selector.register(self._listener, selectors.EVENT_READ, "listener")
        self._selector.register(self._debuggers, selectors.EVENT_READ, "debugger")
        self._selector.register(self.machine.event_fd, selectors.EVENT_READ, "machine")
        while self.end is None:
            ready = self._selector.select(INPUT_RETRY_S if self._retry else None)
            for key, mask in ready:
                if key.data == "signal":
                    os.read(wake_r, 64)
                    self.finish("stopped", text="SIGTERM")
                elif key.data == "listener":
                    self._accept()
                elif key.data == "debugger":
                    self._accept_debugger()
                elif key.data == "machine":
                    self._machine_events()
                else:
                    self._client_ready(key.data, mask)
            if self._retry:
                self._retry = False
                for client in list(self._clients.values()):
                    if client.mode == "raw" and client.inbox:
                        self._guard(client, self._feed)

    def _guard(self, client: Client, act: Callable[[Client], None]) -> None:
        """Whatever goes wrong between us and one client ends that client only."""
        try:
            act(client)
        except (OSError, ValueError, CoreError, msgpack.UnpackException):
            self._drop(client)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= MAX_CLIENTS:
            sock.close()
            return
        sock.setblocking(False)
        client = Client(sock)
        self._clients[sock] = client
        self._selector.register(sock, client.mask, client)

    def _accept_debugger(self) -> None:
        """The core serves it in a thread of its own. One that may not come in is closed, which GDB shows."""
        try:
            sock, _ = self._debuggers.accept()
        except OSError:
            return
        try:
            if self.state != "running":
                raise BadRequest(INVALID, "state", self.state)
            self.machine.debug(sock.fileno())
            sock.detach()
        except (BadRequest, CoreError):
            sock.close()

    def _drop(self, client: Client) -> None:
        if self._clients.pop(client.sock, None) is not None:
            if client.mask:
                self._selector.unregister(client.sock)
            client.sock.close()
            if client.mode == "raw" and client.channel == CH_AGENT:
                self._consumed()

    def _client_ready(self, client: Client, mask: int) -> None:
        if client.sock not in self._clients:
            return  # dropped by an earlier event of the same turn
        if mask & selectors.EVENT_READ:
            self._guard(client, self._receive)
        if mask & selectors.EVENT_WRITE and client.sock in self._clients:
            self._guard(client, self._send)

    def _receive(self, client: Client) -> None:
        data = client.sock.recv(65536)
        if not data:
            if client.mode != "raw" or not client.inbox:
                self._drop(client)
                return
            client.finished = True
        if client.mode == "watch":
            return  # events go one way; what a watcher sends is ignored
        client.inbox += data
        if client.mode == "raw":
            self._feed(client)
            return
        while len(client.inbox) >= 4:
            length = int.from_bytes(client.inbox[:4], "big")
            if length > MAX_REQUEST:
                raise ValueError("request too long")
            if len(client.inbox) < 4 + length:
                return
            body = bytes(client.inbox[4 : 4 + length])
            del client.inbox[: 4 + length]
            self._request(client, body)
            if client.mode != "control":
                if client.inbox and client.mode == "raw":
                    self._feed(client)
                return

    def _update(self, client: Client) -> None:
        """Ask the selector for what this client needs now."""
        want = 0
        if not client.finished and not (client.mode == "raw" and client.inbox):
            want |= selectors.EVENT_READ
        if client.outbox:
            want |= selectors.EVENT_WRITE
        if client.sock not in self._clients or want == client.mask:
            return
        if client.mask == 0:
            self._selector.register(client.sock, want, client)
        elif want == 0:
            self._selector.unregister(client.sock)
        else:
            self._selector.modify(client.sock, want, client)
        client.mask = want

    def _send(self, client: Client) -> None:
        while client.outbox:
            chunk = bytes(client.outbox[:SEND_CHUNK])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", client.fds))] if client.fds else []
            try:
                sent = client.sock.sendmsg([chunk], ancillary)
            except BlockingIOError:
                break
            client.fds = []
            del client.outbox[:sent]
        if client.mode == "raw" and not client.outbox:
            self._pump(client)
        self._update(client)

    # -- raw channels

    def _feed(self, client: Client) -> None:
        """Offer a client's bytes to its channel. While some are left nothing more is read from the client."""
        if client.inbox and self.state in ("running", "loaded"):
            taken = self.machine.channel_write(client.channel, bytes(client.inbox[:65536]))
            del client.inbox[:taken]
        if client.inbox:
            self._retry = True
        elif client.finished:
            self._drop(client)
            return
        self._update(client)

    def _pump(self, client: Client) -> None:
        """Move the channel's output to a client, as much as may be queued."""
        while len(client.outbox) < OUT_LIMIT:
            client.offset, data = self.machine.channel_read(client.channel, client.offset)
            if not data:
                break
            client.outbox += data
        if client.channel == CH_AGENT:
            self._consumed()
        self._update(client)

    def _consumed(self) -> None:
        """Tell the machine how far the slowest reader of the agent's channel is."""
        readers = [c.offset for c in self._clients.values() if c.mode == "raw" and c.channel == CH_AGENT]
        self.machine.channel_consumed(CH_AGENT, min(readers, default=None))

    # -- machine events

    def _machine_events(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.machine.event_fd)
        while (event := self.machine.next_event()) is not None:
            self._machine_event(event)

    def _machine_event(self, event: Event) -> None:
        if event.kind == EV_OUTPUT:
            for client in list(self._clients.values()):
                if client.mode == "raw" and client.channel == event.arg:
                    self._guard(client, self._pump)
        elif event.kind == EV_CHANNEL:
            self.tell({"event": "channel", "channel": event.arg >> 1, "open": bool(event.arg & 1)})
        elif event.kind in _END_REASONS:
            self.finish(_END_REASONS[event.kind], code=event.arg, text=event.text)

    def tell(self, event: dict[str, Any]) -> None:
        body = msgpack.packb(event)
        for client in list(self._clients.values()):
            if client.mode == "watch":
                client.outbox += len(body).to_bytes(4, "big") + body
                if len(client.outbox) > OUT_LIMIT:
                    self._drop(client)  # it does not read: its agent is stuck and will connect again
                else:
                    self._guard(client, self._send)

    def finish(self, reason: str, code: int = 0, text: str = "") -> None:
        if self.end is None:
            self.end = {"reason": reason, "code": code, "text": text}

    def flush(self, seconds: float) -> None:
        """Give every client what it can take in a moment; a stuck one does not hold us up longer."""
        for client in list(self._clients.values()):
            if client.mode == "raw":
                self._guard(client, self._pump)
            if client.sock in self._clients:
                client.sock.settimeout(seconds)
                self._guard(client, self._send)

    # -- requests

    def _request(self, client: Client, body: bytes) -> None:
        answer: dict[str, Any]
        try:
            request = msgpack.unpackb(body, max_map_len=64, max_array_len=64)
            if not isinstance(request, dict) or not isinstance(request.get("op"), str):
                raise BadRequest(INVALID, "op", "a request is a map with a text op")
            handler = getattr(self, "op_" + request["op"], None)
            if handler is None:
                raise BadRequest(INVALID, "op", f"unknown op {request['op']!r}")
            answer = {"ok": True, **handler(client, request)}
        except (BadRequest, CoreError) as error:
            answer = {"ok": False, "status": error.status, "field": error.field, "message": error.message}
        packed = msgpack.packb(answer)
        client.outbox += len(packed).to_bytes(4, "big") + packed + client.greeting
        client.greeting = b""
        self._send(client)
