"""What the demo does, in order: cluster, guests, traffic, moves, drain. Measuring is in ``pings`` and ``report``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from wherry import context, model
from wherry.client import Client
from wherry.demo import pings, report, traffic
from wherry.demo.daemons import Daemons
from wherry.demo.view import View
from wherry.demo.witness import Witness
from wherry.errors import WherryError
from wherry.image.store import Library

IMAGE = "debian"
NODES = ("n1", "n2", "n3")
MEMORY = 256 << 20
BOOT_S = 180.0
_MOVE_S = 180.0
_SETTLE_PINGS = 50  # a second of quiet pings on either side of a move


@dataclass
class Scenario:
    """One run. ``daemons`` is stopped by the caller, whatever happens here."""

    daemons: Daemons
    library: Library
    view: View
    moves: list[tuple[model.Operation, str, str, str, int]] = field(default_factory=list)
    windows: list[pings.Window] = field(default_factory=list)

    async def run(self) -> report.Report:
        """Raises :class:`WherryError` when a step cannot be done at all; a bad figure is the report's matter."""
        target = await self._cluster()
        witness = Witness(self.daemons.folder)
        async with Client(target) as client, trio.open_nursery() as nursery:
            nursery.start_soon(witness.run)
            result = await self._measure(client, witness)
            self.view.step("remove the guests")
            for name in ("one", "two"):
                await client.finish(await client.remove_guest(name, force=True))
            nursery.cancel_scope.cancel()
        return result

    async def _cluster(self) -> context.Target:
        self.view.step("start the coordinator")
        coordinator = await self.daemons.coordinator()
        target = context.load(str(coordinator.ready.get("api", "")), "", self.daemons.access_file)
        self.view.detail(target.api)
        async with Client(target) as client:
            self.view.step(f"join {len(NODES)} nodes")
            for name in NODES:
                token = await client.create_join_token(600)
                await self.daemons.node(name, token.join)
            await self._until_alive(client)
            self.view.step("send the image")
            image = self.library.get(IMAGE)
            await client.push(
                self.library, image, lambda done, total: self.view.detail(f"{done >> 20} of {total >> 20} MiB")
            )
        return target

    async def _until_alive(self, client: Client) -> None:
        with trio.move_on_after(30):
            while True:
                alive = [node.name for node in await client.nodes() if node.state == "alive"]
                if set(NODES) <= set(alive):
                    return
                await trio.sleep(0.1)
        raise WherryError(f"only {' '.join(alive) or 'no node'} came alive in 30 s")

    async def _measure(self, client: Client, witness: Witness) -> report.Report:
        boot = await self._boot(client)
        one, two = await client.guest("one"), await client.guest("two")
        self.view.step("measure the network")
        ping = traffic.Pings(client, "one", two.addresses[0])
        await ping.start()
        throughput = await traffic.burst_mbit_s(client, "two", "one", one.addresses[0])
        self.view.detail(f"{throughput:.1f} Mbit/s")
        stream = traffic.Stream(client, "two", "one", one.addresses[0])
        await stream.start()
        quiet_from = await ping.last() + _SETTLE_PINGS
        quiet_to = await ping.reach(quiet_from + 3 * _SETTLE_PINGS)

        for source, destination in (("n2", "n3"), ("n3", "n2")):
            self.view.step(f"move two {source} -> {destination}")
            await self._window(
                ping, f"two {source}->{destination}", lambda d=destination: self._migrate(client, "two", d)
            )
        self.view.step("drain n1")
        await self._window(ping, "drain n1", lambda: self._drain(client))
        left = [guest.name for guest in await client.guests() if guest.node == "n1"]

        self.view.step("collect the figures")
        run = await ping.stop()
        sums = await stream.stop()
        return self._report(boot, throughput, run, (quiet_from, quiet_to), sums, witness, left)

    async def _boot(self, client: Client) -> dict[str, float]:
        self.view.step("boot two guests")
        async with trio.open_nursery() as nursery:
            for name, node in (("one", "n1"), ("two", "n2")):
                nursery.start_soon(self._start, client, name, node)
        seconds: dict[str, float] = {}
        with trio.move_on_after(BOOT_S):
            while len(seconds) < 2:
                await trio.sleep(0.2)
                for guest in await client.guests():
                    if guest.state in ("crashed", "stopped"):
                        raise WherryError(f"guest {guest.name} is {guest.state}: {guest.reason}")
                    if guest.booted_s is not None:
                        seconds[guest.name] = guest.booted_s
                self.view.detail(", ".join(f"{name} in {value:.1f} s" for name, value in sorted(seconds.items())))
        if len(seconds) < 2:
            raise WherryError(f"the guests did not reach user space in {BOOT_S:.0f} s")
        return dict(sorted(seconds.items()))

    async def _start(self, client: Client, name: str, node: str) -> None:
        request = {"name": name, "image": IMAGE, "memory": MEMORY, "cpus": 1, "networks": ["lan"], "on": node}
        await client.finish(await client.run(**request))

    async def _window(self, ping: traffic.Pings, name: str, work: Any) -> None:
        """Run ``work`` between two pings that are known to have come back."""
        first = await ping.last()
        await work()
        last = await ping.reach(await ping.last() + _SETTLE_PINGS)
        self.windows.append(pings.Window(name, first, last))

    async def _migrate(self, client: Client, name: str, to: str) -> None:
        source = (await client.guest(name)).node or "?"
        with trio.fail_after(_MOVE_S):
            operation = await client.guest_action(name, "migrate", to=to, verify=True)
            operation = await client.finish(operation, self._show)
        guest = await client.guest(name)
        if guest.node != to:
            raise WherryError(f"{name} was moved to {to} but is on {guest.node}")
        self.moves.append((operation, name, source, to, guest.generation))

    async def _drain(self, client: Client) -> None:
        before = {operation.id for operation in await client.operations()}
        with trio.fail_after(_MOVE_S):
            await client.finish(await client.drain("n1"), self._show)
        for made in await client.operations():
            if made.id not in before and made.kind == "migrate" and made.state == "succeeded":
                guest = await client.guest(made.subject)
                self.moves.append((made, made.subject, "n1", guest.node or "?", guest.generation))

    def _show(self, operation: model.Operation) -> None:
        progress = operation.progress or {}
        if "round" in progress:
            sent = int(progress.get("bytes_sent", 0)) >> 20
            self.view.detail(f"{progress.get('phase', '')}, round {progress['round']}, {sent} MiB sent")

    def _report(
        self,
        boot: dict[str, float],
        throughput: float,
        run: pings.Run,
        quiet: tuple[int, int],
        sums: traffic.StreamResult,
        witness: Witness,
        left: Sequence[str],
    ) -> report.Report:
        moves = [
            report.move(name, source, target, generation, operation.result or {}, run, window)
            for (operation, name, source, target, generation), window in zip(self.moves, self.windows, strict=False)
        ]
        return report.Report(
            boot_s=boot,
            rtt_ms=pings.median_rtt_ms(run.between(*quiet)),
            throughput_mbit_s=throughput,
            moves=moves,
            pings_sent=run.sent,
            pings_lost=len(run.lost),
            pings_unexplained=pings.unexplained(run, self.windows, traffic.INTERVAL_S),
            pings_duplicated=run.duplicates,
            longest_gap_ms=pings.longest_gap_ms(run.between(quiet[0], run.sent)),
            stream=sums,
            doubles=witness.doubles,
            witness_samples=witness.samples,
            drained_left=left,
        )
