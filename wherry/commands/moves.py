"""``wherry migrate``, ``migrations`` and ``migration report``: move guests, and say how it went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wherry import movereport, ui, units
from wherry.client import Client
from wherry.commands.common import example, json_option, with_client
from wherry.commands.nodes import moved
from wherry.errors import UsageProblem
from wherry.model import Guest, Operation

PAGE = 4096
MODES = ("auto", "precopy", "postcopy", "hybrid", "stop-and-copy", "cold")


@click.command(epilog=example("wherry migrate web --to n2; wherry migrate --all --from n1"))
@click.argument("name", metavar="GUEST", required=False)
@click.option("--all", "everything", is_flag=True, help="Instead of one guest, all that run on the node --from names.")
@click.option("--from", "origin", metavar="NODE", help="With --all.")
@click.option("--parallel", type=click.IntRange(1, 16), help="With --all: guests at a time; 2 unless given.")
@click.option("--to", help="The target node; else the coordinator picks one.")
@click.option("--mode", type=click.Choice(MODES), help="auto unless given: chosen from how fast the guest writes.")
@click.option(
    "--on-stall",
    type=click.Choice(("abort", "throttle", "postcopy")),
    help="When copying alone would not end; throttle unless given.",
)
@click.option(
    "--max-blackout", default="30ms", show_default=True, help="Keep copying until the pause would be this short."
)
@click.option("--bandwidth", default="", help="Bytes per second at most, as in 20M.")
@click.option("--deadline", default="", help="Be done by then, as in 90s; 600s unless given.")
@click.option("--streams", type=click.IntRange(1, 16), help="Page streams at a time.")
@click.option(
    "--protect",
    is_flag=True,
    help="Post-copy: what the guest writes goes back, so that its source can run it again if the target's copy dies.",
)
@click.option("--dry-run", is_flag=True, help="Only measure, and tell what it would take; nothing is moved.")
@click.option("--verify", is_flag=True, help="Compare checksums of all RAM on both ends before the switch.")
@json_option
@click.pass_context
def migrate(
    ctx: click.Context,
    /,
    name: str | None,
    everything: bool,
    origin: str | None,
    parallel: int | None,
    to: str | None,
    dry_run: bool,
    as_json: bool,
    **wish: Any,
) -> None:
    """Move a running guest to another node, or all of a node's."""
    request = _request(to=to, **wish)
    if everything:
        if name is not None or origin is None or dry_run:
            raise UsageProblem("migrate --all needs --from NODE, no guest, and no --dry-run")
        _migrate_all(ctx, origin, {**request, **({"parallel": parallel} if parallel else {})}, as_json)
        return
    if name is None or origin is not None or parallel is not None:
        raise UsageProblem("migrate needs a guest, or --all --from NODE")
    if dry_run:
        found = with_client(ctx, lambda client: client.estimate(name, **request))
        if as_json:
            ui.print_json(found)
        else:
            ui.table(("figure", "predicted"), forecast(found))
        return

    async def work(client: Client) -> tuple[Operation, Guest]:
        with ui.bar(f"migrate {name}") as bar:
            operation = await client.guest_action(name, "migrate", **request)
            done = await client.finish(operation, lambda op: _show_copy(bar, name, op.progress or {}))
        return done, await client.guest(name)

    operation, guest = with_client(ctx, work)
    if as_json:
        ui.print_json(operation)
    else:
        click.echo(f"{name}: now on {guest.node}, generation {guest.generation}")
        ui.table(("figure", "value", "predicted"), summary(operation.result or {}))


def _migrate_all(ctx: click.Context, origin: str, request: dict[str, Any], as_json: bool) -> None:
    async def work(client: Client) -> Operation:
        operation = await client.migrate_all(origin, **request)
        with ui.bar(f"migrate from {origin}", total=None) as bar:
            return await client.finish(operation, lambda op: bar.update(0, None, f"from {origin}: {moved(op)}"))

    done = with_client(ctx, work)
    if as_json:
        ui.print_json(done)
    else:
        click.echo(f"{origin}: moved: {' '.join((done.result or {}).get('moved', [])) or 'none'}")


