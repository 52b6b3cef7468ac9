"""``wherry attach``, ``wherry detach``, ``wherry ports``: host interfaces and other programs in a network."""

from __future__ import annotations

import click

from wherry import portwish, ui
from wherry.client import Client
from wherry.commands.common import example, json_option, with_client
from wherry.errors import ApiError
from wherry.model import Port


@click.command(epilog=example("wherry attach tap0 --network lan --on n1"))
@click.argument("tap", required=False)
@click.option(
    "--network",
    required=True,
    metavar="NAME[,vlan=10]",
    help="The network that it joins; with the settings of `wherry port set`.",
)
@click.option("--unix", "path", metavar="PATH", help="Instead of a TAP: a datagram socket, one frame a datagram.")
@click.option("--udp", metavar="HOST:PORT", help="Instead of a TAP: the same over UDP.")
@click.option("--peer", default="", help="With --unix, --udp: where frames go; else to whoever sent the last one.")
@click.option("--on", metavar="NODE", help="The node whose host it is; may be left out where there is one.")
@json_option
@click.pass_context
def attach(
    ctx: click.Context,
    tap: str | None,
    network: str,
    path: str | None,
    udp: str | None,
    peer: str,
    on: str | None,
    as_json: bool,
) -> None:
    """Put a TAP of a node's host, or another program, into a network.

    A TAP that is not there is made, which needs CAP_NET_ADMIN, and stays until it is detached, with or without an
    agent. One that is there is taken. The sockets carry what QEMU's -netdev dgram speaks.
    """
    given = [(kind, local) for kind, local in (("tap", tap), ("unix", path), ("udp", udp)) if local]
    if len(given) != 1:
        raise click.UsageError("give one of a TAP's name, --unix PATH and --udp HOST:PORT")
    (kind, local) = given[0]
    if peer and kind == "tap":
        raise click.UsageError("--peer goes with --unix and --udp")
    request = {**portwish.network(network), "kind": kind, "local": local, "remote": peer, **({"on": on} if on else {})}
    made = with_client(ctx, lambda client: client.attach(**request))
    if as_json:
        ui.print_json(made)
    else:
        click.echo(f"{made.name}: in network {made.network} on node {made.node}")


def _which(found: list[Port], name: str, on: str | None) -> Port:
    fitting = [p for p in found if p.id and name in (p.name, p.id) and on in (None, p.node)]
    if not fitting:
        known = ", ".join(f"{p.name} on {p.node}" for p in found if p.id) or "none"
        raise ApiError(404, "not_found", f"no attached port {name}{f' on node {on}' if on else ''}; attached: {known}")
    if len(fitting) > 1:
        where = ", ".join(str(p.node) for p in fitting)
        raise ApiError(409, "conflict", f"{name} is attached on several nodes: give --on with one of {where}")
    return fitting[0]


@click.command(epilog=example("wherry detach tap0 --on n1"))
@click.argument("name")
@click.option("--on", metavar="NODE", help="The node, where several have one of this name.")
@click.pass_context
def detach(ctx: click.Context, name: str, on: str | None) -> None:
    """Take a TAP or socket out of its network; a TAP that wherry made is removed."""

    async def work(client: Client) -> None:
        port = _which(await client.ports(), name, on)
        assert port.id is not None
        await client.detach(port.id)

    with_client(ctx, work)
    click.echo(f"{name}: detached")


@click.command(epilog=example("wherry ports --json"))
@json_option
@click.pass_context
def ports(ctx: click.Context, as_json: bool) -> None:
    """All switch ports: guests' NICs, TAPs, sockets; what they let through, and whether one is shut."""
    found = with_client(ctx, lambda client: client.ports())
    if as_json:
        ui.print_json(found)
        return
    rows = [(p.name, p.kind, p.network, p.node, p.mac, portwish.told(p.settings), _state(p)) for p in found]
    ui.table(("name", "kind", "network", "node", "mac", "settings", "state"), rows, empty="no ports")


def _state(port: Port) -> str:
    return f"{port.state}: {port.reason}" if port.reason else port.state


COMMANDS = (attach, detach, ports)
