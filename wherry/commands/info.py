"""``wherry events``: what happened in the cluster."""

from __future__ import annotations

import json
import time

import click

from wherry import ui
from wherry.client import Client
from wherry.commands.common import example, json_option, with_client
from wherry.model import Event


@click.command(epilog=example("wherry events -f"))
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen.")
@click.option("--since", default=0, help="Only events with a higher id.")
@json_option
@click.pass_context
def events(ctx: click.Context, follow: bool, since: int, as_json: bool) -> None:
    """What happened: guests, nodes, migrations. With --json one object a line."""

    async def work(client: Client) -> None:
        async for event in client.events(since, follow=follow):
            click.echo(json.dumps(ui.plain(event)) if as_json else _line(event))

    with_client(ctx, work)


def _line(event: Event) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(event.time))
    subject = " ".join(x for x in (event.guest, f"on {event.node}" if event.node else "") if x)
    return f"{event.id:>6}  {when}  {event.kind:<22} {subject:<20} {event.message}".rstrip()


COMMANDS = (events,)