def _request(*, max_blackout: str, bandwidth: str, deadline: str, **wish: Any) -> dict[str, Any]:
    """The body of the call; what was not given is left to the coordinator."""
    request: dict[str, Any] = {
        "max_blackout_ms": units.parse_seconds(max_blackout, "--max-blackout") * 1000,
        "verify": wish.pop("verify"),
    }
    if bandwidth:
        request["bandwidth"] = units.parse_size(bandwidth, "--bandwidth")
    if deadline:
        request["deadline_s"] = units.parse_seconds(deadline, "--deadline")
    return {**request, **{key: value for key, value in wish.items() if value}}


def _show_copy(bar: ui.Bar, name: str, progress: dict[str, Any]) -> None:
    sent, remaining = progress.get("bytes_sent", 0), progress.get("remaining", 0)
    parts = [f"migrate {name}: {progress.get('phase', 'waiting')}, round {progress.get('round', 0)}"]
    parts.append(f"{units.size(sent)} sent")
    if progress.get("disk_left"):
        parts.append(f"disk {units.size(progress.get('disk_sent', 0))} sent, {units.size(progress['disk_left'])} left")
    if progress.get("bytes_per_s"):
        parts.append(
            f"{units.size(progress['bytes_per_s'])}/s, written {units.size(progress.get('dirty_rate', 0) * PAGE)}/s"
        )
    if progress.get("throttle"):
        parts.append(f"slowed {progress['throttle']} %")
    left = (progress.get("predicted_ms", 0) - progress.get("elapsed_ms", 0)) / 1000
    if left > 0:
        parts.append(f"pause in {units.duration(left)}")
    total = sent + remaining
    bar.update(100.0 * sent / total if total else 0.0, 100.0, ", ".join(parts))


ZERO_IS_NOTHING = ("disk_bytes", "throttle", "pull_ms", "faults", "fault_us", "fault_max_us")


