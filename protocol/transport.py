"""Links over the network: dial, listen, TLS on both, and the names that coordinator and node import.

:class:`Link` and :func:`open_link` live in :mod:`protocol.link`, the stream inside a link in
:mod:`protocol.linkstream`.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import trio

from protocol.authority import ANONYMOUS, COORDINATOR, NODE
from protocol.doorway import Doorway
from protocol.errors import LinkClosed, LinkError, LinkTimeout, PeerRejected, WherryError
from protocol.handlers import Handlers
from protocol.link import HANDSHAKE_TIMEOUT, Link, LocalIdentity, Peer, open_link, stream_identity
from protocol.linkstream import LinkStream, StreamBroken
from protocol.session import SessionLimits
from protocol.tls import PeerIdentity, TlsFiles, client_context, identity_from_certificate, reloading, server_context
from protocol.tlsstream import TlsStream

log = logging.getLogger("wherry.link")

Other = Callable[[trio.SocketStream], Awaitable[Callable[[], Awaitable[None]] | None]]
_TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1: the type of the first record

__all__ = [
    "Handlers",
    "Link",
    "LinkStream",
    "LocalIdentity",
    "Peer",
    "PeerIdentity",
    "StreamBroken",
    "TlsFiles",
    "connect_tls",
    "format_address",
    "open_link",
    "serve_links",
    "split_address",
    "stream_identity",
    "wrap_client",
    "wrap_server",
]


def split_address(address: str) -> tuple[str, int]:
    """ "host:port" or "[v6]:port"; ValueError names what is wrong."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"address {address!r}, allowed: host:port or [v6]:port")
    return host, int(port)


async def connect_tls(
    address: str,
    *,
    tls: TlsFiles | ssl.SSLContext,
    expect: Literal["coordinator"] | int | None,
    timeout: float = 10.0,
) -> TlsStream:
    """Dial and prove both ends. ``expect`` is the coordinator, a node's id, or None (bootstrap: nobody is proved).

    Raises :class:`LinkClosed` (cannot dial, handshake failed), :class:`LinkTimeout`, :class:`PeerRejected`.
    """
    host, port = split_address(address)
    with trio.move_on_after(timeout):
        try:
            raw = await trio.open_tcp_stream(host, port)
        except OSError as error:
            raise LinkClosed(f"cannot dial {address}: {error}") from error
        return await wrap_client(raw, tls=tls, expect=expect)
    raise LinkTimeout(f"{address}: no TLS session within {timeout:g} s")


async def wrap_client(
    stream: trio.abc.Stream, *, tls: TlsFiles | ssl.SSLContext, expect: Literal["coordinator"] | int | None
) -> TlsStream:
    """The dialling end of TLS over any stream (a relayed one too), which it owns. Raises as :func:`connect_tls`."""
    context = client_context(tls) if isinstance(tls, TlsFiles) else tls
    secured = await _handshake(TlsStream(stream, context, server_side=False))
    if expect is None:
        return secured
    try:
        who = identity_from_certificate(secured.getpeercert())
        wanted = (COORDINATOR, 0) if expect == COORDINATOR else (NODE, expect)
        if (who.role, who.node) != wanted:
            raise PeerRejected(f"dialled {wanted[0]} {wanted[1] or ''}, answered {who.role} {who.node or ''}")
    except PeerRejected:
        await trio.aclose_forcefully(secured)
        raise
    return secured


async def wrap_server(stream: trio.abc.Stream, *, tls: TlsFiles | ssl.SSLContext) -> TlsStream:
    """The answering end of TLS over any stream, which it owns. Raises as :func:`connect_tls`."""
    context = server_context(tls) if isinstance(tls, TlsFiles) else tls
    return await _handshake(TlsStream(stream, context, server_side=True))


async def _handshake(secured: TlsStream) -> TlsStream:
    try:
        await secured.do_handshake()
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        await trio.aclose_forcefully(secured)
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise PeerRejected(f"certificate: {cause.verify_message}") from error
        raise LinkClosed(f"TLS handshake: {cause or error}") from error
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


