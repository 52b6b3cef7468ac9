"""The raw terminal behind ``wherry console``: keys go to the guest as they are, Ctrl-] leaves.

The terminal's settings come back on every way out. Input that is no terminal (a pipe) is sent as it comes; after
its end the console stays until it was quiet for a second.
"""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import click
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from wherry.client import Client

LEAVE = b"\x1d"  # Ctrl-]
_QUIET_S = 1.0


def split_leave(data: bytes) -> tuple[bytes, bool]:
    """What to send of ``data``, and whether the leave key was in it."""
    before, key, _ = data.partition(LEAVE)
    return before, bool(key)


@contextmanager
def raw_terminal(descriptor: int) -> Iterator[bool]:
    """Raw mode when ``descriptor`` is a terminal; gives whether it is."""
    if not os.isatty(descriptor):
        yield False
        return
    saved = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


class _Session:
    """One attached console: two pumps under one cancel scope."""

    def __init__(self, socket: WebSocketConnection, terminal: bool) -> None:
        self.socket = socket
        self.terminal = terminal
        self.ending = False  # the input ended; each output moves the deadline

    async def output(self, scope: trio.CancelScope) -> None:
        try:
            while True:
                message = await self.socket.get_message()
                if self.ending:
                    scope.deadline = trio.current_time() + _QUIET_S
                data = message if isinstance(message, bytes) else message.encode()
                await trio.to_thread.run_sync(_write_all, sys.stdout.fileno(), data)
        except ConnectionClosed:
            scope.cancel()

    async def input(self, scope: trio.CancelScope) -> None:
        descriptor = sys.stdin.fileno()
        while True:
            if self.terminal:
                await trio.lowlevel.wait_readable(descriptor)
                data = os.read(descriptor, 4096)
            else:
                data = await trio.to_thread.run_sync(os.read, descriptor, 4096, abandon_on_cancel=True)
            send, leave = split_leave(data) if self.terminal else (data, False)
            if send:
                await self.socket.send_message(send)
            if leave:
                scope.cancel()
                return
            if not data:
                break
        self.ending = True
        scope.deadline = trio.current_time() + _QUIET_S


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


async def attach(client: Client, name: str) -> None:
    """Until the leave key, the end of the guest, or the end of piped input."""
    async with client.console(name) as socket:
        if os.isatty(sys.stdin.fileno()):
            click.echo(f"connected to {name}; Ctrl-] leaves", err=True)
        with raw_terminal(sys.stdin.fileno()) as terminal:
            session = _Session(socket, terminal)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.output, nursery.cancel_scope)
                nursery.start_soon(session.input, nursery.cancel_scope)
    click.echo("", err=True)
