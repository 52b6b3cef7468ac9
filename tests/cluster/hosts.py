"""Hosts for tests: network namespaces with addresses of their own on one bridge, made and removed by the test.

The test's own namespace is on the bridge too (:attr:`Hosts.outside`): a coordinator runs there, so that the test
reaches its API. Needs root. A host is cut off wholly (:meth:`Hosts.cut`) or from one other host (:meth:`Hosts.block`,
by blackhole routes on both sides, so that neither TCP nor UDP passes in either direction); UDP alone is dropped by
:meth:`Hosts.block_udp`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass


def why_not() -> str | None:
    """The reason for which hosts can't be made here, or None."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if shutil.which("ip") is None:
        return "needs iproute2 (`ip`)"
    return None


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Host:
    """One namespace: ``enter`` is the command prefix that runs something in it."""

    name: str
    namespace: str
    address: str

    @property
    def enter(self) -> list[str]:
        return ["ip", "netns", "exec", self.namespace]


class Hosts:
    """``with Hosts(["c", "n1", "n2"]) as hosts``: a bridge in a namespace of its own and one veth pair a host."""

    def __init__(self, names: list[str], subnet: str = "10.213.7") -> None:
        tag = uuid.uuid4().hex[:6]
        self._switch = f"wt{tag}-sw"
        self._cable = f"wt{tag}"
        self.outside = f"{subnet}.254"
        self.hosts = {
            name: Host(name, f"wt{tag}-{name}", f"{subnet}.{index}") for index, name in enumerate(names, start=1)
        }

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Hosts:
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "br0", "up")
            for host in self.hosts.values():
                _ip("netns", "add", host.namespace)
                _ip(
                    *["-n", self._switch, "link", "add", host.name, "type", "veth", "peer", "name", "eth0"],
                    *["netns", host.namespace],
                )
                _ip("-n", self._switch, "link", "set", host.name, "master", "br0", "up")
                _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
                _ip("-n", host.namespace, "link", "set", "eth0", "up")
                _ip("-n", host.namespace, "link", "set", "lo", "up")
            _ip(*["link", "add", self._cable, "type", "veth", "peer", "name", "outside", "netns", self._switch])
            _ip("-n", self._switch, "link", "set", "outside", "master", "br0", "up")
            _ip("address", "add", f"{self.outside}/24", "dev", self._cable)
            _ip("link", "set", self._cable, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for namespace in [*(host.namespace for host in self.hosts.values()), self._switch]:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    def cut(self, name: str) -> None:
        """Take the host's cable out."""
        _ip("-n", self._switch, "link", "set", name, "down")

    def mend(self, name: str) -> None:
        _ip("-n", self._switch, "link", "set", name, "up")

    def block(self, one: str, other: str) -> None:
        """These two can no longer reach each other directly; everybody else still reaches both."""
        for here, there in ((one, other), (other, one)):
            _ip("-n", self[here].namespace, "route", "add", "blackhole", f"{self[there].address}/32")

    def block_udp(self, name: str) -> None:
        """What comes to the host by UDP is dropped without a word, as a firewall does it."""
        rule = ["-n", self[name].namespace, "rule"]
        # The rule for a host's own addresses is the very first; it has to stand behind ours.
        _ip(*rule, "add", "pref", "10", "lookup", "local")
        _ip(*rule, "add", "pref", "5", "iif", "eth0", "ipproto", "udp", "blackhole")
        _ip(*rule, "del", "pref", "0")

    def unblock_udp(self, name: str) -> None:
        rule = ["-n", self[name].namespace, "rule"]
        _ip(*rule, "add", "pref", "0", "lookup", "local")
        for preference in ("5", "10"):
            _ip(*rule, "del", "pref", preference)

    def unblock(self, one: str, other: str) -> None:
        for here, there in ((one, other), (other, one)):
            _ip("-n", self[here].namespace, "route", "del", "blackhole", f"{self[there].address}/32")
