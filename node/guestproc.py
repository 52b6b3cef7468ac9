"""A guest process: one machine, one control socket, one loop. ``python -P -m node.guestproc FOLDER``.

Theory of operation. The agent writes ``FOLDER/spec.msgpack`` and starts this process in a session of its own. It
takes ``FOLDER/guest.lock`` (so that one guest never has two processes), makes the machine, binds ``guest.sock``, enters
the sandbox, says one msgpack map on standard output - ``{"ok": true, "pid": ...}`` or what was wrong - and then serves.
From then on it opens no file: the reason it ends is written through a descriptor opened before. It outlives its agent;
the next agent connects to ``guest.sock`` and finds everything in the answer to ``hello``.

Control: u32 BE length + msgpack map each way, answers in the order of the requests. ``attach`` turns the connection
into raw bytes of one channel, ``watch`` into one-way events. Who may connect is decided by the folder's mode (0700).

``gdb.sock`` beside it takes GDB's remote protocol, one debugger at a time. While it is there the guest can't be paused,
and so not moved.

Promises: one bad client costs that client its connection, never the guest; a full socket makes its client slow, never
the machine. Limits: requests of at most 9 MiB (a saved state is the largest), 64 clients.

Only ``node.core``, its guest modules, msgpack and the standard library are imported: every guest pays for each import.
SIGINT is ignored (Ctrl-C in the agent's terminal is not meant for guests), SIGTERM ends the guest.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time

import msgpack

from node.core import CoreError
from node.guestloop import INVALID, BadRequest, Client, Loop
from node.guestsetup import SetupError, listen, make_machine, write_exit
from node.machine import CH_UART, Machine, enter_sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHANNELS = 3
DEBUG_SOCKET = "gdb.sock"
HISTORY = 64 * 1024  # of console output that a migration takes along, as much as the machine keeps
SAVE_FORMAT = 1
MAX_WARM_MS = 1000
MAX_THROTTLE = 99  # percent
MAX_LEASE_MS = 60_000
UNSUPPORTED = -13
_STATE_ERROR = -4
_EXISTS = -12


class GuestProcess(Loop):
    """The machine's owner. State: "incoming" → "loaded" → "running" ⇄ "paused" → "ended"."""

    def __init__(
        self,
        machine: Machine,
        spec: dict[str, Any],
        listener: socket.socket,
        debuggers: socket.socket,
        fds: dict[str, int],
    ) -> None:
        super().__init__(machine, listener, debuggers)
        self.spec = spec
        self.generation = int(spec["generation"])
        self.state = "incoming" if spec["role"] == "incoming" else "loaded"
        self.missing: list[str] = []
        self.started = 0.0
        self.history = b""  # console output from before a migration
        self._fds = fds

    def leave(self) -> None:
        """Stop the machine, write down why, tell watchers, flush what clients can still take."""
        assert self.end is not None
        if self.state in ("running", "paused"):
            self.machine.stop()
        self.state = "ended"
        write_exit(self._fds["exit"], self.generation, self.end)
        kept = self._kept(CH_UART)
        os.ftruncate(self._fds["console"], 0)
        os.pwrite(self._fds["console"], kept, 0)
        self.tell({"event": "end", **self.end})
        self.flush(0.2)

    def op_hello(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """Who this is, and the descriptors of RAM, share pages and rings, in the order of the answer's ``fds``."""
        fds = {"ram": self.machine.ram_fd, "share": self.machine.share_fd, "wanted": self.machine.wanted_fd}
        for index in range(len(self.spec["spec"]["nics"])):
            nic = self.machine.nic_fds(index)
            fds |= {f"nic{index}.ring": nic.ring, f"nic{index}.to_switch": nic.to_switch}
            fds[f"nic{index}.to_guest"] = nic.to_guest
        if "disk" in self.spec["files"]:
            fds["disk0"] = self.machine.disk_share_fd(0)
        client.fds = list(fds.values())
        return {**self.op_status(client, request), "fds": list(fds)}

    def op_status(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "guest": self.spec["spec"]["guest"],
            "state": self.state,
            "generation": self.generation,
            "started": self.started,
            "missing": self.missing,
            "debugger": self.machine.debugged,
            "throttle": self.machine.throttled,
            "stats": self.machine.stats(),
        }

    def op_start(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """First instructions. ``generation``: the number under which it runs from now on."""
        self._need("loaded")
        generation = request.get("generation", self.generation)
        if not isinstance(generation, int) or generation < self.generation:
            raise BadRequest(INVALID, "generation", f"{generation!r} is older than {self.generation}")
        self.machine.start()  # gives no time, so the moment after it is the honest upper bound of a blackout
        self.generation = generation
        self.state = "running"
        self.started = time.time()
        return {"at": self.started}

    def op_pause(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        self._need("running")
        if self.machine.debugged:
            # It would lose its guest half way, and the guest run on at another place while somebody looks at it here.
            raise BadRequest(_STATE_ERROR, "debugger", "a debugger is attached to the guest: detach it first")
        when = self.machine.pause()
        self.state = "paused"
        return {"at": _real_time(when)}

    def op_resume(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        self._need("paused")
        when = self.machine.resume()
        self.state = "running"
        return {"at": _real_time(when)}

    def op_throttle(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """Rest ``percent`` of the time, for ``lease_ms`` or until asked again: a migration must catch up."""
        percent, lease_ms = request.get("percent"), request.get("lease_ms")
        if not isinstance(percent, int) or not 0 <= percent <= MAX_THROTTLE:
            raise BadRequest(INVALID, "percent", f"{percent!r} is not 0..{MAX_THROTTLE}")
        if not isinstance(lease_ms, int) or not 0 <= lease_ms <= MAX_LEASE_MS:
            raise BadRequest(INVALID, "lease_ms", f"{lease_ms!r} is not 0..{MAX_LEASE_MS}")
        self.machine.throttle(percent, lease_ms)
        return {}

    def op_save(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """Everything but RAM, and the kept console: it belongs to the guest, not to the process."""
        self._need("paused")
        return {"state": msgpack.packb([SAVE_FORMAT, self.machine.save(), self._kept(CH_UART)])}

    def op_recent(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """Post-copy: bitmaps of what would be needed first elsewhere: by ``load``, soon, later."""
        return {"pages": [self.machine.recent_pages(kind) for kind in range(3)]}

    def op_expect(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """Post-copy, before ``load``: the pages of ``absent`` will be brought by the agent while the guest runs."""
        self._need("incoming")
        absent = request.get("absent")
        if not isinstance(absent, bytes):
            raise BadRequest(INVALID, "absent", "bytes are wanted")
        self.machine.expect_pages(absent)
        return {}

    def op_load(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        self._need("incoming")
        state = request.get("state")
        if not isinstance(state, bytes):
            raise BadRequest(INVALID, "state", "bytes are wanted")
        try:
            version, machine, history = msgpack.unpackb(state)
            if version != SAVE_FORMAT or not isinstance(machine, bytes) or not isinstance(history, bytes):
                raise BadRequest(UNSUPPORTED, "state", f"format {version!r}, {SAVE_FORMAT} is known")
        except (ValueError, TypeError, msgpack.UnpackException):
            raise BadRequest(INVALID, "state", "it is damaged") from None
        self.machine.load(machine)
        self.history = history[-HISTORY:]
        self.state = "loaded"
        return {}

    def op_hot(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """Warm start: what the translator found hot, for ``warm`` of the process that goes on elsewhere."""
        return {"hot": self.machine.hot_list()}

    def op_warm(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """Translate what ``hot`` names, for ``most_ms`` at most. Only while it comes in: later somebody would wait."""
        self._need("incoming")
        hot, most_ms = request.get("hot"), request.get("most_ms")
        if not isinstance(hot, bytes):
            raise BadRequest(INVALID, "hot", "bytes are wanted")
        if not isinstance(most_ms, int) or not 0 <= most_ms <= MAX_WARM_MS:
            raise BadRequest(INVALID, "most_ms", f"{most_ms!r} is not 0..{MAX_WARM_MS}")
        return {"blocks": self.machine.warm(hot, most_ms)}

    def op_stop(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """End for good; the process leaves after this answer."""
        self.finish("stopped", text=str(request.get("reason", ""))[:200])
        return {}

    def op_attach(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        """Raw bytes from here on. ``kept`` (default true): begin with the kept output, else with what comes next."""
        channel = request.get("channel")
        if not isinstance(channel, int) or not 0 <= channel < CHANNELS:
            raise BadRequest(INVALID, "channel", f"{channel!r} is not 0..{CHANNELS - 1}")
        client.mode = "raw"
        client.channel = channel
        kept = bool(request.get("kept", True))
        client.offset = 0 if kept else self._end_of(channel)
        client.greeting = self.history if kept and channel == CH_UART else b""
        self._consumed()
        return {}

    def op_watch(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        client.mode = "watch"
        return {}

    def op_log(self, client: Client, request: dict[str, Any]) -> dict[str, Any]:
        return {"data": self._kept(CH_UART)}

    def _need(self, state: str) -> None:
        if self.state != state:
            raise BadRequest(_STATE_ERROR, "state", f"the guest is {self.state}, this needs it {state}")

    def _kept(self, channel: int) -> bytes:
        parts = [self.history] if channel == CH_UART else []
        offset = 0
        while True:
            offset, data = self.machine.channel_read(channel, offset)
            if not data:
                return b"".join(parts)[-HISTORY:]
            parts.append(data)

    def _end_of(self, channel: int) -> int:
        offset = 0
        while True:
            offset, data = self.machine.channel_read(channel, offset)
            if not data:
                return offset


def _real_time(monotonic_ns: int) -> float:
    """CLOCK_REALTIME of a CLOCK_MONOTONIC moment of this host."""
    return (time.time_ns() - time.monotonic_ns() + monotonic_ns) / 1e9


def set_up(folder: str) -> GuestProcess:
    def keep(name: str) -> int:
        return os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    fds = {"lock": keep("guest.lock"), "exit": keep("exit.json"), "console": keep("console.log")}
    try:
        fcntl.flock(fds["lock"], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SetupError(_EXISTS, "guest", "another process of this guest runs") from None
    os.ftruncate(fds["exit"], 0)
    try:
        with open(os.path.join(folder, "spec.msgpack"), "rb") as file:
            spec: dict[str, Any] = msgpack.unpackb(file.read())
        machine = make_machine(spec)
        process = GuestProcess(machine, spec, listen(folder), listen(folder, DEBUG_SOCKET), fds)
        process.missing = enter_sandbox()
    except (CoreError, SetupError) as error:
        end = {"reason": "setup", "field": error.field, "text": error.message}
        write_exit(fds["exit"], 0, end)
        raise
    return process


def _say(answer: dict[str, Any]) -> None:
    """The one line on standard output, which the agent waits for; then nobody may hang on that pipe any more."""
    os.write(1, msgpack.packb(answer))
    os.dup2(2, 1)


def main(folder: str) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)  # the wake-up descriptor carries it into the loop
    try:
        process = set_up(folder)
    except (CoreError, SetupError) as error:
        _say({"ok": False, "status": error.status, "field": error.field, "message": error.message})
        return 1
    _say({"ok": True, "pid": os.getpid(), "missing": process.missing})
    process.run()
    process.leave()
    process.machine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
