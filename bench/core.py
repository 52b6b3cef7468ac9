"""``make bench-core``: the execution core against two QEMUs, on one kernel, one initrd and one set of binaries.

Options: ``--pairs N`` (5), ``--ms N`` (500), ``--only ROW,...``, ``--engine NAME`` (ours; default: its own choice),
``--no-native``, ``--no-peers``, ``--processor-time`` (for a busy machine), ``--publish`` (README's table,
docs/bench-core.svg). ``QUICK=1`` in the environment: one pair of 100 ms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bench import cluster_runs as runs
from bench import core_guest, core_memory, core_plot, core_rows, peers
from bench.core_guest import Emulator, Figures
from bench.core_runs import seconds_to_marker
from bench.harness import ROOT, Row, machine, write_json

METHOD = """Method. Rows integer to gzip: one static RV64GC binary of our own C sources (bench/programs/core; busybox
for sha256 and gzip), started as init of a 256 MiB guest with one hart by the same Debian kernel and initrd in every
emulator; each row is timed inside the guest by its monotonic clock after a trial that warms it up, so neither boot
nor start-up is in it, and is the best of six windows: the host's other work only takes away, and the same from
everyone. Checksums of a fixed piece of the work are compared between all emulators. boot: wall seconds from process
start to the line that the Debian image's init prints. interp_integer: our interpreter alone. smp2: two integer loads
on two harts against one, best of six windows each, taken in turns. rss_mib: private memory of a guest's process
beside guest RAM, 26 s after it has booted and with nothing to do (ours: the guest process of a node, with a network).
restore_ms: from the start of wherry-core to the first instructions of a Debian guest saved at its prompt and lazily
restored, the file in the page cache. The emulators take turns (A B C, B C A, ...); a row's peer is the one of the
better median; the advantage is the median over the rounds of ours against that peer.
native: the same sources built by the same compiler for the host.
What it does not show: more than two harts, disks and networks (bench-first has the network), large programs whose code
is never hot, code that vectors speed up (native has them, RV64GC has none), hosts with another CPU."""

SEVERAL_PROCESSES = {"pipe", "fork", "exec"}  # on the host their processor time is not all the program's own


@dataclass
class Bench:
    """One run of the benchmark: what is measured on what, and the rows so far."""

    wanted: list[str]
    kernel: Path
    initrd: Path
    archive: Path
    snapshot: Path
    ours: Emulator
    interpreter: Emulator
    rivals: list[Emulator]
    ms: int
    native: bool
    processor_time: bool
    rows: dict[str, Row]
    sums: dict[str, dict[str, str]] = field(default_factory=dict)  # row to emulator to checksum
    shares: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # row to emulator to Figures.shares
    faults: list[str] = field(default_factory=list)

    def round(self, index: int) -> None:
        """One figure of each emulator in each row; who begins changes from round to round."""
        players = [self.ours, *self.rivals]
        turn = index % len(players)
        for emulator in [*players[turn:], *players[:turn]]:
            self._programs(emulator)
            self._machine(emulator)
        if self.native:
            self._host()

    def _host(self) -> None:
        """The same programs without an emulator: what the host gives."""
        guest = [spec.name for spec in core_rows.GUEST if spec.name in self.wanted]
        found = core_guest.measure_host(self._words(guest), self._patience(len(guest))) if guest else Figures()
        if "smp2" in self.wanted:
            found.values |= core_guest.measure_host(f"smp2 ms={self.ms}", self._patience(3)).values
        for name in found.values:
            value = self._figure(name, found)
            if value is not None and not (self.processor_time and name in SEVERAL_PROCESSES):
                self.rows[name].native.append(value)

    def _words(self, names: list[str]) -> str:
        return f"rows={','.join(names)} ms={self.ms} busybox={core_guest.BUSYBOX}"

    def _patience(self, rows: int) -> float:
        return 60 + rows * (10 + self.ms / 1000 * 5)

    def _figure(self, name: str, found: Figures) -> float | None:
        """A row's value; with ``--processor-time`` as it would be had the run had a processor of its own, or None where
        its share is not known."""
        value, share = found.values[name], found.shares.get(name)
        if not self.processor_time or name not in core_rows.SPECS or name == "smp2":
            return value
        if not share:
            return None
        return value / share if core_rows.SPECS[name].better == "higher" else value * share

    def _put(self, name: str, emulator: Emulator, value: float | None) -> None:
        row = self.rows.get(name)
        if row is None or value is None:
            return
        figures = row.ours if emulator is self.ours else row.rivals.setdefault(emulator.name, [])
        figures.append(value)

    def _take(self, emulator: Emulator, found: Figures) -> None:
        for name in found.values:
            self._put(name, emulator, self._figure(name, found))
        for name, share in found.shares.items():
            self.shares.setdefault(name, {}).setdefault(emulator.name, []).append(round(share, 3))
        for name, text in found.sums.items():
            self.sums.setdefault(name, {})[emulator.name] = text
        for name, text in found.faults.items():
            self.faults.append(f"{emulator.name}: {name}: {text}")
            if name in self.rows and emulator is self.ours:
                self.rows[name].note = text

    def _programs(self, emulator: Emulator) -> None:
        names = [spec.name for spec in core_rows.GUEST if spec.name in self.wanted]
        if names:
            self._take(emulator, self._measure(emulator, self._words(names), 1, len(names)))
        if "smp2" in self.wanted:
            self._take(emulator, self._measure(emulator, f"smp2 ms={self.ms}", 2, 3))

    def _measure(self, emulator: Emulator, words: str, harts: int, rows: int) -> Figures:
        began = time.monotonic()
        found = core_guest.measure(
            emulator, self.kernel, self.archive, words, harts=harts, timeout=self._patience(rows)
        )
        spent = time.monotonic() - began
        what = words.split(maxsplit=1)[0][:40]
        print(f"  {emulator.name}: {what} in {spent:.1f} s", file=sys.stderr, flush=True)
        return found

    def _machine(self, emulator: Emulator) -> None:
        if "boot" in self.wanted:
            command = emulator.boot(self.kernel, self.initrd, "console=ttyS0")
            try:
                self._put("boot", emulator, seconds_to_marker(command))
            except RuntimeError as error:
                self.faults.append(f"{emulator.name}: boot: {str(error)[-300:]}")
        if "interp_integer" in self.wanted:
            self._interpreter(emulator)
        if "rss_mib" in self.wanted and emulator is not self.ours:
            self._put("rss_mib", emulator, core_memory.rival_mib(emulator, self.kernel, self.initrd))
        if "restore_ms" in self.wanted and emulator is self.ours:
            self._restore(emulator)

    def _interpreter(self, emulator: Emulator) -> None:
        """Ours by the interpreter; a peer's figure is that of row ``integer`` of the same turn, if wanted too."""
        if emulator is not self.ours and "integer" in self.wanted:
            figures = self.rows["integer"].rivals.get(emulator.name, [])
            self.rows["interp_integer"].rivals[emulator.name] = list(figures)
            return
        found = self._measure(self.interpreter if emulator is self.ours else emulator, self._words(["integer"]), 1, 1)
        if "integer" in found.values:
            self._put("interp_integer", emulator, self._figure("integer", found))

    def _restore(self, emulator: Emulator) -> None:
        try:
            if not self.snapshot.exists():
                core_memory.snapshot(emulator, self.kernel, self.initrd, self.snapshot)
            self._put("restore_ms", emulator, core_memory.restore_ms(emulator, self.snapshot))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            self.faults.append(f"{emulator.name}: restore: {error}")

    def settle(self) -> list[Row]:
        """Choose each row's peer and compare checksums. Returns the rows in the order of the table."""
        for name, by in self.sums.items():
            others = {text for who, text in by.items() if who != self.ours.name}
            mine = by.get(self.ours.name)
            if len(others) > 1:
                self.faults.append(f"{name}: the peers' checksums differ: {by}")
            elif mine is not None and others and mine not in others:
                self.rows[name].note = f"wrong result: checksum {mine}, peers {others.pop()}"
        for row in self.rows.values():
            row.face_best()
        return list(self.rows.values())


