"""``make bench-migration``: live migration of a Debian guest against QEMU, both driven the same way.

Rows CASE.total_ms, CASE.pause_ms, CASE.gap_udp_ms, CASE.gap_tcp_ms, CASE.wire_mb, of ours CASE.wire_ratio and
CASE.final_kb, of a post-copy CASE.fault_us and CASE.fault_max_us (from the guest's wish for a page until it has it),
stream_mb_s, slowdown_pct, and what the target has already: dedup_ratio, return_ratio, resent_page_b. Options:
``--rounds N`` (5), ``--only CASE,...`` (or ``stream``, ``dedup``, ``slowdown``), ``--publish`` (README's table,
docs/bench-migration.svg). Needs root (TAP, traffic control).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from bench import (
    cluster_runs,
    migration_dedup,
    migration_faults,
    migration_guest,
    migration_ours,
    migration_rows,
    migration_speed,
    migration_stream,
    peers,
)
from bench.harness import ROOT, Row, machine, write_json
from bench.migration_guest import Case, Move, NoFigure
from bench.migration_qemu import WAYS, Qemu
from bench.plot import Picture
from wherry.image.store import Library

METHOD = """Method. The same 256 MiB Debian guest, one hart, in Wherry (two agents, encrypted, default settings but
--keep 0: a node has nothing of a guest that was there before) and in QEMU (TCG, two processes, QMP), all on this host.
A load in the guest dirties a working set of pages that were filled with random bytes, 8 bytes a page, at a steady
rate; a client on a TAP polls it by UDP every 1 ms and TCP every 2 ms. total_ms: as the source tells it, from the wish
until it knows that the target has all and runs it; what is left there is removed then. pause_ms: last instruction on
the source to first on the target (ours: by both clocks, one here; QEMU: events STOP and RESUME). gap: the longest time
without an answer to the client, from before the wish to a second behind the end. wire_mb: what the source says it
sent, headers in. wire_ratio: that over the bytes of the guest's different pages, zeros left out, as its RAM's file had
them before the wish. final_kb: bytes of pages sent in the pause. stream_mb_s: 128 MiB of random pages in one round of
the page stream, two processes on loopback, sealed; beside it, in the same run and of one processor, openssl speed
aes-256-gcm (256 KiB), zstd -1 and memcpy of the same bytes: its stages at their best. dedup_ratio: as wire_ratio, of a
guest that moves at 1 Gbit/s to a node where another guest of its image runs; return_ratio: of the same one, back to
where it was two seconds before, of which memory is kept there. resent_page_b: bytes of a page that was sent before, 8
bytes of which have changed, as packed. slowdown_pct: how much less a guest of one hart with 128 MiB of random bytes
calculates while its pages are copied at 1 Gbit/s than before, counted by itself in 5 ms of its clock. A limit (1g,
100m) is a class of HTB for the migration's TCP ports on loopback. Both take turns, one move each a round; the peer of
a row is the way that its line names; other ways are in the raw file, and those that do not end in 30 s told. What it
does not show: two machines, disks, guests with several harts, guests whose pages compress."""

PICTURE = Picture("migration", "Live migration: Wherry against QEMU, times better", migration_rows.TARGETS, "QEMU")

CASES = {
    case.name: case
    for case in (
        Case("idle_lo", 0, 0),
        Case("idle_1g", 0, 0, mbit=1000),
        Case("w64_lo", 64, 64),
        Case("w64_1g", 64, 64, mbit=1000),
        Case("w128_lo", 128, 128),
        Case("w128_1g", 128, 128, mbit=1000),
        Case("w64_postcopy_lo", 64, 64, mode="postcopy"),
        Case("w16_postcopy_100m", 16, 16, mbit=100, mode="postcopy"),
    )
}

FAULT_ROUNDS = 3
STREAM, DEDUP, SLOWDOWN = OTHERS = "stream", "dedup", "slowdown"  # in place of a case


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, Row] = {}
        self.moves: dict[str, dict[str, list[Move]]] = {}
        self.faults: list[str] = []
        self.streamed: list[Row] = []

    def put(self, case: Case, who: str, move: Move) -> None:
        self.moves.setdefault(case.name, {}).setdefault(who, []).append(move)
        print(
            f"  {case.name} {who}: total {move.total_ms:.0f} ms, pause {move.pause_ms:.1f},"
            f" gap UDP {move.gap_udp_ms:.0f} TCP {move.gap_tcp_ms:.0f}, {move.wire_bytes / 1e6:.1f} MB",
            file=sys.stderr,
            flush=True,
        )

    def fault(self, case: Case, who: str, why: NoFigure) -> None:
        text = f"{case.name} {who}: {why}"
        self.faults.append(text)
        print(f"  {text}", file=sys.stderr, flush=True)

    async def stream(self, rounds: int) -> None:
        """The row of the page stream alone."""
        row = migration_rows.TARGETS.new_row(migration_rows.STREAM)
        self.streamed.append(row)
        data = migration_stream.content(migration_stream.FILLED)
        row.note = "rivals: its stages alone"
        for _ in range(rounds):
            try:
                [one] = await migration_stream.stream(data)
            except NoFigure as why:
                self.faults.append(f"{row.name}: {why}")
                return
            row.ours.append(one.content / one.seconds / 1e6)
            for name, of in migration_stream.STAGES.items():
                row.rivals.setdefault(name, []).append(await trio.to_thread.run_sync(of, data))
            print(f"  {row.name}: {row.ours[-1]:.0f} {row.unit}", file=sys.stderr, flush=True)

    async def dedup(self, rounds: int) -> None:
        """The rows of what the target has."""
        there, back, resent = (migration_rows.TARGETS.new_row(name) for name in migration_rows.DEDUP)
        self.streamed += [there, back, resent]
        for number in range(rounds):
            resent.ours.append(migration_dedup.resent())
            folder = self.folder / f"dedup-{number}"
            folder.mkdir()
            try:
                both = await migration_dedup.pair(folder)
            except NoFigure as why:
                self.faults.append(f"{there.name}: {why}")
                continue
            there.ours.append(both.there.ratio)
            back.ours.append(both.back.ratio)
            print(f"  {there.name} {there.ours[-1]:.3f}, {back.name} {back.ours[-1]:.3f}", file=sys.stderr, flush=True)

    async def slowdown(self, rounds: int) -> None:
        """The row of a guest that calculates while it is copied."""
        row = migration_rows.TARGETS.new_row(migration_rows.SLOWDOWN)
        self.streamed.append(row)
        try:
            row.ours = await migration_speed.rounds(rounds)
        except NoFigure as why:
            self.faults.append(f"{row.name}: {why}")
        print(f"  {row.name}: {' '.join(f'{figure:.1f}' for figure in row.ours)}", file=sys.stderr, flush=True)

    async def run(self, cases: list[Case], rounds: int, others: set[str]) -> None:
        if STREAM in others:
            await self.stream(rounds)
        if SLOWDOWN in others:
            await self.slowdown(rounds)
        if DEDUP in others:
            await self.dedup(rounds)
        if not cases:
            return
        library = cluster_runs.image_library()
        (self.folder / "ours").mkdir()
        async with migration_ours.guest(self.folder / "ours", library) as ours, _peer(self, library) as qemu:
            for case in cases:
                await self._case(case, rounds, ours, qemu)

    async def _case(self, case: Case, rounds: int, ours: migration_ours.Ours, qemu: Qemu | None) -> None:
        ways = [WAYS[name] for name in migration_rows.PEERS[case.name]]
        await ours.load(case)
        if qemu is not None:
            await trio.to_thread.run_sync(qemu.load, case)
        for _ in range(rounds):
            try:
                self.put(case, "wherry", await ours.move(case))
            except NoFigure as why:
                self.fault(case, "wherry", why)
            for way in list(ways):
                if qemu is None:
                    break
                try:
                    self.put(case, way.name, await trio.to_thread.run_sync(qemu.move, case, way))
                except NoFigure as why:
                    self.fault(case, way.name, why)
                    ways.remove(way)
        await ours.load(CASES["idle_lo"])
        if qemu is not None:
            await trio.to_thread.run_sync(qemu.load, CASES["idle_lo"])

    def table(self) -> list[Row]:
        """Rows of everything that was measured; a row's peer is the one that its target names."""
        rows = []
        for case, by in self.moves.items():
            for figure, of in migration_rows.FIGURES.items():
                row = migration_rows.TARGETS.new_row(f"{case}.{figure}")
                row.ours = [of(move) for move in by.get("wherry", [])]
                row.rivals = {who: [of(move) for move in moves] for who, moves in by.items() if who != "wherry"}
                row.peer = next((name for name in migration_rows.PEERS[case] if name in row.rivals), None)
                row.theirs = row.rivals.get(row.peer or "", [])
                rows.append(row)
            for figure, of in migration_rows.own_figures(case).items():
                row = migration_rows.TARGETS.new_row(f"{case}.{figure}")
                row.ours = [of(move) for move in by.get("wherry", [])]
                rows.append(row)
        return [*rows, *self.streamed]


