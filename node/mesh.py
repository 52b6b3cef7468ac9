"""Between the switch and the rest of the cluster: ports, networks, peers, keys, MACs, routes.

The protocol machines (protocol.macs, protocol.keys, protocol.routing.linkstate) decide; this file feeds them with what
links, the directory and the switch tell, and does their effects.
"""

from __future__ import annotations

import itertools
import logging
import socket

import trio

from node.core import CoreError
from node.guests import Guest
from node.switchctl import Switch
from protocol.messages import NetworkInfo, NodeInfo
from protocol.transport import Handlers, Link

log = logging.getLogger("wherry.node.mesh")


class _PortSet:
    """The ports of one guest copy, in the order of its NICs."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.ports: list[int] = []
        self.enabled = False


class Mesh:
    """Owner of the switch. ``node``: this node's id; ``udp`` becomes the switch's."""

    def __init__(self, node: int, udp: socket.socket | None) -> None:
        self.node = node
        self.switch = Switch(node, udp)
        self._numbers = itertools.count(1)
        self._ports: dict[str, _PortSet] = {}
        self._networks: dict[int, int] = {}

    def close(self) -> None:
        self.switch.close()

    def register(self, handlers: Handlers) -> None:
        pass

    async def run(self) -> None:
        async for event in self.switch.events():
            log.debug("switch: %s", event)

    async def peer_session(self, link: Link) -> None:
        await trio.sleep_forever()

    def update(self, nodes: list[NodeInfo], networks: list[NetworkInfo]) -> None:
        for network in networks:
            self._need_network(network.vni, network.mtu)

    # -- ports (node.guests.Ports)

    def attach(self, guest: Guest, *, enabled: bool) -> None:
        self.detach(guest)
        ports = self._ports[guest.id] = _PortSet(guest.generation)
        fds = guest.live.fds
        for index, nic in enumerate(guest.record.spec.nics):
            self._need_network(nic.vni, nic.mtu)
            number = next(self._numbers)
            self.switch.add_ring_port(
                number,
                nic.vni,
                ring_fd=fds[f"nic{index}.ring"],
                to_switch_event=fds[f"nic{index}.to_switch"],
                to_guest_event=fds[f"nic{index}.to_guest"],
                mac=nic.mac,
                generation=guest.generation,
            )
            ports.ports.append(number)
            self.switch.enable_port(number, enabled)
        ports.enabled = enabled

    def detach(self, guest: Guest) -> None:
        ports = self._ports.pop(guest.id, None)
        for number in ports.ports if ports else ():
            self.switch.remove_port(number)

    def enable(self, guest: Guest, on: bool) -> None:
        ports = self._ports.get(guest.id)
        if ports is None:
            return
        if on and ports.generation != guest.generation:
            self.attach(guest, enabled=True)  # under the new generation's number
            return
        for number in ports.ports:
            self.switch.enable_port(number, on)
        ports.enabled = on

    def announce(self, guest: Guest) -> None:
        ports = self._ports.get(guest.id)
        for number in ports.ports if ports else ():
            try:
                self.switch.announce(number)
            except CoreError as error:
                log.warning("%s port %d cannot be announced: %s", guest.tag, number, error)

    def _need_network(self, vni: int, mtu: int) -> None:
        if vni not in self._networks:
            self.switch.add_network(vni, mtu)
            self._networks[vni] = mtu