def parse_arguments() -> argparse.Namespace:
    quick = os.environ.get("QUICK", "") not in ("", "0")
    parser = argparse.ArgumentParser(prog="bench.core", description=__doc__)
    parser.add_argument("--pairs", type=int, default=1 if quick else 5)
    parser.add_argument("--ms", type=int, default=100 if quick else 600, help="milliseconds a figure")
    parser.add_argument("--only", default=",".join(core_rows.SPECS), help="rows, comma-separated")
    parser.add_argument("--engine", default="", help="our engine; default: its own choice")
    parser.add_argument("--no-native", action="store_true", help="leave the host's own figures out")
    parser.add_argument("--no-peers", action="store_true", help="ours alone (for work on the core)")
    parser.add_argument("--processor-time", action="store_true", help="rows timed in the guest: per processor second")
    parser.add_argument("--publish", action="store_true", help="write README's table and docs/bench-core.svg")
    arguments = parser.parse_args()
    arguments.wanted = [name for name in core_rows.SPECS if name in set(arguments.only.split(","))]
    if unknown := set(arguments.only.split(",")) - set(core_rows.SPECS):
        parser.error(f"--only: unknown row {sorted(unknown)[0]!r}; allowed: {', '.join(core_rows.SPECS)}")
    return arguments


def prepare(arguments: argparse.Namespace) -> tuple[Bench, list[str]]:
    """Build what is missing and find the peers. Returns the bench and the reasons of missing peers."""
    subprocess.run(["make", "-s", "-C", str(ROOT / "csrc"), "all", "wherry-core"], check=True)
    found, missing = ([], []) if arguments.no_peers else peers.find()
    for reason in missing:
        print(f"peer missing: {reason}", file=sys.stderr)
    library = runs.image_library()
    files = {file.role: library.blob(file.sha256) for file in library.get(runs.IMAGE).files}
    snapshot = ROOT / "build" / "bench" / "core.snapshot"
    snapshot.unlink(missing_ok=True)  # of another build
    archive = core_guest.initrd(files["initrd"], core_guest.build("riscv64-linux-musl"))
    bench = Bench(
        wanted=arguments.wanted,
        kernel=files["kernel"],
        initrd=files["initrd"],
        archive=archive,
        snapshot=snapshot,
        ours=Emulator(f"wherry {arguments.engine or 'default engine'}", engine=arguments.engine),
        interpreter=Emulator("wherry interpreter", engine="interpreter"),
        rivals=[Emulator(peer.name, peer) for peer in found],
        ms=arguments.ms,
        native=not arguments.no_native,
        processor_time=arguments.processor_time,
        rows={name: core_rows.new_row(name) for name in arguments.wanted},
    )
    return bench, missing


