"""What the command modules share: the target cluster, an open client, and common options."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from wherry import context, paths, ui
from wherry.client import Client
from wherry.image.store import Library

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def target(ctx: click.Context) -> context.Target:
    """The cluster that the flags, the environment or cli.json name."""
    root = ctx.find_root()
    given: dict[str, str] = root.obj or {}
    return context.load(given.get("api", ""), given.get("token", ""))


def with_client(ctx: click.Context, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run ``work`` with an open client and give its result."""
    where = target(ctx)

    async def main() -> T:
        async with Client(where) as client:
            return await work(client)

    result: T = ui.run(main)
    return result


def library() -> Library:
    return Library(paths.open_state(paths.home()) / "images")


def example(text: str) -> Any:
    """The epilog of a command's help: one example."""
    return f"Example: {text}"
