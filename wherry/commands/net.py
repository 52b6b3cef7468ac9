"""``wherry net top``, ``wherry net trace``: what goes through the switches now."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click
import trio
from rich.live import Live
from rich.table import Table

from wherry import ui
from wherry.client import Client
from wherry.commands.common import example, json_option, with_client
from wherry.commands.top import short
from wherry.errors import ApiError
from wherry.model import Net, Port

COLUMNS = ("what", "name", "network", "node", "rx/s", "rx bit/s", "tx/s", "tx bit/s", "drops/s", "dropped")
NARROW = 110  # columns of a terminal: below, bits are shown and frames are not
Counters = Mapping[str, Any]


@click.group()
def net() -> None:
    """What goes through the networks."""


def _key(kind: str, item: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("node", "port", "id") if kind == "port" else ("node", "peer") if kind == "tunnel" else ("name",)
    return (kind, *(str(item.get(name)) for name in names))


def _sampled(picture: Net) -> dict[str, float]:
    return {str(node["name"]): float(node["sampled"]) for node in picture.nodes}


def _each(picture: Net) -> list[tuple[str, Mapping[str, Any], str]]:
    """Kind, item and node of all that has counters."""
    found = [("port", port, str(port.get("node"))) for port in picture.ports if port.get("counters")]
    found += [("tunnel", tunnel, str(tunnel.get("node"))) for tunnel in picture.tunnels if tunnel.get("counters")]
    return found + [("switch", node, str(node.get("name"))) for node in picture.nodes]


def _way(tunnel: Mapping[str, Any]) -> str | None:
    if "path" not in tunnel:  # an older coordinator does not say
        return None
    via = tunnel.get("via")
    if via is None:
        return "nothing"
    return str(tunnel.get("path") or "nothing") if via == tunnel.get("peer") else str(via)


def rates(before: Net, after: Net) -> list[dict[str, Any]]:
    """One entry for each port, tunnel and switch of ``after``: ``kind name network node by rates dropped``.

    ``by``, of a tunnel: "udp", "tcp", the node that relays it, or "nothing"; None where nobody says, and of the others.

    ``rates``: per second, between the two pictures by the clock of the node; None where it was not in the first, or has
    begun anew since. ``dropped``: totals by reason, those that are not zero."""
    was = {_key(kind, item): item["counters"] for kind, item, _ in _each(before)}
    clocks = _sampled(before), _sampled(after)
    out = []
    for kind, item, node in _each(after):
        counters: Counters = item["counters"]
        old = was.get(_key(kind, item))
        seconds = clocks[1].get(node, 0.0) - clocks[0].get(node, 0.0)
        anew = old is None or any(counters.get(name, 0) < value for name, value in old.items())
        speeds = None
        if old is not None and not anew and seconds > 0:
            speeds = {name: (value - old.get(name, 0)) / seconds for name, value in counters.items()}
        by = _way(item) if kind == "tunnel" else None
        to = f"to {item.get('peer')}" + (f" by {by}" if by not in (None, "udp") else "")
        name = {"port": item.get("name"), "tunnel": to, "switch": "all"}[kind]
        out.append(
            {
                "kind": str(item.get("kind")) if kind == "port" else kind,
                "name": name,
                "network": item.get("network"),
                "node": node,
                "by": by,
                "rates": speeds,
                "dropped": {k.removeprefix("drop_"): v for k, v in counters.items() if k.startswith("drop_") and v},
            }
        )
    return out


def row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    speeds: Counters | None = entry["rates"]

    def speed(*names: str, factor: int = 1) -> str:
        return short(None if speeds is None else factor * sum(speeds.get(name, 0.0) for name in names))

    drops = [name for name in (speeds or {}) if name.startswith("drop_")]
    reasons = " ".join(f"{name}={short(count)}" for name, count in entry["dropped"].items())
    return (
        str(entry["kind"]),
        str(entry["name"]),
        str(entry["network"] or "-"),
        str(entry["node"]),
        speed("rx_frames"),
        speed("rx_bytes", factor=8),
        speed("tx_frames"),
        speed("tx_bytes", factor=8),
        speed(*drops),
        reasons or "-",
    )


def busiest_first(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ports before tunnels before switches, each by what goes through."""

    def weight(entry: dict[str, Any]) -> tuple[int, float, str, str]:
        speeds = entry["rates"] or {}
        order = {"tunnel": 1, "switch": 2}.get(entry["kind"], 0)
        return order, -speeds.get("rx_bytes", 0.0) - speeds.get("tx_bytes", 0.0), entry["node"], str(entry["name"])

    return sorted(entries, key=weight)