async def serve_links(
    listeners: trio.SocketListener | list[trio.SocketListener],
    *,
    tls: TlsFiles | ssl.SSLContext,
    identity: LocalIdentity,
    handlers: Handlers,
    on_link: Callable[[Link], Awaitable[None]] | None = None,
    anonymous: bool = False,
    limits: SessionLimits | None = None,
    max_connections: int = 1024,
    other: Other | None = None,
    doorway: Doorway | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Accept links until cancelled; one nursery child a connection. ``on_link(link)`` runs beside the link and is
    cancelled when it ends. ``anonymous`` admits peers without a certificate. Errors end one connection, and are logged.
    ``doorway`` bounds the connections of which nobody knows yet, or ever, whose they are.
    ``other(stream)`` gets the connections that do not begin as TLS does, nothing of them read yet, and owns them: it
    has as long as a handshake to find out whose they are, and gives what to do with them then, or None when it has
    ended them. Without it they end. TLS files are read again when they change. The listeners are the caller's and are
    closed at the end.
    """
    server = _Server(identity, handlers, on_link, limits, other, doorway or Doorway())
    source = reloading(tls, anonymous=anonymous) if isinstance(tls, TlsFiles) else None
    fixed = source() if source else tls  # a missing or broken file is the caller's error, now
    assert isinstance(fixed, ssl.SSLContext)
    count = 0

    async def serve(raw: trio.SocketStream) -> None:
        nonlocal count
        if count >= max_connections:
            log.warning("link refused: %d connections are open", count)
            await trio.aclose_forcefully(raw)
            return
        count += 1
        try:
            await server.serve(raw, source() if source else fixed)
        finally:
            count -= 1

    items = listeners if isinstance(listeners, list) else [listeners]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, items)
        task_status.started()
    raise AssertionError("serve_listeners returned")


async def _is_tls(raw: trio.SocketStream) -> bool:
    return await raw.socket.recv(1, socket.MSG_PEEK) in (b"", _TLS_HANDSHAKE)


@dataclass(frozen=True)
class _Server:
    """What all connections of one :func:`serve_links` share."""

    identity: LocalIdentity
    handlers: Handlers
    on_link: Callable[[Link], Awaitable[None]] | None
    limits: SessionLimits | None
    other: Other | None
    doorway: Doorway

    async def serve(self, raw: trio.SocketStream, context: ssl.SSLContext) -> None:
        """One connection to its end; what goes wrong with it stays here."""
        address = "?"
        try:
            name = raw.socket.getpeername()
            address = format_address(name)
            taken, secured = None, None
            with self.doorway.enter(str(name[0])) as stay:
                with trio.fail_after(HANDSHAKE_TIMEOUT):
                    if self.other is None or await _is_tls(raw):
                        secured = await wrap_server(raw, tls=context)
                    elif (taken := await self.other(raw)) is None:
                        return
                if secured is not None and stream_identity(secured).role == ANONYMOUS:
                    await self._link(secured, address)
                    return
            if stay.cancelled_caught:
                raise LinkClosed("made room for a newer connection")
            if taken is not None:
                await taken()  # for as long as it takes: it has shown whose it is
            elif secured is not None:
                await self._link(secured, address)
        except (WherryError, trio.TooSlowError, trio.BrokenResourceError, OSError) as error:
            log.info("link from %s ended: %s", address, error or "handshake took too long")
            await trio.aclose_forcefully(raw)
        except Exception:
            log.exception("link from %s crashed", address)
            await trio.aclose_forcefully(raw)

    async def _beside(self, link: Link) -> None:
        if self.on_link is not None:
            try:
                await self.on_link(link)
            except LinkError as error:  # its calls fail when the link dies: no news
                log.info("%r: %s", link, error)

    async def _link(self, secured: TlsStream, address: str) -> None:
        async with (
            open_link(
                secured,
                identity=self.identity,
                handlers=self.handlers,
                client=False,
                limits=self.limits,
                address=address,
            ) as link,
            trio.open_nursery() as nursery,
        ):
            if self.on_link is not None:
                nursery.start_soon(self.on_link, link)
            await link.wait_closed()
            nursery.cancel_scope.cancel()


def format_address(sockaddr: tuple[Any, ...]) -> str:
    """A socket address as "host:port" or "[v6]:port"."""
    host, port = str(sockaddr[0]), int(sockaddr[1])
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
