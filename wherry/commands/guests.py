"""The life of guests: run, ps, stop, start, rm, exec, log, console."""

from __future__ import annotations

import sys
from typing import Any

import click

from wherry import portwish, ui, units
from wherry.client import Client
from wherry.commands import console as terminal
from wherry.commands.common import example, json_option, library, with_client
from wherry.errors import ApiError, UsageProblem
from wherry.model import Guest, Operation


@click.command(epilog=example("wherry run --name web --image debian --memory 256M --network lan --on n1"))
@click.option("--name", required=True)
@click.option("--image", required=True, help="Taken from the cluster, else pushed from the local library.")
@click.option("--memory", default="256M", show_default=True)
@click.option("--cpus", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--cpu", type=click.Choice(["rva22", "rv64gc"]), help="CPU model; rva22 unless given.")
@click.option("--icount", is_flag=True, help="Time from instructions: runs can be repeated (see docs/icount.md).")
@click.option("--seed", type=click.IntRange(1, 2**53 - 1), help="With --icount: the run to repeat; else one is drawn.")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="NAME[,vlan=10]",
    help="May be repeated, one NIC each; with the settings of `wherry port set`.",
)
@click.option("--on", help="The node; else the coordinator places it.")
@click.option("--cmdline", default="", help="Added to the kernel's command line.")
@click.option("--explain", is_flag=True, help="Only show where it would run and why.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    name: str,
    image: str,
    memory: str,
    cpus: int,
    cpu: str | None,
    icount: bool,
    seed: int | None,
    networks: tuple[str, ...],
    on: str | None,
    cmdline: str,
    explain: bool,
    as_json: bool,
) -> None:
    """Start a guest."""
    request: dict[str, Any] = {
        "name": name,
        "image": image,
        "memory": units.parse_size(memory, "--memory"),
        "cpus": cpus,
        "networks": [_nic(portwish.network(text)) for text in networks],
    }
    given = {"on": on, "cmdline": cmdline, "cpu": cpu, "icount": icount, "seed": seed}
    request |= {key: value for key, value in given.items() if value}

    async def work(client: Client) -> Any:
        await push_if_missing(client, image)
        if explain:
            return await client.explain(**request)
        with ui.bar(f"start {name}", total=None) as bar:
            await client.finish(
                await client.run(**request), lambda op: bar.update(0, None, f"start {name}: {op.state}")
            )
        return await client.guest(name)

    result = with_client(ctx, work)
    if as_json:
        ui.print_json(result)
    elif explain:
        _show_placement(result)
    else:
        click.echo(f"{name}: {result.state} on {result.node}  {' '.join(result.addresses)}".rstrip())


def _nic(wish: dict[str, Any]) -> Any:
    return wish if len(wish) > 1 else wish["network"]


async def push_if_missing(client: Client, name: str) -> None:
    """Send ``name`` from the local library when the coordinator has no image of that name."""
    if name in {image.name for image in await client.images()}:
        return
    images = library()
    if name not in images.names():
        return  # the coordinator's own answer names what it has
    made = images.get(name)
    with ui.bar(f"push {name}", total=made.size, in_bytes=True) as bar:
        await client.push(images, made, bar.update)


def _show_placement(answer: dict[str, Any]) -> None:
    verdicts, chosen = answer.get("nodes") or [], answer.get("chosen")
    rows = [
        (
            "->" if v.get("node") == chosen else "",
            v.get("node"),
            "yes" if v.get("fits") else "no",
            f"{v.get('score', 0):.2f}",
            "; ".join(map(str, v.get("reasons", []))),
        )
        for v in verdicts
    ]
    ui.table(("", "node", "fits", "score", "reasons"), rows, empty="no nodes")
    if not chosen:
        raise ApiError(503, "unavailable", "no node fits")