def summary(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """A migration's result as rows, with what was predicted after its first round. What it lacks is left out."""
    predicted = result.get("predicted") or {}
    shown: list[tuple[str, str, str]] = []
    for key, promise, label, form in (
        ("mode", "", "mode", "{}"),
        ("rounds", "rounds", "rounds", "{}"),
        ("pages_sent", "", "pages sent", "{}"),
        ("zero_pages", "", "zero pages skipped", "{}"),
        ("bytes_sent", "bytes", "bytes sent", "size"),
        ("disk_bytes", "", "of these the disk", "size"),
        ("throttle", "", "throttled", "{} %"),
        ("total_ms", "total_ms", "total", "{:.0f} ms"),
        ("blackout_ms", "blackout_ms", "blackout", "{:.1f} ms"),
        ("blackout_error_ms", "", "blackout error", "± {:.1f} ms"),
        ("pull_ms", "", "pulled after the switch for", "{:.0f} ms"),
        ("faults", "", "waits for a page", "{}"),
        ("fault_us", "", "of these the median", "{} us"),
        ("fault_max_us", "", "and the longest", "{} us"),
        ("pages_missing", "", "pages not pulled yet", "{}"),
    ):
        if key not in result or (key in ZERO_IS_NOTHING and not result[key]):
            continue
        value, other = (
            "" if v is None else units.size(v) if form == "size" else form.format(v)
            for v in (result[key], predicted.get(promise))
        )
        shown.append((label, value, other))
    if predicted and not predicted.get("converges", True):
        shown.append(("predicted to converge", "", "no"))
    if result.get("source_checksum"):
        same = result["source_checksum"] == result.get("target_checksum")
        shown.append(("RAM checksums", "equal" if same else "DIFFERENT", ""))
    return shown


def forecast(found: dict[str, Any]) -> list[tuple[str, str]]:
    """An estimate as rows."""
    predicted = found["predicted"]
    how = "a probe" if found["rate_from"] == "probe" else "earlier migrations"
    shown = [
        ("target", str(found["target"])),
        ("mode", str(found["mode"])),
        ("outcome", f"given up: {found['reason']}" if found["reason"] else "moved"),
        ("pages with content", str(found["resident_pages"])),
        ("written first", f"{found['dirty_rate'] * PAGE / 1e6:.1f} MB/s"),
        ("written in a second", units.size(found["dirty_pages"] * PAGE)),
        *_disk_forecast(found),
        ("link", f"{found['bytes_per_s'] / 1e6:.0f} MB/s ({how})"),
        ("rounds", str(predicted["rounds"])),
        ("bytes", units.size(predicted["bytes"])),
        ("total", f"{predicted['total_ms']:.0f} ms"),
        ("blackout", f"{predicted['blackout_ms']:.1f} ms and what pausing and starting take"),
    ]
    if found["throttle"]:
        shown.append(("throttled", f"{found['throttle']} %"))
    return shown


def _disk_forecast(found: dict[str, Any]) -> list[tuple[str, str]]:
    if not found.get("disk_bytes") and not found.get("disk_rate"):
        return []
    rate = f"{found.get('disk_rate', 0) / 1e6:.1f} MB/s"
    return [("disk to be sent", units.size(found.get("disk_bytes", 0))), ("written to the disk", rate)]


@click.command("migrations", epilog=example("wherry migrations web"))
@click.argument("name")
@json_option
@click.pass_context
def migrations(ctx: click.Context, name: str, as_json: bool) -> None:
    """The migrations of a guest that have ended, the newest first."""
    found = with_client(ctx, lambda client: client.migrations(name))
    if as_json:
        ui.print_json({"migrations": found})
        return
    columns = (
        "id",
        "ended",
        "from",
        "to",
        "outcome",
        "mode",
        "rounds",
        "sent",
        "total",
        "blackout",
        "slowed",
        "reason",
    )
    ui.table(columns, [_row(report) for report in found], empty="it has not migrated")


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    def figure(key: str, form: str) -> str:
        return form.format(report[key]) if report.get(key) is not None else "-"

    return (
        str(report["migration"]),
        units.age(report["ended"]),
        str(report["source"]),
        str(report["target"]),
        str(report["outcome"]),
        figure("mode", "{}"),
        figure("rounds", "{}"),
        units.size(report["bytes_sent"]) if "bytes_sent" in report else "-",
        figure("total_ms", "{:.0f} ms"),
        figure("blackout_ms", "{:.1f} ms"),
        f"{report['throttle']} %" if report.get("throttle") else "-",
        str(report.get("reason", ""))[:60],
    )


@click.group()
def migration() -> None:
    """One migration that has ended."""


@migration.command("report", epilog=example("wherry migration report m-1f2e --html move.html"))
@click.argument("ident", metavar="ID")
@click.option("--html", "page", type=click.Path(dir_okay=False, writable=True), help="Write a page with a plot there.")
@json_option
@click.pass_context
def report(ctx: click.Context, ident: str, page: str | None, as_json: bool) -> None:
    """How it went, over time."""
    found = with_client(ctx, lambda client: client.migration(ident))
    rows = summary(found)
    if page:
        try:
            Path(page).write_text(movereport.html(found, rows))
        except OSError as error:
            raise UsageProblem(f"--html {page}: {error.strerror}") from None
        click.echo(f"{page}: written")
    elif as_json:
        ui.print_json(found)
    else:
        where = f"{found['guest']}: {found['source']} to {found['target']}, {found['outcome']}"
        click.echo(f"{where}: {found['reason']}" if found.get("reason") else where)
        ui.table(("figure", "value", "predicted"), rows)


COMMANDS = (migrate, migrations, migration)
