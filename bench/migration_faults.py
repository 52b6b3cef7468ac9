"""``make bench-migration_faults``: how long a guest stands still when something breaks while it migrates.

Rows FAULT.outage_ms, and FAULT.after_mend_ms where something must come back first. Options: ``--rounds N`` (3),
``--only FAULT,...``.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from bench.harness import Row, machine, write_json
from node.core import CoreError
from node.guest import GuestGone, GuestHandle, adopt
from tests.faults.cluster import Cluster, running

METHOD = """Method. Two agents and a coordinator on this host, real processes, links through proxies that are cut or
fall silent; a guest of 32 MiB that wakes every 20 ms. outage_ms: the longest time in which no copy of it executed an
instruction, as both copies' processes tell it, asked every 5 ms: 20 ms and the looks between are always in it.
after_mend_ms: from the return of what was broken to the first instruction behind it. A cut between the nodes
may be healed by a link that the coordinator relays. The fault strikes when the migration is in the named phase;
finding that out takes up to 50 ms. What it does not show: a client's view through the network (the guest has
none that is asked), hosts, large guests; the silent link is found out by whoever waits, and the pre-copy's
guest runs on meanwhile; QEMU is not run again."""

SOURCE, TARGET, NAME = "n1", "n2", "t"
LOOK_S = 0.005


class Watch:
    """When the guest was seen to have executed something."""

    def __init__(self, cluster: Cluster, guest: str) -> None:
        self._cluster, self._guest = cluster, guest
        self._handles: dict[str, GuestHandle] = {}
        self._counts: dict[str, int] = {}
        self.seen: list[float] = [trio.current_time()]

    async def run(self) -> None:
        try:
            while True:
                for node in self._cluster.nodes:
                    await self._look(node)
                await trio.sleep(LOOK_S)
        finally:
            for handle in self._handles.values():
                handle.close()

    async def _look(self, node: str) -> None:
        try:
            if node not in self._handles:
                self._handles[node] = await adopt(self._cluster.folder / node / "guests" / self._guest)
            status = await self._handles[node].call("status")
        except (GuestGone, CoreError, OSError):
            if node in self._handles:
                self._handles.pop(node).close()
            return
        count = int(status["stats"]["instructions"])
        if status["state"] == "running" and count != self._counts.get(node):
            self.seen.append(trio.current_time())
        self._counts[node] = count

    def outage(self) -> float:
        """Milliseconds."""
        return 1000 * max(b - a for a, b in zip(self.seen, [*self.seen[1:], trio.current_time()], strict=True))

    async def after(self, time: float) -> float:
        """Milliseconds from ``time`` to the first instruction behind it."""
        with trio.fail_after(60):
            while self.seen[-1] <= time:  # noqa: ASYNC110 - another process has no events
                await trio.sleep(LOOK_S)
        return 1000 * (next(seen for seen in self.seen if seen > time) - time)


Fault = Callable[[Cluster, str, Watch], Awaitable[dict[str, float]]]


async def begin(cluster: Cluster, point: str, mode: str = "precopy") -> str:
    """The operation; it is at ``point``, and goes on once this returns."""
    cluster.hold(point)
    operation = await cluster.migrate(NAME, TARGET, mode=mode)
    await cluster.reached(point)
    return operation


async def target_killed(cluster: Cluster, guest: str, watch: Watch) -> dict[str, float]:
    operation = await begin(cluster, "target.copy")
    os.kill(cluster.processes(guest)[TARGET], signal.SIGKILL)
    await cluster.nodes[TARGET].kill()
    cluster.release("target.copy")
    await cluster.wait_operation(operation)
    await cluster.nodes[TARGET].start()
    return {}


async def silent_in_copy(cluster: Cluster, guest: str, watch: Watch) -> dict[str, float]:
    operation = await begin(cluster, "source.copy")
    cluster.proxies[TARGET].silence()
    cluster.release("source.copy")
    with trio.move_on_after(15):
        await cluster.wait_operation(operation)
    cluster.proxies[TARGET].heal()
    await cluster.wait_operation(operation)
    return {}


async def cut_at_switch(cluster: Cluster, guest: str, watch: Watch) -> dict[str, float]:
    operation = await begin(cluster, "target.switch")
    cluster.proxies[TARGET].cut()
    cluster.release("target.switch")
    await trio.sleep(13)
    cluster.proxies[TARGET].heal()
    await cluster.wait_operation(operation)
    return {}


async def cut_in_postcopy(cluster: Cluster, guest: str, watch: Watch) -> dict[str, float]:
    operation = await begin(cluster, "source.serve", "postcopy")
    cluster.proxies[TARGET].cut()
    cluster.release("source.serve")
    await trio.sleep(7)
    cluster.proxies[TARGET].heal()
    after = await watch.after(trio.current_time())
    await cluster.wait_operation(operation)
    return {"after_mend_ms": after}


async def coordinator_killed(cluster: Cluster, guest: str, watch: Watch) -> dict[str, float]:
    operation = await begin(cluster, "arbiter.decide-before")
    await cluster.coordinator.kill()
    cluster.release("arbiter.decide-before")
    await cluster.coordinator.start()
    after = await watch.after(trio.current_time())
    await cluster.wait_operation(operation)
    return {"after_mend_ms": after}


FAULTS: dict[str, Fault] = {
    "target_killed_in_copy": target_killed,
    "link_silent_15s_in_copy": silent_in_copy,
    "link_cut_13s_at_switch": cut_at_switch,
    "link_cut_7s_in_postcopy": cut_in_postcopy,
    "coordinator_killed_at_commit": coordinator_killed,
}


async def measure(fault: Fault, folder: Path) -> dict[str, float]:
    """The guest runs in the end, wherever that is; raises AssertionError if not."""
    async with running(folder, [SOURCE, TARGET]) as cluster:
        await cluster.until("both nodes are alive", cluster.all_alive)
        guest = str((await cluster.run_guest(NAME, SOURCE))["id"])
        watch = Watch(cluster, guest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            figures = await fault(cluster, guest, watch)
            await watch.after(trio.current_time())
            nursery.cancel_scope.cancel()
        return {"outage_ms": watch.outage(), **figures}


def take(names: list[str], rounds: int) -> list[Row]:
    rows: dict[str, Row] = {}
    for name in names:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="wherry-bench-") as folder:
                figures = trio.run(measure, FAULTS[name], Path(folder) / "c")
            for what, figure in figures.items():
                rows.setdefault(f"{name}.{what}", Row(f"{name}.{what}", "ms", "lower")).ours.append(figure)
    return list(rows.values())


def show(rows: list[Row]) -> None:
    for row in rows:
        print(f"{row.name:44} {statistics.median(row.ours):10.0f} ms   {', '.join(f'{each:.0f}' for each in row.ours)}")
    print(f"\n{METHOD}\nraw figures: {write_json('migration_faults', rows, METHOD)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.migration_faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(FAULTS), help="faults, comma-separated")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - set(FAULTS):
        parser.error(f"--only: unknown fault {sorted(unknown)[0]!r}; allowed: {', '.join(FAULTS)}")
    rows = take(names, arguments.rounds)
    print(f"{machine()}; {arguments.rounds} rounds, medians")
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
