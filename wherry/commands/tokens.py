"""``wherry token create|ls|revoke``: one-time tokens with which nodes join, and the API's, which carry a role."""

from __future__ import annotations

import dataclasses
import time

import click

from wherry import ui, units
from wherry.client import Client
from wherry.commands.common import example, json_option, with_client
from wherry.errors import UsageProblem
from wherry.model import ApiToken, JoinToken

ROLES = ("viewer", "operator", "admin")


@click.group()
def token() -> None:
    """Tokens: for nodes that join, and for people and programs that use the API."""


@token.command(epilog=example("wherry token create --role viewer --name prometheus --ttl 90d"))
@click.option("--role", type=click.Choice(ROLES), help="A token of the API; without it, one for a node that joins.")
@click.option("--name", default="", help="With --role: whose it is, as the audit log will say. The role, unless given.")
@click.option("--ttl", help="How long it may be used: 30s, 15m, 1h, 7d. A node's: 1h; the API's: until it is revoked.")
@json_option
@click.pass_context
def create(ctx: click.Context, role: str | None, name: str, ttl: str | None, as_json: bool) -> None:
    """Make a token for one node, and print the command that uses it; or one with a role, printed this once."""
    if role is None and name:
        raise UsageProblem("--name goes with --role: a node has a name of its own")
    seconds = units.parse_seconds(ttl, "--ttl") if ttl else None
    if role is None:
        _create_join(ctx, seconds or 3600.0, as_json)
        return
    made = with_client(ctx, lambda client: client.create_api_token(name or role, role, seconds))
    if as_json:
        ui.print_json(made)
    else:
        click.echo(made.token)


def _create_join(ctx: click.Context, seconds: float, as_json: bool) -> None:
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


@token.command(name="ls", epilog=example("wherry token ls --json"))
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """The tokens that were made; their secrets are not kept."""

    async def work(client: Client) -> tuple[list[ApiToken], list[JoinToken]]:
        return await client.api_tokens(), await client.join_tokens()

    people, nodes = with_client(ctx, work)
    if as_json:
        kinds = [("api", t) for t in people] + [("join", t) for t in nodes]
        ui.print_json([{"kind": kind, **_public(t)} for kind, t in kinds])
        return
    now = time.time()
    rows = [(t.id, t.role, t.name, _left(t.expires, now), units.age(t.created)) for t in people]
    rows += [(t.id, "join", "", t.state, units.age(t.created)) for t in nodes]
    ui.table(("id", "role", "name", "good for", "age"), rows, empty="no tokens")


def _public(made: ApiToken | JoinToken) -> dict[str, object]:
    return {key: value for key, value in dataclasses.asdict(made).items() if key not in ("token", "join")}


def _left(expires: float | None, now: float) -> str:
    if expires is None:
        return "ever"
    return units.duration(expires - now) if expires > now else "expired"


@token.command(epilog=example("wherry token revoke 4hw7qk2a"))
@click.argument("ident", metavar="ID")
@click.pass_context
def revoke(ctx: click.Context, ident: str) -> None:
    """End a token with a role at once; its ID is in `wherry token ls`, and in the token itself."""
    with_client(ctx, lambda client: client.revoke_api_token(ident))
    click.echo(f"{ident}: revoked")


COMMANDS = (token,)
