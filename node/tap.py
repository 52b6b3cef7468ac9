"""TAP interfaces of this host: made or taken over, kept across agents, removed again.

A TAP that is made here is persistent (``TUNSETPERSIST``): it keeps its name, MAC and addresses while no agent runs. One
that was there before is taken as it is, which needs no privilege where its owner is the agent's user
(``ip tuntap add NAME mode tap user NAME``), and is left in place at the end. Interfaces are those of the agent's own
network namespace. Frames have a virtio-net header in front (``IFF_VNET_HDR``), by which the switch and the kernel leave
each other checksums and segmentation. ioctl numbers and flags are those of linux/if_tun.h and linux/sockios.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct

from protocol.errors import Refused

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFMTU = 0x8913, 0x8914, 0x8922
_IFF_UP = 0x1
_NAME = re.compile(r"^(?!\.{1,2}$)[A-Za-z0-9_.-]{1,15}$")  # the kernel would fill in a % by itself


def exists(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def open_tap(name: str, mtu: int) -> tuple[int, bool]:
    """A descriptor of the TAP, non-blocking and with vnet headers (for offloads), and whether it was made now: then
    it has this MTU, is persistent and up.

    Raises Refused with what is wrong: the name, a missing privilege, another program that has it."""
    if not _NAME.match(name):
        raise Refused("invalid", f"{name!r} is no name of an interface: 1 to 15 of A-Z a-z 0-9 _ . -", field="local")
    made = not exists(name)
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Refused("unavailable", f"/dev/net/tun: {error.strerror}", field="local") from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        if made:
            fcntl.ioctl(fd, _TUNSETPERSIST, 1)
            _bring_up(name, mtu)
    except OSError as error:
        os.close(fd)
        raise _refusal(name, made, error) from error
    return fd, made


def _refusal(name: str, made: bool, error: OSError) -> Refused:
    if error.errno == errno.EPERM:
        what = "make" if made else "take"
        hint = f"or as root: ip tuntap add {name} mode tap user USER" if made else "or make its owner the agent's user"
        return Refused(
            "forbidden", f"the agent may not {what} {name}: it needs CAP_NET_ADMIN, {hint}", field="local", tap=name
        )
    if error.errno == errno.EBUSY:
        return Refused("conflict", f"{name} is in use by another program", field="local")
    if error.errno == errno.EINVAL and not made:
        return Refused("invalid", f"{name} is an interface of another kind, no TAP", field="local")
    return Refused("unavailable", f"{name}: {error.strerror}", field="local")


def _bring_up(name: str, mtu: int) -> None:
    packed = name.encode()
    set_mtu(name, mtu)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", packed, 0)))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", packed, flags | _IFF_UP))


def set_mtu(name: str, mtu: int) -> None:
    """Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))


def let_go(fd: int) -> None:
    """The TAP goes with its last descriptor."""
    fcntl.ioctl(fd, _TUNSETPERSIST, 0)