@click.command(epilog=example("wherry ps --json"))
@json_option
@click.pass_context
def ps(ctx: click.Context, as_json: bool) -> None:
    """The guests of the cluster."""
    found: list[Guest] = with_client(ctx, lambda client: client.guests())
    if as_json:
        ui.print_json(found)
        return
    rows = [
        (
            g.name,
            g.state,
            g.node,
            ",".join(g.addresses),
            units.size(g.memory),
            g.cpus,
            g.image,
            g.generation,
            units.age(g.created),
            g.reason,
        )
        for g in found
    ]
    columns = ("name", "state", "node", "address", "memory", "cpus", "image", "gen", "age", "reason")
    ui.table(columns, rows, empty="no guests; start one: wherry run --name web --image debian --network lan")


def _follow(ctx: click.Context, name: str, action: str, **request: Any) -> Operation:
    async def work(client: Client) -> Operation:
        with ui.bar(f"{action} {name}", total=None) as bar:
            operation = await client.guest_action(name, action, **request)
            return await client.finish(operation, lambda op: bar.update(0, None, f"{action} {name}: {op.state}"))

    return with_client(ctx, work)


@click.command(epilog=example("wherry stop web"))
@click.argument("name")
@click.option("--force", is_flag=True, help="Kill it; else it is asked to power off first.")
@click.option("--grace", default="10s", show_default=True, help="How long it may take to power off.")
@click.pass_context
def stop(ctx: click.Context, name: str, force: bool, grace: str) -> None:
    """Power a guest off; its name, addresses and disks stay."""
    _follow(ctx, name, "stop", force=force, grace_s=units.parse_seconds(grace, "--grace"))
    click.echo(f"{name}: stopped")


@click.command(epilog=example("wherry start web"))
@click.argument("name")
@click.pass_context
def start(ctx: click.Context, name: str) -> None:
    """Start a stopped guest again."""
    _follow(ctx, name, "start")
    click.echo(f"{name}: started")


@click.command(epilog=example("wherry rm web"))
@click.argument("names", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Do not ask it to power off first.")
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], force: bool) -> None:
    """Remove guests, running or not, with all they wrote."""

    async def work(client: Client) -> None:
        for name in names:
            await client.finish(await client.remove_guest(name, force=force))
            click.echo(f"{name}: removed")

    with_client(ctx, work)


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example("wherry exec web -- ping -c1 10.0.0.3"),
)
@click.argument("name")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-i", "--stdin", "with_stdin", is_flag=True, help="Send this command's input (1 MiB at most).")
@click.option("--timeout", default="60s", show_default=True, help="How long it may run.")
@click.pass_context
def exec_(ctx: click.Context, name: str, argv: tuple[str, ...], with_stdin: bool, timeout: str) -> None:
    """Run a command in a guest; its output and exit status come back."""
    if argv[0] == "--":
        argv = argv[1:]
    if not argv:
        raise UsageProblem("exec: no command after --")
    data = sys.stdin.buffer.read(1 << 20) if with_stdin else b""
    seconds = units.parse_seconds(timeout, "--timeout")
    result = with_client(ctx, lambda client: client.exec(name, argv, data, seconds))
    sys.stdout.buffer.write(result.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(result.stderr)
    sys.stderr.buffer.flush()
    if result.truncated:
        click.echo("wherry: the output was cut", err=True)
    ctx.exit(result.exit_code if result.exit_code >= 0 else 128 - result.exit_code)


@click.command(epilog=example("wherry log web"))
@click.argument("name")
@click.pass_context
def log(ctx: click.Context, name: str) -> None:
    """The kept part of a guest's console output."""
    data = with_client(ctx, lambda client: client.log(name))
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@click.command(epilog=example("wherry console web"))
@click.argument("name")
@click.pass_context
def console(ctx: click.Context, name: str) -> None:
    """A guest's serial console. Ctrl-] leaves."""
    with_client(ctx, lambda client: terminal.attach(client, name))


exec_.name = "exec"
COMMANDS = (run, ps, stop, start, rm, exec_, log, console)