def _picture(entries: list[dict[str, Any]], width: int) -> Table:
    view = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    shown = [n for n, column in enumerate(COLUMNS) if width >= NARROW or column not in ("rx/s", "tx/s")]
    for index in shown:
        last, number = index == len(COLUMNS) - 1, 4 <= index < len(COLUMNS) - 1
        # Names and reasons may go on in the next line; figures stay whole.
        view.add_column(
            COLUMNS[index].upper(),
            no_wrap=not last and index != 1,
            overflow="fold",
            min_width=12 if last else None,
            justify="right" if number else "left",
        )
    for entry in busiest_first(entries):
        cells = row(entry)
        view.add_row(*(cells[index] for index in shown))
    return view


async def _watch(client: Client, interval: float) -> None:
    console = ui.stdout()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        before = await client.net()
        while True:
            await trio.sleep(interval)
            after = await client.net()
            live.update(_picture(rates(before, after), console.width), refresh=True)
            before = after


async def _once(client: Client, interval: float) -> list[dict[str, Any]]:
    before = await client.net()
    await trio.sleep(interval)
    return rates(before, await client.net())


@net.command(epilog=example("wherry net top --once"))
@click.option("--once", is_flag=True, help="Print one table and end; so does an output that is no terminal.")
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=1.0, show_default=True, help="Seconds.")
@json_option
@click.pass_context
def top(ctx: click.Context, once: bool, interval: float, as_json: bool) -> None:
    """Ports, tunnels and switches: frames and bits a second, and what was dropped, by reason. Ctrl-C ends it.

    A tunnel is UDP unless its name says by what else: tcp, another node that relays it, or nothing.
    rx is what came in at the port or tunnel, tx what went out there. Reasons count since the port was made.
    """
    if not (as_json or once or not sys.stdout.isatty()):
        with_client(ctx, lambda client: _watch(client, interval))
        return
    found = busiest_first(with_client(ctx, lambda client: _once(client, interval)))
    if as_json:
        ui.print_json(found)
    else:
        ui.table(COLUMNS, [row(entry) for entry in found], empty="no node answers")


_TYPES = {"0800": "IPv4", "0806": "ARP", "86dd": "IPv6", "8035": "RARP", "88cc": "LLDP"}
# Said at the door, before anybody asks where the frame is to go.
_AT_THE_DOOR = {"disabled", "guard", "invalid", "reserved", "vlan", "spoofed", "moving", "fenced"}


def _type(head: bytes) -> str:
    """The frame's type behind its VLAN tags, which are named."""
    at, tags = 12, ""
    while head[at : at + 2].hex() in ("8100", "88a8") and len(head) >= at + 6:
        tags += f"vlan {int.from_bytes(head[at + 2 : at + 4], 'big') & 0xFFF} "
        at += 4
    kind = head[at : at + 2].hex()
    if len(kind) < 4:
        return f"{tags}-"
    if int(kind, 16) < 0x600:  # a length: LLC, as of spanning tree
        return f"{tags}LLC"
    return tags + _TYPES.get(kind, kind)


def note(item: Mapping[str, Any], names: Mapping[tuple[str, int], str] | None = None) -> tuple[str, ...]:
    """One line of a trace. ``names``: of ``("port", number)`` and ``("node", id)``."""
    head = bytes.fromhex(str(item["head"]))
    way, told = str(item["way"]), str(item["reason"]).removeprefix("drop_")
    if told in _AT_THE_DOOR:
        where = "nowhere"
    elif way in ("port", "node"):
        where = (names or {}).get((way, item["to"]), f"{way} {item['to']}")
    else:
        where = {"flood": "everybody", "back": "its own port"}[way]
    return (head[6:12].hex(":"), head[:6].hex(":"), _type(head), str(item["length"]), where, told or "-")


