"""``wherry nodes``, ``drain``, ``uncordon`` and ``forget``."""

from __future__ import annotations

import click

from wherry import ui, units
from wherry.client import Client
from wherry.commands.common import example, json_option, with_client
from wherry.model import Operation


@click.command(epilog=example("wherry nodes"))
@json_option
@click.pass_context
def nodes(ctx: click.Context, as_json: bool) -> None:
    """The hosts of the cluster."""
    found = with_client(ctx, lambda client: client.nodes())
    if as_json:
        ui.print_json(found)
        return
    rows = [
        (
            n.name,
            n.state,
            n.guests,
            n.cpus,
            f"{units.size(n.memory_used)}/{units.size(n.memory)}",
            n.link,
            n.tunnel,
            units.duration(n.last_seen_s) if n.last_seen_s is not None else "-",
            n.software,
        )
        for n in found
    ]
    columns = ("name", "state", "guests", "cpus", "memory", "link", "tunnel", "seen", "software")
    ui.table(columns, rows, empty="no nodes; add one: wherry token create")


@click.command(epilog=example("wherry drain n1"))
@click.argument("name")
@click.option("--parallel", type=click.IntRange(1, 16), default=2, show_default=True, help="Guests at a time.")
@click.pass_context
def drain(ctx: click.Context, name: str, parallel: int) -> None:
    """Move every guest away from a node and keep new ones off it."""

    async def work(client: Client) -> Operation:
        operation = await client.drain(name, parallel=parallel)
        with ui.bar(f"drain {name}", total=None) as bar:
            return await client.finish(operation, lambda op: bar.update(0, None, f"drain {name}: {moved(op)}"))

    done = with_client(ctx, work)
    click.echo(f"{name}: drained; moved: {' '.join((done.result or {}).get('moved', [])) or 'none'}")


def moved(operation: Operation) -> str:
    """How far a batch is."""
    facts = operation.progress or {}
    return ", ".join(f"{key} {facts[key]}" for key in ("guest", "moved", "left") if key in facts)


@click.command(epilog=example("wherry uncordon n1"))
@click.argument("name")
@click.pass_context
def uncordon(ctx: click.Context, name: str) -> None:
    """Let a drained node take guests again."""
    with_client(ctx, lambda client: client.uncordon(name))
    click.echo(f"{name}: takes guests again")


@click.command(epilog=example("wherry forget n3"))
@click.argument("name")
@click.pass_context
def forget(ctx: click.Context, name: str) -> None:
    """Forget a node that is gone for good."""
    with_client(ctx, lambda client: client.remove_node(name))
    click.echo(f"{name}: removed")


COMMANDS = (nodes, drain, uncordon, forget)
