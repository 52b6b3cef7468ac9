"""``make bench-first``: the first whole cluster. Rows boot, interp_integer, guest_overhead_mib, rtt_us, tcp_gbps,
blackout_ms.

Options: ``--pairs N`` (5), ``--only ROW,...``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import trio

from bench import cluster_runs as runs
from bench import core_runs as core
from bench.core_memory import SETTLE
from bench.harness import ROOT, Row, measure_pairs, write_report

METHOD = """Method. boot: wall seconds from process start to the line that init prints, same kernel, initrd, command
line and 256 MiB, one hart, wherry-core's interpreter against QEMU, A B A B. interp_integer: the same bare-metal
binary (bench/programs/integer.c) on both, iterations per second of the guest's own clock, start-up left out. The
other rows are of two 256 MiB Debian guests on two nodes of a loopback cluster: guest_overhead_mib is private memory
of an idle guest process beside guest RAM and rings, 26 s after it has booted; rtt_us 200 pings 20 ms apart, each
run's median; tcp_gbps one iperf3 stream of 5 s; blackout_ms one guest moved to and fro, last instruction on the
source to first on the target, as the agents measure it. What it does not show: real networks (loopback has no wire),
several harts, the translator in the first two rows (bench-core has it; the other rows' guests run on it), guests
under load while they move."""


def bench_core(wanted: set[str], pairs: int) -> list[Row]:
    """The rows that need only the core."""
    rows = []
    peer = core.qemu_name() if core.qemu() else None
    if peer is None:
        print("peer missing: qemu-system-riscv64 (Debian package qemu-system-misc)", file=sys.stderr)
    if "boot" in wanted:
        library = runs.image_library()
        image = library.get(runs.IMAGE)
        files = {file.role: library.blob(file.sha256) for file in image.files}
        guest = (files["kernel"], files["initrd"], "console=ttyS0")
        row = Row("boot", "s", "lower", peer=peer)
        ours, theirs = core.interpreter_linux(*guest), core.qemu_linux(*guest)
        other = (lambda: core.seconds_to_marker(theirs)) if peer else None
        rows.append(measure_pairs(row, pairs, lambda: core.seconds_to_marker(ours), other))
    if "interp_integer" in wanted:
        elf = core.build_program("integer")
        row = Row("interp_integer", "it/s", "higher", peer=peer)
        other = (lambda: core.integer_rate(core.qemu_elf(elf))) if peer else None
        rows.append(measure_pairs(row, pairs, lambda: core.integer_rate(core.interpreter_elf(elf)), other))
    return rows


async def bench_cluster(wanted: set[str], count: int) -> list[Row]:
    """The rows of two guests on two nodes; no peer."""
    overhead = Row("guest_overhead_mib", "MiB", "lower")
    rtt = Row("rtt_us", "us", "lower")
    tcp = Row("tcp_gbps", "Gbit/s", "higher")
    blackout = Row("blackout_ms", "ms", "lower")
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as folder:
        async with runs.cluster(Path(folder), ["n1", "n2"], runs.image_library()) as client:
            await runs.boot(client, "one", "n1")
            await runs.boot(client, "two", "n2")
            if "guest_overhead_mib" in wanted:
                await trio.sleep(SETTLE)
            for name in ("one", "two"):
                overhead.ours.append(runs.private_kib((await client.guest(name)).pid) / 1024)
            for _ in range(count if "rtt_us" in wanted else 0):
                times = sorted(await runs.rtt_us(client, "one", "two", 200))
                rtt.ours.append(times[len(times) // 2])
            for _ in range(count if "tcp_gbps" in wanted else 0):
                tcp.ours.append(await runs.tcp_gbps(client, "one", "two", 5))
            for index in range(2 * count if "blackout_ms" in wanted else 0):
                moved = await runs.migrate(client, "two", "n1" if index % 2 == 0 else "n2")
                blackout.ours.append(float(moved["blackout_ms"]))
    return [row for row in (overhead, rtt, tcp, blackout) if row.name in wanted]


def main() -> int:
    names = ["boot", "interp_integer", "guest_overhead_mib", "rtt_us", "tcp_gbps", "blackout_ms"]
    parser = argparse.ArgumentParser(prog="bench.first", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default=",".join(names), help="rows, comma-separated")
    arguments = parser.parse_args()
    wanted = set(arguments.only.split(","))
    if unknown := wanted - set(names):
        parser.error(f"--only: unknown row {sorted(unknown)[0]!r}; allowed: {', '.join(names)}")
    subprocess.run(["make", "-s", "-C", str(ROOT / "csrc"), "all", "wherry-core"], check=True)
    rows = bench_core(wanted, arguments.pairs)
    if wanted - {"boot", "interp_integer"}:
        rows += trio.run(bench_cluster, wanted, arguments.pairs)
    write_report("first", rows, METHOD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
