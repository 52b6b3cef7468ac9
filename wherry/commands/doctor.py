"""``wherry doctor``: is this machine fit, and where not, what helps."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from wherry import context, paths, ui, units
from wherry.client import Client
from wherry.commands.common import example, json_option, target
from wherry.errors import UsageProblem, WherryError

_LIBRARIES = ("trio", "msgpack", "msgspec", "cryptography", "cffi", "fastapi", "hypercorn", "httpx", "trio-websocket")
_PORTS = (("coordinator link", socket.SOCK_STREAM, 7450), ("coordinator API", socket.SOCK_STREAM, 7451),
          ("node link", socket.SOCK_STREAM, 7460), ("node tunnel", socket.SOCK_DGRAM, 7460))  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """``ok``: fine; ``warn``: something works less; ``fail``: the product cannot run here."""

    check: str
    state: Literal["ok", "warn", "fail"]
    message: str


def check_python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok" if sys.version_info >= (3, 11) else "fail", f"{version} ({sys.executable})")


def check_libraries() -> Finding:
    missing = []
    for name in _LIBRARIES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("libraries", "fail", f"missing: {' '.join(missing)}; run: make setup")
    return Finding("libraries", "ok", f"{len(_LIBRARIES)} present")


def check_core() -> Finding:
    # In a process of its own: this package imports none of the daemons' code, and a broken library cannot hurt us.
    code = "from node.core import core, switch; core(); switch()"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode == 0:
        return Finding("C core", "ok", "libwherry-core.so and libwherry-switch.so load")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Finding("C core", "fail", f"{last}; run: make -C csrc")


def check_tunnels() -> Finding:
    code = "from node.switchctl import Switch, best_cipher as b; s = Switch(1); print(b(), s.crypto); s.close()"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, timeout=30)
    cipher, _, crypto = done.stdout.strip().partition(" ")
    if done.returncode != 0 or cipher not in ("0", "1"):
        return Finding("tunnels", "warn", "no switch can be made here, see C core")
    if cipher == "1":
        return Finding("tunnels", "ok", "ChaCha20-Poly1305: this processor has no instructions for AES")
    if "ipsec-mb" in crypto:
        return Finding("tunnels", "ok", f"AES-256-GCM by {crypto}")
    if platform.machine() != "x86_64":
        return Finding("tunnels", "ok", f"AES-256-GCM by {crypto}")
    return Finding("tunnels", "warn", f"AES-256-GCM by {crypto}; Debian's libipsec-mb takes a third of the time")


def check_apt() -> Finding:
    missing = [tool for tool in ("apt-get", "apt-config", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        return Finding("apt", "warn", f"no {' '.join(missing)}: images cannot be built here, only imported")
    return Finding("apt", "ok", "images can be built here")


def check_tun() -> Finding:
    path = Path("/dev/net/tun")
    if not path.exists():
        return Finding("TAP", "warn", "/dev/net/tun is missing: guests reach other guests, but no TAP of this host")
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding("TAP", "warn", "/dev/net/tun is not ours to open: TAP ports need it")
    return Finding("TAP", "ok", "/dev/net/tun can be opened")


def check_state() -> Finding:
    folder = paths.home()
    try:
        paths.open_state(folder)
    except WherryError as error:
        return Finding("state", "fail", str(error))
    if not os.access(folder, os.W_OK):
        return Finding("state", "fail", f"{folder} cannot be written")
    free = shutil.disk_usage(folder).free
    state: Literal["ok", "warn"] = "ok" if free > 2 << 30 else "warn"
    return Finding("state", state, f"{folder}, {units.size(free)} free")


def check_memory() -> Finding:
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    free = int(facts["MemAvailable"].split()[0]) * 1024
    return Finding("memory", "ok" if free > 512 << 20 else "warn", f"{units.size(free)} available")


def check_ports() -> Finding:
    busy = []
    for name, kind, port in _PORTS:
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("", port))
            except OSError as error:
                busy.append(f"{name} {port} ({error.strerror})")
    if busy:
        return Finding("ports", "warn", f"in use: {', '.join(busy)}; daemons take free ones, unless these are ours")
    return Finding("ports", "ok", "7450 7451 7460 are free")


async def _check_api(where: context.Target) -> Finding:
    try:
        async with Client(where) as client:
            info = await client.info()
            nodes = await client.nodes()
    except WherryError as error:
        return Finding("API", "warn", str(error))
    alive = sum(node.state == "alive" for node in nodes)
    return Finding("API", "ok", f"{where.api}: cluster {info.get('cluster', '?')}, {alive} of {len(nodes)} nodes alive")


def _api_finding(ctx: click.Context) -> Finding:
    try:
        where = target(ctx)
    except UsageProblem:
        raise
    except WherryError as error:  # a broken cli.json is a finding, too
        return Finding("API", "warn", str(error))
    found: Finding = ui.run(_check_api, where)
    return found


LOCAL: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_libraries,
    check_core,
    check_tunnels,
    check_apt,
    check_tun,
    check_state,
    check_memory,
    check_ports,
)


@click.command(epilog=example("wherry doctor"))
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine and the way to the coordinator. Exits with 1 when something must be fixed."""
    findings = [check() for check in LOCAL]
    findings.append(_api_finding(ctx))
    if as_json:
        ui.print_json(findings)
    else:
        ui.table(("check", "state", "what"), [(f.check, f.state, f.message) for f in findings])
    ctx.exit(1 if any(f.state == "fail" for f in findings) else 0)


COMMANDS = (doctor,)
