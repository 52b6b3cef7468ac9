"""What an attachment's port is made of, opened: a TAP, or a bound datagram socket that carries one frame a datagram.

A unix socket's file is made writable for its owner only: whoever may write to it is in the network, so it is the
owner's affair to let others in. A file of that name at which no program listens any more is a dead agent's, and is
replaced; anything else there is an error. The format is that of QEMU's ``-netdev dgram``: a frame a datagram, without
a header.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from contextlib import suppress

from node import tap
from node.core import CoreError
from node.switchctl import Switch, sockaddr
from protocol.errors import Refused
from protocol.messages import Attachment
from protocol.transport import split_address

_BUFFER = 4 << 20  # bytes of frames that wait in a socket; the kernel may allow less
_PATH_MAX = 107  # sockaddr_un without its last zero


class TapEndpoint:
    def __init__(self, name: str, mtu: int, *, made_before: bool) -> None:
        self._name = name
        self.fd, made = tap.open_tap(name, mtu)
        self.made = made or made_before

    def add(self, switch: Switch, port: int, vni: int) -> None:
        switch.add_tap_port(port, vni, self.fd)

    def set_mtu(self, mtu: int) -> None:
        """Of a TAP that is ours; raises OSError."""
        if self.made:
            tap.set_mtu(self._name, mtu)

    def remove(self) -> None:
        tap.let_go(self.fd)

    def close(self) -> None:
        os.close(self.fd)


class SocketEndpoint:
    """``remote``: a sockaddr, empty for whoever spoke last; ``path``: the file that goes with it, if any."""

    def __init__(self, sock: socket.socket, remote: bytes, path: str = "") -> None:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self._sock, self._remote, self._path = sock, remote, path
        self.fd = sock.fileno()
        self.made = bool(path)

    def add(self, switch: Switch, port: int, vni: int) -> None:
        switch.add_dgram_port(port, vni, self.fd, self._remote)

    def set_mtu(self, mtu: int) -> None:
        """A socket takes frames of any size."""

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def close(self) -> None:
        self._sock.close()


def open_endpoint(wish: Attachment, *, made_before: bool) -> TapEndpoint | SocketEndpoint:
    """Raises Refused with what is wrong."""
    if wish.kind == "tap":
        return TapEndpoint(wish.local, wish.mtu, made_before=made_before)
    try:
        return _unix(wish) if wish.kind == "unix" else _udp(wish)
    except OSError as error:
        code = "forbidden" if error.errno in (errno.EACCES, errno.EPERM) else "unavailable"
        raise Refused(code, f"{wish.local}: {error.strerror}", field="local") from error


def _path(text: str, field: str) -> bytes:
    path = text.encode(errors="surrogateescape")
    if not text.startswith("/") or len(path) > _PATH_MAX or b"\0" in path:
        raise Refused("invalid", f"{text!r}: an absolute path of at most {_PATH_MAX} bytes is wanted", field=field)
    return path


def _unix(wish: Attachment) -> SocketEndpoint:
    local = _path(wish.local, "local")
    remote = struct.pack("=H", socket.AF_UNIX) + _path(wish.remote, "remote") + b"\0" if wish.remote else b""
    _clear(wish.local)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(sock.fileno(), 0o600)  # the file takes its mode from the socket: never open to others for a moment
        sock.bind(local)
    except BaseException:
        sock.close()
        raise
    return SocketEndpoint(sock, remote, wish.local)


def _clear(path: str) -> None:
    """Remove a socket that nobody has bound any more."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Refused("conflict", f"{path} is there and no socket", field="local")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # a stream socket of somebody
                raise
    raise Refused("conflict", f"{path} is in use by another program", field="local")


def _udp(wish: Attachment) -> SocketEndpoint:
    host, port = _address(wish.local, "local")
    remote = sockaddr(*_address(wish.remote, "remote")) if wish.remote else b""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if remote and struct.unpack_from("=H", remote)[0] != family:
        raise Refused("invalid", f"{wish.local} and {wish.remote} are of different families", field="remote")
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return SocketEndpoint(sock, remote)


def _address(text: str, field: str) -> tuple[str, int]:
    """A numeric address: names could lead elsewhere at the next start."""
    try:
        host, port = split_address(text)
        sockaddr(host, port)
    except (ValueError, CoreError):
        raise Refused("invalid", f"{text!r}: ADDRESS:PORT is wanted, in figures", field=field) from None
    return host, port
