"""The other overlays of ``make bench-net``: their programs, the newest that Debian packages in any suite.

They are fetched once into ``build/tools/overlays`` as ``bench/peers.py`` fetches an emulator; so are ethtool and
nftables, which switch the cable. One that can't be had is named with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass

from bench import peers
from bench.harness import ROOT, tool_version
from bench.peers import PeerMissing

FOLDER = ROOT / "build" / "tools" / "overlays"
TOOLS = {"ethtool": "usr/sbin/ethtool", "nft": "usr/sbin/nft"}
_VERSION = re.compile(r"v?(\d+(?:\.\d+)*\w*)")


@dataclass(frozen=True)
class Program:
    """``argv``: what the command line begins with; ``version`` as it tells it."""

    name: str
    argv: tuple[str, ...]
    version: str

    def beside(self, path: str) -> tuple[str, ...]:
        """Another program of the same package, such as nebula-cert."""
        return (*self.argv[:-1], self.argv[-1].rpartition("/")[0] + "/" + path)


@dataclass(frozen=True)
class _Source:
    """Where a program comes from. ``packages`` of ``suites`` (the last one's versions win)."""

    packages: tuple[str, ...]
    suites: tuple[str, ...]
    path: str
    version: tuple[str, ...] = ("--version",)


SOURCES = {
    "nebula": _Source(("nebula",), ("sid",), "usr/bin/nebula", ("-version",)),
    "wireguard-go": _Source(("wireguard-go",), ("sid",), "usr/bin/wireguard-go"),
    "fastd": _Source(("fastd",), ("sid",), "usr/bin/fastd"),
    "openvpn": _Source(("openvpn",), ("sid",), "usr/sbin/openvpn"),
    # 1.1, a pre-release for ten years, is in experimental only, built against libraries of an older release
    "tinc": _Source(("tinc/experimental",), ("experimental", "bookworm"), "usr/sbin/tincd"),
}


def tools() -> dict[str, list[str]]:
    """argv of ethtool and nft. Raises PeerMissing: without them there are no modes."""
    root = peers.fetched(FOLDER / "tools", "trixie", (), ["ethtool", "nftables"])
    return {name: list(peers.program(root, path)) for name, path in TOOLS.items()}


def find(name: str) -> Program:
    """One of :data:`SOURCES`. Raises PeerMissing with the reason."""
    source = SOURCES[name]
    root = peers.fetched(FOLDER / name, source.suites[0], source.suites[1:], list(source.packages))
    argv = peers.program(root, source.path)
    line = tool_version([*argv, *source.version])
    found = _VERSION.search(line.removeprefix("OpenVPN ").removeprefix("tinc version "))
    if found is None:
        raise PeerMissing(f"{name} does not tell its version: {line[:200]!r}")
    return Program(name, argv, found[1])


def missing_commands() -> list[str]:
    """What the bench takes from the host and does not find there, with the package of each."""
    needed = {"ip": "iproute2", "ping": "iputils-ping", "iperf3": "iperf3", os.environ.get("CC", "cc"): "gcc"}
    return [f"{command} (package {package})" for command, package in needed.items() if shutil.which(command) is None]


def main() -> None:
    """Fetch all of it; says what cannot be had."""
    tools()
    for name in SOURCES:
        try:
            found = find(name)
            print(f"overlays: {found.name} {found.version}")
        except PeerMissing as reason:
            print(f"overlays: missing: {reason}")


if __name__ == "__main__":
    main()