@asynccontextmanager
async def _peer(bench: Bench, library: Library) -> AsyncIterator[Qemu | None]:
    """The newest QEMU with the guest booted; None, and a fault, where there is none: an older one loses a RISC-V
    guest's armed timer when it migrates, and is no peer."""
    image = migration_guest.image(library)
    files = {file.role: library.blob(file.sha256) for file in image.files}
    folder = bench.folder / "qemu"
    folder.mkdir()
    try:
        qemu = Qemu(await trio.to_thread.run_sync(peers.newest), files, folder)
        await trio.to_thread.run_sync(qemu.__enter__)
    except (NoFigure, peers.PeerMissing) as why:
        bench.faults.append(f"peer missing: {why}")
        yield None
        return
    try:
        yield qemu
    finally:
        qemu.__exit__()


def publish(path: Path) -> None:
    """Into the README, with what it was measured on."""
    document, rows = PICTURE.load(path)
    count = max((len(row.ours) for row in rows), default=0)
    PICTURE.publish(path, ROOT, f"{document['machine']}; commit {document['commit'][:10]}; medians of {count} rounds.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.migration", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join([*CASES, *OTHERS]), help="cases, comma-separated")
    parser.add_argument("--publish", action="store_true", help="write README's table and docs/bench-migration.svg")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    others = set(OTHERS) & set(names)
    names = [name for name in names if name not in others]
    if unknown := set(names) - set(CASES):
        parser.error(f"--only: unknown case {sorted(unknown)[0]!r}; allowed: {', '.join([*CASES, *OTHERS])}")
    if os.geteuid() != 0:
        print("bench-migration needs root: TAP devices and traffic control", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as folder:
        bench = Bench(Path(folder))
        trio.run(bench.run, [CASES[name] for name in names], arguments.rounds, others)
    rows = bench.table()
    path = write_json("migration", rows, METHOD, faults=bench.faults)
    print(f"{machine()}; up to {arguments.rounds} rounds, medians")
    print(migration_rows.TARGETS.table(rows))
    for fault in bench.faults:
        print(f"not measured: {fault}")
    print(f"\n{METHOD}\nraw figures: {path}")
    if arguments.only == parser.get_default("only"):
        print(f"\nFaults, {FAULT_ROUNDS} rounds:")
        migration_faults.show(migration_faults.take(list(migration_faults.FAULTS), FAULT_ROUNDS))
    PICTURE.write(path, path.with_suffix(".svg"))
    if arguments.publish:
        publish(path)
    ended = {case: [len(moves) for who, moves in by.items() if who == "wherry"] for case, by in bench.moves.items()}
    return 0 if all(statistics.fmean(counts or [0]) > 0 for counts in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
