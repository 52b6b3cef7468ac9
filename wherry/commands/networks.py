"""``wherry networks`` and ``wherry network create|set|rm``."""

from __future__ import annotations

import click

from wherry import ui
from wherry.commands.common import example, json_option, with_client
from wherry.model import Network


@click.command(epilog=example("wherry networks --json"))
@json_option
@click.pass_context
def networks(ctx: click.Context, as_json: bool) -> None:
    """The virtual networks."""
    found = with_client(ctx, lambda client: client.networks())
    if as_json:
        ui.print_json(found)
        return
    rows = [
        (
            n.name,
            n.vni,
            n.subnet,
            n.mtu,
            n.stations or "all",
            n.storm or "unlimited",
            "on" if n.proxy else "off",
            "yes" if n.bound else "no",
            _path(n),
        )
        for n in found
    ]
    ui.table(("name", "vni", "subnet", "mtu", "stations", "storm", "proxy", "bound", "path"), rows, empty="no networks")


def _path(found: Network) -> str:
    return f"{' to '.join(found.narrow)} carries {found.carries}" if found.narrow else ""


_mtu = click.option("--mtu", type=click.IntRange(576, 9000), help="Bytes per packet.")
_stations = click.option("--stations", type=click.IntRange(0, 1 << 20), help="Learned addresses at most; 0: all.")
_storm = click.option(
    "--storm",
    type=click.IntRange(0, 1_000_000_000),
    help="Frames a second that each port may have flooded: broadcasts, multicasts, to unknown addresses; 0: any.",
)
_proxy = click.option(
    "--proxy/--no-proxy",
    default=None,
    help="Whether switches answer ARP and neighbour solicitations for stations that they know.",
)
_bound = click.option(
    "--bound/--no-bound",
    default=None,
    help="Whether guests may send IPv4 from the address that they were given only, and nobody else from it.",
)


@click.group()
def network() -> None:
    """Create, change and remove virtual networks."""


@network.command(epilog=example("wherry network create backend --subnet 10.8.0.0/24"))
@click.argument("name")
@click.option("--subnet", help="Addresses, as in 10.8.0.0/24; by default the coordinator picks a free one.")
@_mtu
@_stations
@_storm
@_proxy
@_bound
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    subnet: str | None,
    mtu: int | None,
    stations: int | None,
    storm: int | None,
    proxy: bool | None,
    bound: bool | None,
) -> None:
    """Make a network."""
    given = {"subnet": subnet, "mtu": mtu, "stations": stations, "storm": storm, "proxy": proxy, "bound": bound}
    made = with_client(ctx, lambda client: client.create_network(name, **given))
    click.echo(f"{made.name}  vni {made.vni}  {made.subnet}")


@network.command("set", epilog=example("wherry network set lan --storm 500"))
@click.argument("name")
@_mtu
@_stations
@_storm
@_proxy
@_bound
@json_option
@click.pass_context
def change(
    ctx: click.Context,
    name: str,
    mtu: int | None,
    stations: int | None,
    storm: int | None,
    proxy: bool | None,
    bound: bool | None,
    as_json: bool,
) -> None:
    """Change a network's limits, which holds at once, or its MTU, which guests have that start from then on.

    The MTU can only become smaller while the network is in use.
    """
    given = {"mtu": mtu, "stations": stations, "storm": storm, "proxy": proxy, "bound": bound}
    wish = {key: value for key, value in given.items() if value is not None}
    if not wish:
        raise click.UsageError("nothing to change: give --mtu, --stations, --storm, --proxy or --bound")
    done = with_client(ctx, lambda client: client.set_network(name, **wish))
    if as_json:
        ui.print_json(done)
        return
    told = (f"mtu {done['mtu']}", f"stations {done['stations'] or 'all'}", f"storm {done['storm'] or 'unlimited'}")
    click.echo(
        f"{name}: {', '.join(told)}, proxy {'on' if done['proxy'] else 'off'}{', bound' if done['bound'] else ''}"
    )
    if done["waiting"]:
        click.echo(f"kept; told when they are back: {', '.join(done['waiting'])}", err=True)


@network.command(epilog=example("wherry network rm backend"))
@click.argument("name")
@click.pass_context
def rm(ctx: click.Context, name: str) -> None:
    """Remove a network that no guest uses."""
    with_client(ctx, lambda client: client.remove_network(name))
    click.echo(f"{name}: removed")


COMMANDS = (networks, network)
