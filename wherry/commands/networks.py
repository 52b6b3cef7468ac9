"""``wherry networks`` and ``wherry network create|rm``."""

from __future__ import annotations

import click

from wherry import ui
from wherry.commands.common import example, json_option, with_client


@click.command(epilog=example("wherry networks --json"))
@json_option
@click.pass_context
def networks(ctx: click.Context, as_json: bool) -> None:
    """The virtual networks."""
    found = with_client(ctx, lambda client: client.networks())
    if as_json:
        ui.print_json(found)
    else:
        ui.table(
            ("name", "vni", "subnet", "mtu"), [(n.name, n.vni, n.subnet, n.mtu) for n in found], empty="no networks"
        )


@click.group()
def network() -> None:
    """Create and remove virtual networks."""


@network.command(epilog=example("wherry network create backend --subnet 10.8.0.0/24"))
@click.argument("name")
@click.option("--subnet", help="Addresses, as in 10.8.0.0/24; by default the coordinator picks a free one.")
@click.option("--mtu", type=click.IntRange(576, 9000), help="Bytes per frame.")
@click.pass_context
def create(ctx: click.Context, name: str, subnet: str | None, mtu: int | None) -> None:
    """Make a network."""
    made = with_client(ctx, lambda client: client.create_network(name, subnet, mtu))
    click.echo(f"{made.name}  vni {made.vni}  {made.subnet}")


@network.command(epilog=example("wherry network rm backend"))
@click.argument("name")
@click.pass_context
def rm(ctx: click.Context, name: str) -> None:
    """Remove a network that no guest uses."""
    with_client(ctx, lambda client: client.remove_network(name))
    click.echo(f"{name}: removed")


COMMANDS = (networks, network)
