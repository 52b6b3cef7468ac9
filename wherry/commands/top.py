"""``wherry top``: what the guests do now."""

from __future__ import annotations

import sys

import click
import trio
from rich.live import Live
from rich.table import Table

from wherry import ui, units
from wherry.client import Client
from wherry.commands.common import example, json_option, with_client
from wherry.model import GuestStats

COLUMNS = (
    "name",
    "node",
    "state",
    "mips",
    "cpu %",
    "slowed",
    "memory",
    "misses/s",
    "traps/s",
    "irqs/s",
    "exits/s",
    "rx/s",
    "tx/s",
)
_RATES = ("tlb_misses", "traps", "interrupts", "exits", "net_rx_frames", "net_tx_frames")


def short(value: float | None) -> str:
    """A count in at most five characters: 870, 12.3k, 4.56M."""
    if value is None:
        return "-"
    for unit in ("", "k", "M", "G"):
        if value < 999.5 or unit == "G":
            break
        value /= 1000
    return f"{value:.0f}{unit}" if not unit or value >= 99.95 else f"{value:.3g}{unit}"


def row(guest: GuestStats) -> tuple[str, ...]:
    mips, cpu, slowed = (guest.rate(name) for name in ("mips", "cpu_percent", "throttled_percent"))
    return (
        guest.name,
        guest.node or "-",
        guest.state,
        "-" if mips is None else f"{mips:.1f}",
        "-" if cpu is None else f"{cpu:.0f}",
        "-" if not slowed or slowed < 1 else f"{slowed:.0f} %",
        f"{'-' if guest.resident is None else units.size(guest.resident)}/{units.size(guest.memory)}",
        *(short(guest.rate(name)) for name in _RATES),
    )


def busiest_first(found: list[GuestStats]) -> list[GuestStats]:
    return sorted(found, key=lambda g: (-(g.rate("cpu_percent") or 0.0), g.name))


def _picture(found: list[GuestStats]) -> Table:
    view = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(COLUMNS):
        view.add_column(column.upper(), no_wrap=True, justify="left" if index < 3 else "right")
    for guest in busiest_first(found):
        view.add_row(*row(guest))
    return view


async def _watch(client: Client, interval: float) -> None:
    with Live(console=ui.stdout(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(_picture(await client.stats()), refresh=True)
            await trio.sleep(interval)


@click.command(epilog=example("wherry top --once"))
@click.option("--once", is_flag=True, help="Print one table and end; so does an output that is no terminal.")
@click.option("--interval", type=click.FloatRange(0.5, 3600), default=2.0, show_default=True, help="Seconds.")
@json_option
@click.pass_context
def top(ctx: click.Context, once: bool, interval: float, as_json: bool) -> None:
    """What the guests do: instructions, host CPU, memory, TLB misses, exits, frames. Ctrl-C ends it.

    Figures come with the nodes' reports, every three seconds. CPU 100 is one core of the host; slowed is the share
    of its time that a migration has it rest.
    """
    if as_json or once or not sys.stdout.isatty():
        found = busiest_first(with_client(ctx, lambda client: client.stats()))
        if as_json:
            ui.print_json(found)
        else:
            ui.table(COLUMNS, [row(guest) for guest in found], empty="no guests")
        return
    with_client(ctx, lambda client: _watch(client, interval))


COMMANDS = (top,)
