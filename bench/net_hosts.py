"""Two hosts on one machine for ``make bench-net``: network namespaces joined by a cable whose offloads can be switched.

The cable is a veth pair, MTU 1500, ``10.99.0.1`` and ``.2``: the underlay of every overlay. Each namespace has a second
veth to the bench's own namespace, for the coordinator; no measured frame takes it. Needs root.

Modes: ``on`` is what veth gives (checksums and segmentation left to the "device", as in a virtual machine's NIC),
``nic`` is a card without UDP segmentation, ``off`` one without any offload; ``loss`` is ``off`` where each end drops
one frame in a hundred that arrive (nftables, ingress hook).
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

MODES = ("on", "nic", "off", "loss")
COORDINATOR = "10.98.0.1"
CABLE = "cable"
_ALL = ("rx", "tx", "sg", "tso", "gso", "gro")
_LOSS = """table netdev bench {
  chain loss { type filter hook ingress device "cable" priority 0; numgen random mod 100 == 0 drop; }
}"""


class HostsError(Exception):
    """What the machine refuses, with the command."""


def run(*words: str, enter: Sequence[str] = (), text: str | None = None) -> str:
    """A command's output. Raises :class:`HostsError`."""
    done = subprocess.run([*enter, *words], input=text, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise HostsError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()[:300]}")
    return done.stdout


@dataclass(frozen=True)
class Host:
    """``address``: on the cable."""

    namespace: str
    address: str

    @property
    def enter(self) -> list[str]:
        """The command prefix that runs something there."""
        return ["ip", "netns", "exec", self.namespace]

    def ip(self, *words: str) -> None:
        run("ip", "-n", self.namespace, *words)


class Pair:
    """``with Pair(tools) as pair``: ``pair.hosts`` are the two. ``tools``: argv of ``ethtool`` and ``nft``."""

    def __init__(self, tools: dict[str, list[str]]) -> None:
        self._tools = tools
        self.hosts = tuple(Host(f"wherry-bench-{end}", f"10.99.0.{n}") for n, end in ((1, "a"), (2, "b")))
        self.mode = "on"

    def __enter__(self) -> Pair:
        self.__exit__()  # what a killed run has left
        try:
            for host in self.hosts:
                run("ip", "netns", "add", host.namespace)
                host.ip("link", "set", "lo", "up")
            a, b = self.hosts
            a.ip("link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", b.namespace)
            for number, host in enumerate(self.hosts, start=1):
                host.ip("address", "add", f"{host.address}/24", "dev", CABLE)
                host.ip("link", "set", CABLE, "up")
                self._control(host, number)
        except BaseException:
            self.__exit__()
            raise
        return self

    @staticmethod
    def _control(host: Host, number: int) -> None:
        """The veth to the bench's own namespace; the coordinator's address is behind it."""
        ours, net = f"wherry-b{number}", f"10.98.{number}"
        run("ip", "link", "add", ours, "type", "veth", "peer", "name", "control", "netns", host.namespace)
        run("ip", "address", "add", f"{net}.1/24", "dev", ours)
        if number == 1:
            run("ip", "address", "add", f"{COORDINATOR}/32", "dev", ours)
        run("ip", "link", "set", ours, "up")
        host.ip("address", "add", f"{net}.2/24", "dev", "control")
        host.ip("link", "set", "control", "up")
        host.ip("route", "add", COORDINATOR, "via", f"{net}.1")

    def __exit__(self, *exc: object) -> None:
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, check=False)
        for number in (1, 2):  # their other ends went with the namespaces, but later
            subprocess.run(["ip", "link", "del", f"wherry-b{number}"], capture_output=True, check=False)

    def switch(self, mode: str) -> None:
        """Bring the cable into one of :data:`MODES`."""
        for host in self.hosts:
            settings = dict.fromkeys(_ALL, "on") | {"tx-udp-segmentation": "on"}
            if mode == "nic":
                settings["tx-udp-segmentation"] = "off"
            elif mode != "on":
                settings = dict.fromkeys(settings, "off")
            # one at a time: a veth that can't change one of them would refuse all
            for name, value in settings.items():
                done = subprocess.run(
                    [*host.enter, *self._tools["ethtool"], "-K", CABLE, name, value], capture_output=True, check=False
                )
                if done.returncode and name in ("gso", "tso", "tx-udp-segmentation"):
                    raise HostsError(f"ethtool -K {CABLE} {name} {value}: {done.stderr.decode().strip()[:200]}")
            subprocess.run(
                [*host.enter, *self._tools["nft"], "delete", "table", "netdev", "bench"],
                capture_output=True,
                check=False,
            )
            if mode == "loss":
                run(*self._tools["nft"], "-f", "-", enter=host.enter, text=_LOSS)
        self.mode = mode
