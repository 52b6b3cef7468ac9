"""``wherry port set``, ``wherry port release``: what a port lets through, and what is done when it was stopped."""

from __future__ import annotations

import re
from typing import Any

import click

from wherry import portwish, ui
from wherry.client import Client
from wherry.commands.common import example, json_option, with_client
from wherry.errors import ApiError

_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$", re.I)


@click.group()
def port() -> None:
    """What ports let through: VLANs, limits, the guard against loops."""


async def find(client: Client, name: str, network: str | None, on: str | None) -> tuple[str, str]:
    """Key and name of a port by what people call it: a guest, an attached port, a MAC, an id."""
    known = [(p.id, p.name, p.network, p.node) for p in await client.ports() if p.id]
    for guest in await client.guests():
        known += [(str(n.get("mac")), guest.name, str(n.get("network")), guest.node) for n in guest.nics]
    fitting = [
        (key, called, where, node)
        for key, called, where, node in known
        if name.lower() in (key, called) and network in (None, where) and on in (None, node)
    ]
    if not fitting:
        there = ", ".join(sorted({called for _, called, _, _ in known})) or "none"
        limits = "".join(f" {word} {value}" for word, value in (("in network", network), ("on node", on)) if value)
        raise ApiError(404, "not_found", f"no port {name}{limits}; ports are of: {there}")
    if len(fitting) > 1:
        several = ", ".join(f"{key} (network {where}, node {node or '-'})" for key, _, where, node in fitting)
        raise ApiError(409, "conflict", f"{name} has several ports: give --network, --on or one of {several}")
    return fitting[0][0], fitting[0][1]


@port.command("set", epilog=example("wherry port set web --vlan 10"))
@click.argument("name")
@click.option("--vlan", help="10: untagged, in VLAN 10. 10:20, 10:100-199, 10: (one): a trunk. none: as frames come.")
@click.option("--native", help="The VLAN of a trunk's untagged frames; none: it takes none.")
@click.option("--guard", help="on: a bridge's BPDU shuts it. off. default: on at TAPs only.")
@click.option("--stations", help="So many learned addresses at most; all: as many as the network takes.")
@click.option("--storm", help="So many flooded frames a second; unlimited; default: as the network has it.")
@click.option("--broadcast", help="Of these so many broadcasts, counted apart; default: they share --storm.")
@click.option("--multicast", help="The same of multicasts.")
@click.option("--unknown", help="The same of frames to addresses that nobody is known to have.")
@click.option("--open", "opened", is_flag=True, help="Open it after the guard has shut it.")
@click.option("--network", help="Which, of a guest with several.")
@click.option("--on", metavar="NODE", help="The node, where several have one of this name.")
@json_option
@click.pass_context
def change(
    ctx: click.Context,
    name: str,
    vlan: str | None,
    native: str | None,
    guard: str | None,
    stations: str | None,
    storm: str | None,
    broadcast: str | None,
    multicast: str | None,
    unknown: str | None,
    opened: bool,
    network: str | None,
    on: str | None,
    as_json: bool,
) -> None:
    """Change what a port lets through, while it is in use: NAME is a guest's, a TAP's, a socket's, or a MAC.

    The settings stay with the guest wherever it moves, and with a TAP or socket until it is detached.
    """
    given = {"vlan": vlan, "native": native, "guard": guard, "stations": stations}
    given |= {"storm": storm, "broadcast": broadcast, "multicast": multicast, "unknown": unknown}
    wish = {key: portwish.setting(key, text, f"--{key}") for key, text in given.items() if text is not None}
    if not wish and not opened:
        raise click.UsageError(f"nothing to change: give --{', --'.join(given)} or --open")

    async def work(client: Client) -> dict[str, Any]:
        key, _ = await find(client, name, network, on)
        return await client.set_port(key, **wish, **({"open": True} if opened else {}))

    done = with_client(ctx, work)
    if as_json:
        ui.print_json(done)
        return
    click.echo(f"{done['name']} in {done['network']}: {portwish.told(done['settings']) or 'no settings of its own'}")
    if not done["applied"]:
        node = done["node"]
        click.echo(f"kept; {f'node {node} takes it when it is back' if node else 'it holds from the start'}", err=True)


@port.command(epilog=example("wherry port release tap0"))
@click.argument("name")
@click.option("--network", help="Which, of a guest or a MAC in several.")
@click.option("--on", metavar="NODE", help="The node, where several have a port of this name.")
@click.pass_context
def release(ctx: click.Context, name: str, network: str | None, on: str | None) -> None:
    """Let a station move again that is held since it was in two places: NAME is its MAC, or the port where it is held.

    It is let go by itself after three minutes; while two hosts have the address, or there is a loop, it is held again.
    """

    async def work(client: Client) -> list[str]:
        if _MAC.match(name):
            return await client.release(mac=name.lower(), **({"network": network} if network else {}))
        key, _ = await find(client, name, network, on)
        return await client.release(port=key)

    found = with_client(ctx, work)
    click.echo(f"{', '.join(found)}: released" if found else f"{name}: nothing is held")


COMMANDS = (port,)
