"""``wherry ca show|rotate|finish``: the cluster's certificate authority, and its replacement while everything runs."""

from __future__ import annotations

import time

import click

from wherry import ui
from wherry.commands.common import example, json_option, with_client
from wherry.model import Ca


@click.group()
def ca() -> None:
    """The cluster's certificate authority (CA)."""


@ca.command(epilog=example("wherry ca show --pem > cluster-ca.pem"))
@click.option("--pem", is_flag=True, help="Print the certificates to trust, for WHERRY_CA on another machine.")
@json_option
@click.pass_context
def show(ctx: click.Context, pem: bool, as_json: bool) -> None:
    """Which CA signs, until when, and which nodes follow it."""
    found = with_client(ctx, lambda client: client.ca())
    if pem:
        click.echo(found.pem, nl=False)
    else:
        _print(found, as_json)


@ca.command(epilog=example("wherry ca rotate"))
@json_option
@click.pass_context
def rotate(ctx: click.Context, as_json: bool) -> None:
    """Make a new CA, which signs from now on; the old one is trusted until `wherry ca finish`."""
    _print(with_client(ctx, lambda client: client.rotate_ca()), as_json)


@ca.command(epilog=example("wherry ca finish"))
@click.option("--force", is_flag=True, help="Drop the nodes that do not follow the new CA: they must join again.")
@json_option
@click.pass_context
def finish(ctx: click.Context, force: bool, as_json: bool) -> None:
    """Trust the old CA no more. Refused while nodes do not follow the new one, unless forced."""
    _print(with_client(ctx, lambda client: client.finish_ca(force=force)), as_json)


def _print(found: Ca, as_json: bool) -> None:
    if as_json:
        ui.print_json(found)
        return
    click.echo(f"CA     {found.fingerprint}, until {_day(found.expires)}, rotates by itself on {_day(found.rotates)}")
    if found.old is not None:
        old = found.old
        click.echo(f"old    {old.get('fingerprint', '?')}, trusted until: wherry ca finish")
    rows = [
        (n.get("name"), n.get("state"), "yes" if n.get("follows") else "no", n.get("reason", "")) for n in found.nodes
    ]
    ui.table(("node", "state", "follows", "why not"), rows, empty="no nodes")


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(when))


COMMANDS = (ca,)
