"""The agent's handle on one guest process: spawn it detached, adopt it again, ask it things, notice its end.

Who owns what: the process owns the machine; this handle owns duplicates of the descriptors that ``hello`` passed (RAM,
share page, rings), one control connection and a pidfd. Closing the handle leaves the process running - that is how an
agent stops. The end of the process is seen on the pidfd, the reason is read from ``exit.json``.

Errors: CoreError (the process refused, typed as in its answer), GuestGone (it ended or the connection broke).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import trio

from node.core import CoreHostError, error_for
from node.ramview import RamView

_MAX_ANSWER = 16 << 20
_MAX_FDS = 3 + 3 * 8 + 1
_SPAWN_TIMEOUT = 60.0


class GuestGone(Exception):
    """The guest process has ended, or nothing answers at its socket."""


class Exit(NamedTuple):
    """``reason``: poweroff, reboot, crash, stopped, setup, or killed (by a signal: nothing was written)."""

    reason: str
    code: int = 0
    text: str = ""


class GuestHandle:
    """Made by :func:`spawn` or :func:`adopt`. ``info`` is the answer to hello, ``fds`` the named descriptors."""

    def __init__(self, folder: Path, sock: trio.socket.SocketType, info: dict[str, Any], fds: dict[str, int]) -> None:
        self.folder = folder
        self.info = info
        self.fds = fds
        self.pid = int(info["pid"])
        self._sock = sock
        self._lock = trio.Lock()
        self._pidfd = -1
        self._broken = False

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """One request to the process. A cancelled call leaves the connection out of step, so it is closed then."""
        async with self._lock:
            if self._broken:
                await self._reconnect()
            try:
                answer, _ = await _exchange(self._sock, {"op": op, **arguments})
            except BaseException:
                self._broken = True
                raise
        if not answer.get("ok"):
            raise error_for(int(answer["status"]), str(answer["field"]), str(answer["message"]))
        return answer

    async def _reconnect(self) -> None:
        self._sock.close()
        self._sock = await _dial(self.folder)
        self._broken = False

    async def attach(self, channel: int, *, kept: bool = True) -> trio.SocketStream:
        """Raw bytes of a channel, both ways, on a connection of its own."""
        sock = await _dial(self.folder)
        try:
            answer, _ = await _exchange(sock, {"op": "attach", "channel": channel, "kept": kept})
            if not answer.get("ok"):
                raise error_for(int(answer["status"]), str(answer["field"]), str(answer["message"]))
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    async def debug(self) -> trio.SocketStream:
        """GDB's remote protocol. Raises CoreExists when a debugger is attached already."""
        if (await self.call("status")).get("debugger"):
            raise error_for(-12, "debugger", "a debugger is attached already")
        return trio.SocketStream(await _dial(self.folder, "gdb.sock"))

    def open_view(self) -> RamView:
        return RamView(self.fds["ram"], self.fds["share"])

    async def wait_end(self) -> Exit:
        """Wait until the process has ended; why it did."""
        await trio.lowlevel.wait_readable(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - it has ended; ours unless it was adopted
        return read_exit(self.folder)

    def kill(self) -> None:
        """SIGKILL, by pidfd: never a stranger that got the number."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        self._sock.close()
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


async def spawn(folder: Path) -> GuestHandle:
    """Start the process of ``folder/spec.msgpack`` in its own session and adopt it. Raises CoreError with the reason
    when it cannot be made (bad image, no memory ...), nothing is left running then."""
    pid, ready = await trio.to_thread.run_sync(_start_process, folder)
    try:
        answer = await _until_ready(ready)
        if not answer.get("ok"):
            raise _setup_error(folder, answer)
        return await adopt(folder)
    except BaseException:
        # Also when cancelled: a process that nobody holds must not stay behind.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # ours and not reaped, so the number is its own
        with trio.CancelScope(shield=True), contextlib.suppress(ChildProcessError):
            await trio.to_thread.run_sync(os.waitpid, pid, 0)
        raise


async def _until_ready(ready: int) -> dict[str, Any]:
    """What the process says on its ready pipe; {} when it ended without a word. Owns ``ready``."""
    data = b""
    async with trio.lowlevel.FdStream(ready) as pipe:
        with trio.move_on_after(_SPAWN_TIMEOUT) as patience:
            while chunk := await pipe.receive_some(65536):
                data += chunk
    if patience.cancelled_caught:
        raise CoreHostError(-3, "guest", f"its process was not ready within {_SPAWN_TIMEOUT:.0f} s")
    answer: dict[str, Any] = msgpack.unpackb(data) if data else {}
    return answer


def _setup_error(folder: Path, answer: dict[str, Any]) -> Exception:
    if not answer:
        return CoreHostError(-3, "guest", f"its process ended during set-up, see {folder / 'process.log'}")
    return error_for(int(answer["status"]), str(answer["field"]), str(answer["message"]))


async def adopt(folder: Path) -> GuestHandle:
    """Connect to a process that runs already. Raises GuestGone when there is none."""
    sock = await _dial(folder)
    try:
        info, received = await _exchange(sock, {"op": "hello"})
        if not info.get("ok") or len(info["fds"]) != len(received):
            for fd in received:
                os.close(fd)
            raise GuestGone(f"{folder}: hello was not understood")
        handle = GuestHandle(folder, sock, info, dict(zip(info["fds"], received, strict=True)))
    except BaseException:
        sock.close()
        raise
    try:
        handle._pidfd = os.pidfd_open(handle.pid)
        await handle.call("status")  # it answers, so the pidfd is that process's and no successor's
    except ProcessLookupError:
        handle.close()
        raise GuestGone(f"{folder}: the process has just ended") from None
    except BaseException:
        handle.close()
        raise
    return handle


def read_exit(folder: Path) -> Exit:
    """Why the process of a folder ended. "killed" when it could not write it down."""
    try:
        data = json.loads((folder / "exit.json").read_text())
        return Exit(str(data["reason"]), int(data["code"]), str(data["text"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Exit("killed", text="the guest process was killed (signal or out of memory)")


def _start_process(folder: Path) -> tuple[int, int]:
    """Runs in a thread: fork and exec block. Returns (pid, reading end of the ready pipe)."""
    ready_r, ready_w = os.pipe2(os.O_CLOEXEC)
    root = Path(__file__).resolve().parent.parent
    # -S: the site module would cost every guest half a megabyte, so the two places that it would find are named.
    places = dict.fromkeys(
        [str(root), *(str(Path(sys.modules[name].__file__ or "").parent.parent) for name in ("msgpack",))]
    )
    environment = {
        "PYTHONPATH": ":".join(places),
        "MALLOC_ARENA_MAX": "1",
        "LANG": "C.UTF-8",
        **{name: os.environ[name] for name in ("LD_LIBRARY_PATH", "ASAN_OPTIONS") if name in os.environ},
    }
    try:
        with open(folder / "process.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-m", "node.guestproc", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=ready_w,
                stderr=log,
                start_new_session=True,
                env=environment,
                cwd="/",
            )
    except OSError as error:
        os.close(ready_r)
        raise CoreHostError(-3, "guest", f"its process cannot be started: {error.strerror}") from error
    finally:
        os.close(ready_w)
    process.returncode = 0  # reaped by wait_end; keeps Popen from warning about it
    return process.pid, ready_r


async def _dial(folder: Path, name: str = "guest.sock") -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder_fd = -1
    try:
        # By way of /proc/self/fd: a socket's path is limited to 107 bytes and folders are not.
        folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        await sock.connect(f"/proc/self/fd/{folder_fd}/{name}")
    except OSError as error:
        sock.close()
        raise GuestGone(f"{folder}: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    finally:
        if folder_fd >= 0:
            os.close(folder_fd)
    return sock


async def _exchange(sock: trio.socket.SocketType, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """One request and its answer, with the descriptors that came along (the caller owns them)."""
    body = msgpack.packb(request)
    received: list[int] = []
    try:
        await trio.SocketStream(sock).send_all(len(body).to_bytes(4, "big") + body)
        data = bytearray()
        need = 4
        while len(data) < need:
            # Never more than the answer: behind that of attach the channel's own bytes begin.
            chunk, ancillary, _, _ = await sock.recvmsg(
                need - len(data), socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    received += memoryview(payload[: len(payload) // 4 * 4]).cast("i").tolist()
            if not chunk:
                raise GuestGone("the guest process closed the connection")
            data += chunk
            if len(data) == 4:
                need = 4 + int.from_bytes(data[:4], "big")
                if need > _MAX_ANSWER:
                    raise GuestGone("the guest process answered nonsense")
        answer: dict[str, Any] = msgpack.unpackb(memoryview(data)[4:need])
    except (OSError, trio.BrokenResourceError) as error:
        _close_all(received)
        raise GuestGone(f"the guest process is gone: {error}") from None
    except BaseException:
        _close_all(received)
        raise
    return answer, received


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
