"""What an attachment's port is made of, opened: a TAP; sockets of other programs follow."""

from __future__ import annotations

import os

from node import tap
from node.switchctl import Switch
from protocol.errors import Refused
from protocol.messages import Attachment


class TapEndpoint:
    def __init__(self, name: str, mtu: int, *, made_before: bool) -> None:
        self.fd, made = tap.open_tap(name, mtu)
        self.made = made or made_before

    def add(self, switch: Switch, port: int, vni: int) -> None:
        switch.add_tap_port(port, vni, self.fd)

    def remove(self) -> None:
        tap.let_go(self.fd)

    def close(self) -> None:
        os.close(self.fd)


def open_endpoint(wish: Attachment, *, made_before: bool) -> TapEndpoint:
    """Raises Refused with what is wrong."""
    if wish.kind != "tap":
        raise Refused("unsupported", f"this node knows no attachments of kind {wish.kind}", field="kind")
    return TapEndpoint(wish.local, wish.mtu, made_before=made_before)
