"""``make bench-net``: Wherry's network against other overlays, between two network namespaces of this machine.

Options: ``--rounds N`` (3), ``--seconds S`` of each transfer (5), ``--only ROW,...``, ``--peers NAME,...`` (of those in
the table; ``none``), ``--modes NAME,...`` (on, nic, off, loss), ``--publish`` (README's table, docs/bench-net.svg).
``QUICK=1`` in the environment: one round of 1 s. Needs root; without it the exit status is 2.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bench import net_alone, net_cluster, net_guests, net_measure, net_overlays, net_peers, net_programs, net_rows
from bench.harness import ROOT, Row, machine, write_json
from bench.net_hosts import MODES, Host, Pair
from bench.net_measure import NoFigure
from bench.net_overlays import Overlay
from bench.net_rows import TARGETS
from bench.plot import Picture
from wherry.errors import WherryError

METHOD = """Method. Two network namespaces joined by a veth pair of MTU 1500; each overlay joins them from TAP (or its
own TUN) to TAP, all are up for the whole run and one at a time carries traffic, ours and theirs in turn (A B C, B C A,
...). Ours: two real agents with a coordinator, a TAP attached to each, the default network (MTU 1400). tcp_gbps,
vxlan_ratio: one iperf3 stream as received, offloads of the underlay on. loss1_gbps: no offloads, each end drops one
frame in a hundred. cpu_s_per_gb: processor seconds of the daemons on both hosts for a GB of that stream. pps_64b: the
highest rate of 64-byte frames of four UDP flows of which at most one in ten thousand is lost, by bisection. rtt_us:
median of pings 10 ms apart. A row's peer is the best encrypted overlay in user space of this run, but vxlan_ratio's is
the kernel's VXLAN in clear. Forwarders carry TAP frames over UDP in clear and do nothing else: the limit. Rounds in
which the hypervisor took more than 10 % of the machine are thrown out and counted. The advantage is the median over the
rounds of ours against that peer. ring_mpps: 64-byte frames from one guest's ring to another's through one switch
thread, for a second of that thread's processor time. peer_state_kib, mac_state_b: memory that becomes private and
dirty for each of a thousand idle peers with keys, and of a million MACs in one network. guest_tcp_gbps: one iperf3
stream between two Debian guests on two nodes (loopback), against two guests of QEMU under TCG that are joined in clear.
What it does not show: a real wire and two machines (here both hosts, both daemons, sender and receiver share the same
processors), many peers, several streams, other MTUs."""

MOST_STEAL = 0.10
PICTURE = Picture("net", "Wherry's network against its best peer, times better", TARGETS, "best peer")


@dataclass
class Bench:
    """One run. ``modes``: overlay to mode to Gbit/s of each round, what the rows and the second table are made of."""

    pair: Pair
    udpload: Path
    overlays: list[Overlay]
    wanted: list[str]
    modes: list[str]
    seconds: float
    rows: dict[str, Row]
    tcp: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    rtt: dict[str, list[float]] = field(default_factory=dict)
    pps: dict[str, list[float]] = field(default_factory=dict)
    ceiling: list[float] = field(default_factory=list)
    steal: list[float] = field(default_factory=list)
    thrown_out: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> tuple[Host, Host]:
        a, b = self.pair.hosts
        return a, b

    def rounds(self, wanted: int) -> None:
        """Measure until there are as many rounds that count; of those that do not there may be as many."""
        index = 0
        while len(self.steal) < wanted and self.thrown_out <= wanted:
            steal = net_measure.Steal()
            found = self._round(index)
            share = steal.share()
            print(f"round {index + 1}: {share:.1%} steal", file=sys.stderr, flush=True)
            if share > MOST_STEAL:
                self.thrown_out += 1
            else:
                self.steal.append(round(share, 4))
                self._keep(found)
            index += 1

    def _round(self, index: int) -> dict[tuple[str, str], float]:
        """Figures of each overlay, by (what, overlay)."""
        found: dict[tuple[str, str], float] = {}
        there = [overlay for overlay in self.overlays if not overlay.missing]
        for mode in self.modes:
            self.pair.switch(mode)
            if mode == "on" and "pps_64b" in self.wanted:
                a, b = self.hosts
                found["ceiling", ""] = net_measure.ceiling_pps(a, b, self.udpload, b.address, 300)
            turn = index % len(there)
            for overlay in [*there[turn:], *there[:turn]]:
                try:
                    self._measure(overlay, mode, found)
                except (NoFigure, subprocess.TimeoutExpired) as error:
                    self.faults.append(f"{overlay.title}, {mode}: {error}")
        self.pair.switch("on")
        return found

    def _measure(self, overlay: Overlay, mode: str, found: dict[tuple[str, str], float]) -> None:
        a, b = self.hosts
        address, name = overlay.inner(1), overlay.title
        text = f"  {mode} {name}:"
        net_measure.reachable(a, address, 10)  # addresses are resolved and keys agreed before it counts
        if mode == "on" and "rtt_us" in self.wanted:
            found["rtt", name] = net_measure.rtt_us(a, address, int(100 * min(3.0, max(1.0, self.seconds))))
            text += f" {found['rtt', name]:.0f} us"
        if mode != "on" or self._wants("tcp_gbps", "vxlan_ratio", "cpu_s_per_gb"):
            seen = net_measure.tcp(a, b, address, self.seconds, overlay.pids)
            found[mode, name] = seen.gbps
            text += f" {seen.gbps:.3f} Gbit/s"
            if mode == "on" and seen.cpu_s_per_gb is not None:
                found["cpu", name] = seen.cpu_s_per_gb
                text += f" {seen.cpu_s_per_gb:.2f} s/GB"
        if mode == "on" and "pps_64b" in self.wanted:
            found["pps", name] = net_measure.lossless_pps(a, b, self.udpload, address, int(200 * min(self.seconds, 5)))
            text += f" {found['pps', name] / 1000:.0f} kpps"
        print(text, file=sys.stderr, flush=True)

    def _wants(self, *names: str) -> bool:
        return bool(set(names) & set(self.wanted))

    def _keep(self, found: dict[tuple[str, str], float]) -> None:
        for (what, name), value in found.items():
            if what == "ceiling":
                self.ceiling.append(value)
            elif what in MODES:
                self.tcp.setdefault(name, {}).setdefault(what, []).append(value)
            else:
                {"cpu": self.cpu, "rtt": self.rtt, "pps": self.pps}[what].setdefault(name, []).append(value)

    def settle(self) -> None:
        """Fill the rows of overlays from the figures."""
        in_mode = {mode: {name: by.get(mode, []) for name, by in self.tcp.items()} for mode in MODES}
        sources = {
            "tcp_gbps": in_mode["on"],
            "vxlan_ratio": in_mode["on"],
            "loss1_gbps": in_mode["loss"],
            "cpu_s_per_gb": self.cpu,
            "pps_64b": self.pps,
            "rtt_us": self.rtt,
        }
        for name, figures in sources.items():
            row = self.rows.get(name)
            if row is None:
                continue
            for overlay in self.overlays:
                if overlay.kind == "ours":
                    row.ours = list(figures.get(overlay.title, []))
                elif overlay.kind == net_rows.RIVALS[name] and figures.get(overlay.title):
                    row.rivals[overlay.title] = list(figures[overlay.title])
            row.face_best()
        self._notes()

    def _notes(self) -> None:
        row = self.rows.get("rtt_us")
        if row is not None and row.ours:
            for name, raw in row.rivals.items():
                if name.startswith("nebula"):
                    row.note = f"{statistics.median(row.ours) / statistics.median(raw):.2f} of nebula's"
        row = self.rows.get("pps_64b")
        if row is not None and self.ceiling:
            ceiling = statistics.median(self.ceiling)
            row.note = f"the sender's ceiling: {ceiling / 1000:.0f} k/s on the bare cable"
            if row.ours and statistics.median(row.ours) > 0.8 * ceiling:
                row.note += ", which may have been the limit"

    def overview(self) -> str:
        """All overlays, medians, in every mode."""
        lines = [f"{'overlay':<26}{'on':>8}{'nic':>8}{'off':>8}{'loss':>8}  Gbit/s{'s/GB':>8}{'kpps':>8}{'us':>8}"]
        for overlay in self.overlays:
            name = overlay.title
            by = self.tcp.get(name, {})
            if not (by or name in self.cpu or name in self.pps or name in self.rtt):
                continue
            rates = "".join(f"{_median(by.get(mode, []), '.3f'):>8}" for mode in MODES)
            pps = [value / 1000 for value in self.pps.get(name, [])]
            rest = (self.cpu.get(name, []), pps, self.rtt.get(name, []))
            more = "".join(f"{_median(raw, form):>8}" for raw, form in zip(rest, (".2f", ".0f", ".0f"), strict=True))
            lines.append(f"{name:<26}{rates}{'':8}{more}")
        return "\n".join(lines)


def _median(raw: list[float], form: str) -> str:
    return format(statistics.median(raw), form) if raw else "-"


def parse_arguments() -> argparse.Namespace:
    quick = os.environ.get("QUICK", "") not in ("", "0")
    known = [overlay.name for overlay, _ in net_overlays.forwarders_and_peers()]
    parser = argparse.ArgumentParser(prog="bench.net", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1 if quick else 3)
    parser.add_argument("--seconds", type=float, default=1.0 if quick else 5.0, help="seconds of each transfer")
    parser.add_argument("--only", default=",".join(TARGETS.specs), help="rows, comma-separated")
    parser.add_argument("--peers", default=",".join(known), help=f"overlays to compare with: {', '.join(known)}; none")
    parser.add_argument("--modes", default=",".join(MODES), help="of the underlay")
    parser.add_argument("--publish", action="store_true", help="write README's table and docs/bench-net.svg")
    arguments = parser.parse_args()
    for option, allowed in (("only", list(TARGETS.specs)), ("peers", [*known, "none"]), ("modes", list(MODES))):
        given = getattr(arguments, option).split(",")
        if unknown := set(given) - set(allowed):
            parser.error(f"--{option}: unknown {sorted(unknown)[0]!r}; allowed: {', '.join(allowed)}")
        setattr(arguments, option, [name for name in allowed if name in given])
    return arguments


def needed_modes(asked: list[str], rows: list[str]) -> list[str]:
    """Of the modes that were asked for those that a row needs; with row ``tcp_gbps`` all, for the second table."""
    needed = set(MODES) if "tcp_gbps" in rows else set()
    if net_rows.OVERLAY & set(rows) - {"loss1_gbps"}:
        needed.add("on")
    if "loss1_gbps" in rows:
        needed.add("loss")
    return [mode for mode in asked if mode in needed]


def make_overlays(arguments: argparse.Namespace, place: net_overlays.Place) -> list[Overlay]:
    """Ours (not started yet) and the others, started."""
    overlays = [Overlay("wherry", "ours", 1)]
    for overlay, setup in net_overlays.forwarders_and_peers():
        if overlay.name in arguments.peers:
            net_overlays.start(overlay, setup, place)
            overlays.append(overlay)
            if overlay.missing:
                print(f"peer missing: {overlay.title}: {overlay.missing}", file=sys.stderr, flush=True)
    return overlays


async def compare(arguments: argparse.Namespace, bench: Bench, folder: Path) -> None:
    """The rows between overlays, with our cluster up."""
    async with net_cluster.cluster(folder / "wherry", bench.pair.hosts) as (client, pids):
        ours = bench.overlays[0]
        ours.pids = pids
        await net_cluster.attach(client, bench.pair.hosts, ours)
        if not await trio.to_thread.run_sync(net_measure.reachable, bench.hosts[0], ours.inner(1), 20.0):
            raise NoFigure("wherry: no ping came through within 20 s")
        await trio.to_thread.run_sync(bench.rounds, arguments.rounds)


def guests(arguments: argparse.Namespace, row: Row) -> list[str]:
    """The row of guests. Returns what is missing or went wrong."""
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as name:
        (Path(name) / "guests").mkdir()
        try:
            return trio.run(net_guests.measure, row, arguments.rounds, arguments.seconds, Path(name))
        except (WherryError, NoFigure, trio.TooSlowError) as error:
            return [f"guest_tcp_gbps: {error or type(error).__name__}"]


def report(arguments: argparse.Namespace, bench: Bench, load: float) -> None:
    missing = [f"{overlay.title}: {overlay.missing}" for overlay in bench.overlays if overlay.missing]
    more = {
        "missing": missing,
        "faults": bench.faults,
        "load": load,
        "seconds": bench.seconds,
        "steal": bench.steal,
        "thrown_out": bench.thrown_out,
        "tcp": bench.tcp,
        "cpu_s_per_gb": bench.cpu,
        "pps": bench.pps,
        "rtt_us": bench.rtt,
        "ceiling_pps": bench.ceiling,
    }
    rows = list(bench.rows.values())
    path = write_json("net", rows, METHOD, **more)
    print(f"{machine()}; {len(bench.steal)} rounds of {bench.seconds:g} s; load before {load:.1f}\n")
    print(f"{TARGETS.table(rows)}\n")
    if bench.modes:
        print(f"{bench.overview()}\n")
    for text in [*(f"missing: {reason}" for reason in missing), *(f"fault: {text}" for text in bench.faults)]:
        print(text)
    print(f"{bench.thrown_out} rounds thrown out for steal\n\n{METHOD}\nraw figures: {path}")
    PICTURE.write(path, ROOT / "build" / "bench" / "net.svg")
    if arguments.publish:
        intro = f"{machine()}; medians of {len(bench.steal)} rounds of {bench.seconds:g} s, load before {load:.1f}; "
        intro += f"{bench.thrown_out} rounds thrown out for steal."
        PICTURE.publish(path, ROOT, intro)


def main() -> int:
    arguments = parse_arguments()
    if os.geteuid() != 0:
        print("bench-net: needs root, for network namespaces and TAPs", file=sys.stderr)
        return 2
    if missing := net_peers.missing_commands():
        print(f"bench-net: missing: {', '.join(missing)}", file=sys.stderr)
        return 2
    subprocess.run(["make", "-s", "-C", str(ROOT / "csrc"), "all"], check=True)
    load = os.getloadavg()[0]
    if load > 1.5:
        print(f"the machine is busy (load {load:.1f}): figures will be low and noisy", file=sys.stderr)
    try:
        tools = net_peers.tools()
    except net_peers.PeerMissing as reason:
        print(f"bench-net: {reason}", file=sys.stderr)
        return 2
    forwarder, udpload = net_programs.build("forwarder"), net_programs.build("udpload")
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as name, Pair(tools) as pair:
        folder = Path(name)
        (folder / "wherry").mkdir()
        modes = needed_modes(arguments.modes, arguments.only)
        place = net_overlays.Place(pair.hosts, folder, forwarder)
        overlays = make_overlays(arguments, place) if modes else []
        try:
            bench = Bench(
                pair=pair,
                udpload=udpload,
                overlays=overlays,
                wanted=arguments.only,
                modes=modes,
                seconds=arguments.seconds,
                rows={name: TARGETS.new_row(name) for name in arguments.only},
            )
            if bench.modes:
                trio.run(compare, arguments, bench, folder)
        finally:
            for overlay in overlays:
                overlay.stop()
    bench.settle()
    if net_rows.ALONE & set(arguments.only):
        bench.faults += net_alone.measure(bench.rows, arguments.rounds, arguments.seconds)
    if "guest_tcp_gbps" in bench.rows:
        bench.faults += guests(arguments, bench.rows["guest_tcp_gbps"])
    report(arguments, bench, load)
    return 0


if __name__ == "__main__":
    sys.exit(main())