def disturbance(bench: Bench) -> str:
    """What the machine's other work did to the rows that are timed in the guest."""
    shares = sorted(share for by in bench.shares.values() for each in by.values() for share in each)
    if not shares:
        return ""
    text = f"share of a processor while a row was timed (1: undisturbed): least {shares[0]:.2f}, "
    text += f"median {shares[len(shares) // 2]:.2f}"
    return text + ("; figures are per processor second" if bench.processor_time else "")


def main() -> int:
    arguments = parse_arguments()
    bench, missing = prepare(arguments)
    load = os.getloadavg()[0]
    if load > 1.5:
        print(f"the machine is busy (load {load:.1f}): figures will be low and noisy", file=sys.stderr)
    for index in range(arguments.pairs):
        print(f"round {index + 1} of {arguments.pairs}", file=sys.stderr, flush=True)
        bench.round(index)
    if "rss_mib" in bench.wanted:
        with tempfile.TemporaryDirectory(prefix="wherry-bench-") as folder:
            bench.rows["rss_mib"].ours += trio.run(core_memory.guest_mib, Path(folder), min(arguments.pairs, 3))
    rows = bench.settle()
    more = {
        "missing": missing,
        "faults": bench.faults,
        "checksums": bench.sums,
        "load": load,
        "shares": bench.shares,
        "ms": bench.ms,
        "processor_time": bench.processor_time,
    }
    path = write_json("core", rows, METHOD, **more)
    print(f"{machine()}; {arguments.pairs} rounds of {bench.ms} ms; load before {load:.1f}; {bench.ours.name}\n")
    print(core_rows.table(rows))
    for text in [*(f"missing: {reason}" for reason in missing), *(f"fault: {text}" for text in bench.faults)]:
        print(text)
    print(disturbance(bench))
    print(f"\n{METHOD}\nraw figures: {path}")
    core_plot.write(path, ROOT / "build" / "bench" / "core.svg")
    if arguments.publish:
        core_plot.publish(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
