"""What an agent is told from outside: the state folder, its addresses, what it may give to guests.

Port rules: without ``--listen`` the default port is tried and a free one taken when it is busy; a port that was asked
for and is busy is an error. Link (TCP) and tunnel (UDP) share one number.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from node.record import write_atomically

STATE_VERSION = 1
DEFAULT_PORT = 7460
_SIZE = re.compile(r"^([0-9]+)([KMGT]?)(i?B)?$", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_ATTEMPTS = 16


class ConfigError(Exception):
    """Names the option or file, the value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Config:
    """``port`` None: the default rule. ``advertise``: HOST or HOST:PORT, "" is found out. ``memory`` 0: all of the
    host but a headroom. ``keep``: bytes of memory of guests that have left; None: a part of ``memory``. ``dedup``: what
    need not be sent to here: pages of the guest's earlier stay and other guests', the former, none.
    ``switch_workers``: threads that forward frames."""

    state: Path
    name: str
    host: str = "0.0.0.0"
    port: int | None = None
    advertise: str = ""
    coordinator: str = ""
    memory: int = 0
    keep: int | None = None
    dedup: Literal["all", "own", "off"] = "all"
    switch_workers: int = 1


def default_state(name: str) -> Path:
    home = os.environ.get("WHERRY_HOME") or str(Path.home() / ".local/share/wherry")
    return Path(home) / "nodes" / name


SWITCH_WORKERS_MAX = 8


def parse_switch_workers(text: str | None) -> int:
    """None: one for each eight of the cores that this process may use, one at least and four at most: guests need
    cores too, and one worker is enough for a few busy guests."""
    if text is None:
        return max(1, min(4, len(os.sched_getaffinity(0)) // 8))
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= SWITCH_WORKERS_MAX:
        raise ConfigError(f"--switch-workers {text!r}: 1..{SWITCH_WORKERS_MAX} is wanted")
    return int(text)


def parse_size(text: str) -> int:
    """ "512M" → bytes."""
    match = _SIZE.match(text)
    if not match:
        raise ConfigError(f"size {text!r}: a number with K, M, G or T is wanted")
    return int(match[1]) * _UNITS[match[2].upper()]


def parse_listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--listen {text!r}: HOST:PORT is wanted (port 0: any free one)")
    return host, int(port)


def open_state(folder: Path) -> int:
    """Make or check a state folder and lock it. Returns the lock's descriptor: keep it open. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        version = folder / "VERSION"
        if not version.exists():
            write_atomically(version, f"{STATE_VERSION}\n".encode())  # on a full disk it would stay empty, for ever
        found = version.read_text().strip()
    except OSError as error:
        raise ConfigError(f"state folder {folder}: {error.strerror}") from error
    if not found.isdigit() or int(found) < 1:
        raise ConfigError(f"state folder {folder}: VERSION is {found[:20]!r}, a number is wanted")
    if int(found) > STATE_VERSION:
        raise ConfigError(
            f"state folder {folder}: it is of version {found}, this program knows {STATE_VERSION}; use a newer program"
        )
    try:
        lock = os.open(folder / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"state folder {folder}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise ConfigError(f"state folder {folder}: another agent uses it") from None
    return lock


def bind_pair(host: str, port: int | None) -> tuple[socket.socket, socket.socket]:
    """A listening TCP and a bound UDP socket with the same number. Raises ConfigError when an asked one is busy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port:
        return _bind(family, host, port)
    if port is None:
        try:
            return _bind(family, host, DEFAULT_PORT)
        except ConfigError:
            pass
    for attempt in range(_ATTEMPTS):
        try:
            return _bind(family, host, 0)
        except ConfigError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def _bind(family: socket.AddressFamily, host: str, port: int) -> tuple[socket.socket, socket.socket]:
    tcp = socket.socket(family, socket.SOCK_STREAM)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((host, port))
        number = tcp.getsockname()[1]
        udp.bind((host, number))
        tcp.listen(128)
        udp.setblocking(False)
    except OSError as error:
        tcp.close()
        udp.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
        raise ConfigError(f"--listen {host}:{port}: {reason}") from error
    return tcp, udp


def own_address(towards: str, listen_host: str) -> str:
    """The address under which others can reach this host: the one that is listened on, or with a wildcard the one from
    which packets to ``towards`` (host:port) leave. No packet is sent."""
    if listen_host not in ("0.0.0.0", "::"):
        return listen_host
    host = towards.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def advertised(text: str, port: int) -> str:
    """HOST or HOST:PORT (a forwarded port) as an address; without a port the listener's counts."""
    if text.startswith("[") or text.count(":") == 1:
        return text if not text.endswith("]") else f"{text}:{port}"
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