async def _port(client: Client, name: str, on: str | None) -> Port:
    """The one that ``name`` (also a MAC or an id) says."""
    found = [p for p in await client.ports() if p.port]
    fitting = [p for p in found if name in (p.name, p.key) and on in (None, p.node)]
    if not fitting:
        known = ", ".join(f"{p.name} on {p.node}" for p in found) or "none"
        raise ApiError(404, "not_found", f"no port is named {name}; known: {known}")
    if len(fitting) > 1:
        several = ", ".join(f"{p.key} in {p.network} on {p.node}" for p in fitting)
        raise ApiError(409, "conflict", f"{name} has several ports: give --on, or one of {several}")
    return fitting[0]


async def _names(client: Client, node: str | None) -> dict[tuple[str, int], str]:
    """What a trace at ``node`` names by number."""
    out = {("node", n.id): f"node {n.name}" for n in await client.nodes()}
    return out | {("port", p.port): p.name for p in await client.ports() if p.port and p.node == node}


@net.command(epilog=example("wherry net trace tap0"))
@click.argument("name")
@click.option("--on", metavar="NODE", help="The node, where several have one of this name.")
@click.option("--seconds", type=click.FloatRange(0.1, 10), default=2.0, show_default=True)
@click.option("--every", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Note one in so many.")
@json_option
@click.pass_context
def trace(ctx: click.Context, name: str, on: str | None, seconds: float, every: int, as_json: bool) -> None:
    """Where the frames go that come in at a port (of a guest or an attached one), and why they were dropped.

    At most the last 256 of the time.
    """

    async def work(client: Client) -> dict[str, Any]:
        port = await _port(client, name, on)
        traced = await client.trace(node=port.node, port=port.port, every=every, seconds=seconds)
        return {**traced, "names": {} if as_json else await _names(client, port.node)}

    found = with_client(ctx, work)
    if as_json:
        ui.print_json({key: value for key, value in found.items() if key != "names"})
        return
    lines = [note(n, found["names"]) for n in found["notes"]]
    ui.table(("from", "to", "type", "bytes", "goes to", "dropped"), lines, empty=f"no frames in {seconds:g} s")
    if found.get("lost"):
        click.echo(f"{found['lost']} more came than are kept; note fewer: --every {every * 10}", err=True)


_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}


def bits(text: str) -> int | None:
    """``200M``, ``1.5G``, ``unlimited`` (0), ``default`` (None: as if it had never been set): bits a second."""
    word = text.strip().lower().removesuffix("bit/s").removesuffix("bit").strip()
    if word in ("unlimited", "default"):
        return 0 if word == "unlimited" else None
    number, factor = (word[:-1], _UNITS[word[-1]]) if word[-1:] in _UNITS else (word, 1)
    try:
        found = float(number) * factor
    except ValueError:
        found = -1.0
    if not 1 <= found < 1e13:  # also what is no number
        raise click.UsageError(f"{text!r} is no rate: bits a second as 200M or 1.5G, unlimited, or default")
    return round(found)


def _rates_table(found: list[dict[str, Any]]) -> None:
    told = [
        (r["node"], r["to"] or "each other", f"{short(r['rate'])}bit/s" if r["rate"] else "unlimited") for r in found
    ]
    ui.table(("from", "to", "rate"), told, empty="no tunnel has a rate")


@net.command(epilog=example("wherry net rate n1 200M --to n2"))
@click.argument("node", required=False)
@click.argument("rate", required=False)
@click.option("--to", metavar="NODE", help="That tunnel; else each of the node's that has no rate of its own.")
@json_option
@click.pass_context
def rate(ctx: click.Context, node: str | None, rate: str | None, to: str | None, as_json: bool) -> None:
    """What a node sends to other nodes at most, in bits a second: 200M, 1.5G, unlimited; default takes it back.

    Each tunnel has its rate, tunnel headers included; what comes faster waits, fairly by flows, and is marked or
    dropped when it waits long. Without RATE: what is set, of all nodes or one.
    """
    if node is not None and rate is not None:
        wanted = bits(rate)
        done = with_client(ctx, lambda client: client.set_rate(node, to, wanted))
        found, waiting = done["rates"], done["waiting"]
    else:
        found, waiting = with_client(ctx, lambda client: client.rates()), []
    shown = [r for r in found if node in (None, r["node"]) and to in (None, r["to"])]
    if as_json:
        ui.print_json(shown)
    else:
        _rates_table(shown)
    if waiting:
        click.echo(f"kept; told when it is back: {', '.join(waiting)}", err=True)


COMMANDS = (net,)
