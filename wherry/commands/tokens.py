"""``wherry token create|list``: one-time tokens with which nodes join."""

from __future__ import annotations

import click

from wherry import ui, units
from wherry.client import Client
from wherry.commands.common import example, json_option, with_client
from wherry.model import JoinToken


@click.group()
def token() -> None:
    """Tokens for nodes that join."""


@token.command(epilog=example("wherry token create --ttl 15m"))
@click.option("--ttl", default="1h", show_default=True, help="How long it may be used: 30s, 15m, 1h, 7d.")
@json_option
@click.pass_context
def create(ctx: click.Context, ttl: str, as_json: bool) -> None:
    """Make a token for one node, and print the command that uses it."""
    seconds = units.parse_seconds(ttl, "--ttl")

    async def work(client: Client) -> tuple[JoinToken, str]:
        made = await client.create_join_token(seconds)
        info = await client.info()
        return made, str(info.get("link", ""))

    made, link = with_client(ctx, work)
    if as_json:
        ui.print_json(made)
    else:
        join = made.join or (f"{made.token}@{link}" if link else f"{made.token}@HOST:7450")
        click.echo(f"wherry node --name NAME --join {join}")


@token.command(name="list", epilog=example("wherry token list"))
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """The tokens that were made; their secrets are not kept."""
    found = with_client(ctx, lambda client: client.join_tokens())
    if as_json:
        ui.print_json(found)
    else:
        rows = [(t.id, t.state, units.age(t.created)) for t in found]
        ui.table(("id", "state", "age"), rows, empty="no tokens")


COMMANDS = (token,)
