"""``wherry gdb``: a local Unix socket that GDB can connect to, tunnelled to the guest's debugger stub.

The socket lies in a folder that only its owner may enter. Each connection to it is one debugging session; the guest
stands still from its beginning until GDB lets it go on, and runs again when GDB has left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

import click
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from wherry.client import Client
from wherry.commands.common import example, with_client
from wherry.errors import UsageProblem, WherryError

_DEBUGGERS = ("gdb-multiarch", "riscv64-linux-gnu-gdb", "gdb")


async def _bridge(local: trio.SocketStream, remote: WebSocketConnection) -> None:
    async with trio.open_nursery() as nursery:

        async def out() -> None:
            try:
                while data := await local.receive_some(65536):
                    await remote.send_message(bytes(data))
            except (ConnectionClosed, trio.BrokenResourceError):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(out)
        try:
            while True:
                message = await remote.get_message()
                await local.send_all(message if isinstance(message, bytes) else message.encode())
        except (ConnectionClosed, trio.BrokenResourceError):
            nursery.cancel_scope.cancel()


async def serve(client: Client, name: str, listener: trio.SocketListener) -> None:
    """One session after the other, until cancelled."""
    while True:
        async with await listener.accept() as local:
            try:
                async with client.debugger(name) as remote:
                    await _bridge(local, remote)
            except WherryError as error:
                click.echo(f"wherry: {error}", err=True)


async def listen(path: Path) -> trio.SocketListener:
    """Raises UsageProblem when the path can not be bound."""
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        await sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise UsageProblem(f"--socket {path}: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    sock.listen(1)
    return trio.SocketListener(sock)


def _find_debugger() -> str:
    for name in _DEBUGGERS:
        if path := shutil.which(name):
            return path
    raise click.ClickException(f"none of {', '.join(_DEBUGGERS)} is installed (Debian: apt install gdb-multiarch)")


async def _with_gdb(
    client: Client, name: str, path: Path, listener: trio.SocketListener, arguments: tuple[str, ...]
) -> int:
    """GDB in the foreground; Ctrl-C is for it alone (a handler, other than SIG_IGN, is not inherited)."""
    command = [_find_debugger(), "-q", "-ex", f"target remote {path}", *arguments]
    old = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, client, name, listener)
            done = await trio.run_process(command, stdin=None, check=False)
            nursery.cancel_scope.cancel()
    finally:
        signal.signal(signal.SIGINT, old)
    return done.returncode


async def _debug(client: Client, name: str, path: Path, gdb_arguments: tuple[str, ...] | None) -> int:
    await client.guest(name)  # a wrong name is told at once
    listener = await listen(path)
    try:
        if gdb_arguments is not None:
            return await _with_gdb(client, name, path, listener, gdb_arguments)
        click.echo(f"target remote {path}")
        click.echo(f"in gdb-multiarch connects to {name}; Ctrl-C ends this", err=True)
        await serve(client, name, listener)
        return 0
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


@click.command(epilog=example("wherry gdb web --exec -- vmlinux"))
@click.argument("name")
@click.option("--exec", "execute", is_flag=True, help="Start gdb-multiarch, connected; ARGS are passed on to it.")
@click.option(
    "--socket", "path", type=click.Path(path_type=Path), help="Where to listen (default: a new private path)."
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def gdb(ctx: click.Context, name: str, execute: bool, path: Path | None, args: tuple[str, ...]) -> None:
    """Debug a guest with GDB, from its first kernel instruction to user space.

    Without --exec the command prints what to type into GDB and keeps the connection open until Ctrl-C.
    """
    if args and not execute:
        raise click.UsageError("ARGS go with --exec")
    with tempfile.TemporaryDirectory(prefix="wherry-gdb-") as folder:
        at = path or Path(folder) / "sock"

        ctx.exit(with_client(ctx, lambda client: _debug(client, name, at, args if execute else None)))


COMMANDS = (gdb,)
