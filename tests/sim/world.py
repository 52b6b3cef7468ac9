"""A cluster in one thread: virtual time, a network that loses and delays, agents that crash, and a judge.

Built of the pure machines only. What is modelled here is what the node and the coordinator do with real I/O:

- A copy that lacks pages (post-copy) runs with them missing; each chunk that is pulled is one message there and back.
- A guest process outlives its agent and carries out what it was told even when the agent has died meanwhile.
- A link is a FIFO per direction; when it is cut, everything in flight is lost and both ends notice.
- The store is durable and atomic; the coordinator forgets everything else when it crashes.
- An agent keeps its records; everything else is gone with it.
- A disk goes with its copy; what lies at the source is removed with it.

The judge looks after every step: never two copies running, generations only grow, a copy that starts has the memory
and the disk with which the other one stopped, and what it lacks is at the paused one; a disk is removed only when the
other runs. :meth:`World.settle` then demands that the
guest runs exactly where the store says.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.errors import Refused
from protocol.messages import MigrationParams
from protocol.migration import effects as fx
from protocol.migration import events as ev
from protocol.migration.arbiter import Arbiter, Begin
from protocol.migration.source import Source, SourcePhase
from protocol.migration.target import Target, TargetPhase

COORDINATOR = 0
MIGRATION = "m1"
GUEST = "g1"
CHUNKS = 3  # of pages that a post-copy leaves behind


@dataclass
class Copy:
    """A guest process. ``memory`` stands for its RAM: it grows while it runs."""

    state: str  # incoming, loaded, running, paused
    memory: int = 0
    disk: int = 0  # the same
    busy_until: float = 0.0
    mute: bool = False  # its ports are another copy's
    absent: int = 0  # chunks that are at the source yet
    throttle: int = 0  # percent


@dataclass(order=True)
class Event:
    time: float
    number: int
    run: Callable[[], None] = field(compare=False)
    cancelled: Callable[[], bool] = field(compare=False)


class World:
    """``steps`` counts what has happened; ``fault`` is called before each step with its number."""

    def __init__(self, nodes: int = 2, seed: int = 0, jitter: float = 0.0, *, disks: bool = False) -> None:
        self.disks = disks
        self.now = 0.0
        self.steps = 0
        self.random = random.Random(seed)
        self.jitter = jitter
        self.duplicate_next = False
        self.fault: Callable[[int], None] = lambda step: None
        self.arbiter = Arbiter({GUEST: (5, 1)})
        self.copies: dict[int, Copy] = {1: Copy("running", 100)}
        self.agents = {n: Agent(self, n) for n in range(1, nodes + 1)}
        self.lives = dict.fromkeys(range(nodes + 1), 1)  # incarnation; 0 while down
        self._births = dict.fromkeys(range(nodes + 1), 1)
        self.cuts: set[frozenset[int]] = set()
        self._epochs: dict[frozenset[int], int] = {}
        self._queue: list[Event] = []
        self._count = 0
        self._fifo: dict[tuple[int, int], float] = {}
        self.generation = 5
        self.stopped_with: int | None = None
        self.stopped_disk = 0
        self.trace: list[str] = []
        self.dead_hosts: set[int] = set()
        self.writes = 0  # pages that the guest writes in each round; 0: fewer and fewer

    # ---- time

    def at(self, delay: float, run: Callable[[], None], cancelled: Callable[[], bool] = lambda: False) -> None:
        self.when(self.now + delay, run, cancelled)

    def when(self, time: float, run: Callable[[], None], cancelled: Callable[[], bool] = lambda: False) -> None:
        """At that time to the bit: a timer that came a rounding early would not come again."""
        self._count += 1
        heapq.heappush(self._queue, Event(max(time, self.now), self._count, run, cancelled))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0].time <= until:
            event = heapq.heappop(self._queue)
            self.now = max(self.now, event.time)  # first: a timer is cancelled if it is not due by now
            if event.cancelled():
                continue
            self.fault(self.steps)
            self.steps += 1
            if not event.cancelled():
                event.run()
            self.judge()
        self.now = max(self.now, until)

    # ---- the judge

    def judge(self) -> None:
        running = [n for n, copy in self.copies.items() if copy.state == "running"]
        assert len(running) <= 1, f"two copies run: {running}\n" + "\n".join(self.trace)
        generation, _ = self.arbiter.guests[GUEST]
        for node in running:
            lacks = self.copies[node].absent
            whole = any(c.state == "paused" and not c.absent for n, c in self.copies.items() if n != node)
            if lacks and not whole and not self.dead_hosts:
                raise AssertionError(f"{lacks} chunks are nowhere\n" + "\n".join(self.trace))
        assert generation >= self.generation, "the generation went back"
        self.generation = generation

    def settle(self) -> None:
        """All faults are over: the guest must run, once, where the store says, and nobody is left waiting."""
        self.run(self.now + 700)
        text = "\n".join(self.trace)
        generation, owner = self.arbiter.guests[GUEST]
        row = self.arbiter.migrations.get(MIGRATION)
        decision = row.decision if row else "aborted"
        assert decision != "pending", "the store never decided\n" + text
        assert (generation, owner) == ((6, 2) if decision == "committed" else (5, 1)), text
        if self.dead_hosts and (owner in self.dead_hosts or self.copies[owner].absent):
            return  # it died with its host, as any guest does, or a part of it
        assert not self.copies[owner].absent, "pages are missing still\n" + text
        states = {n: copy.state for n, copy in self.copies.items()}
        assert states == {owner: "running"}, f"{states}, owner {owner}\n{text}"
        assert not self.copies[owner].throttle, f"the guest was left throttled\n{text}"
        for agent in self.agents.values():
            assert not agent.records, f"node {agent.node} still keeps {agent.records}\n{text}"

    # ---- network

    def link_up(self, a: int, b: int) -> bool:
        return bool(self.lives[a] and self.lives[b]) and frozenset((a, b)) not in self.cuts

    def session(self, a: int, b: int) -> int | None:
        """A number that changes with each new session of the link; None while it is down."""
        return self._epochs.get(frozenset((a, b)), 0) if self.link_up(a, b) else None

    def send(self, a: int, b: int, deliver: Callable[[], None], *, once: bool = False) -> None:
        """In order per direction; lost when the link is cut first. Calls may be repeated by a driver that retries; a
        notice (``once``) is not: a session delivers each byte once."""
        link = frozenset((a, b))
        if not self.link_up(a, b):
            return
        epoch = self._epochs.get(link, 0)
        delay = 0.01 + (self.random.random() * self.jitter if self.jitter else 0.0)
        when = max(self._fifo.get((a, b), 0.0), self.now + delay)
        self._fifo[(a, b)] = when
        lost = lambda: self._epochs.get(link, 0) != epoch  # noqa: E731
        self.at(when - self.now, deliver, lost)
        if self.duplicate_next and not once:
            self.duplicate_next = False
            self.at(when - self.now + 0.02, deliver, lost)

    def cut(self, a: int, b: int, seconds: float) -> None:
        link = frozenset((a, b))
        if link in self.cuts:
            return
        self.trace.append(f"{self.now:.3f} cut {sorted(link)} for {seconds}")
        was_up = self.link_up(a, b)
        self.cuts.add(link)
        self._epochs[link] = self._epochs.get(link, 0) + 1
        if was_up:
            self._tell_links(a, b, up=False)

        def heal() -> None:
            self.cuts.discard(link)
            if self.link_up(a, b):
                self._tell_links(a, b, up=True)

        self.at(seconds, heal)

    def crash(self, node: int, seconds: float, *, host: bool = False) -> None:
        """The process dies and is started again ``seconds`` later; with ``host`` its guests die too."""
        if not self.lives[node]:
            return
        self.trace.append(f"{self.now:.3f} crash {'host of ' if host else ''}{node} for {seconds}")
        others = [n for n in self.lives if n != node and self.link_up(node, n)]
        self.lives[node] = 0
        for other in others:
            link = frozenset((node, other))
            self._epochs[link] = self._epochs.get(link, 0) + 1
            self._tell_link(other, node, up=False)
        if node != COORDINATOR:
            self.agents[node].forget_everything()
        if host and node in self.copies:
            self.dead_hosts.add(node)
            del self.copies[node]
        self.at(seconds, lambda: self._restart(node))

    def _restart(self, node: int) -> None:
        self._births[node] += 1
        self.lives[node] = self._births[node]
        if node != COORDINATOR:
            self.agents[node].restart()
        for other in self.lives:
            if other != node and self.link_up(node, other):
                self._tell_links(node, other, up=True)

    def _tell_links(self, a: int, b: int, *, up: bool) -> None:
        self._tell_link(a, b, up=up)
        self._tell_link(b, a, up=up)

    def _tell_link(self, node: int, other: int, *, up: bool) -> None:
        """``node`` notices the state of its link to ``other``."""
        if node == COORDINATOR or not self.lives[node]:
            return
        life = self.lives[node]
        self.at(0.005, lambda: self.agents[node].link_changed(other, up=up), lambda: self.lives[node] != life)

    # ---- coordinator

    def begin(self, params: MigrationParams | None = None) -> None:
        self.arbiter.begin(Begin(MIGRATION, GUEST, 5, 1, 2))
        self.agents[1].start_source(params or MigrationParams(max_rounds=4))

    def decide(self, asker: int, effect: fx.AskStore) -> ev.StoreAnswered:
        verdict = self.arbiter.ask(MIGRATION, GUEST, 5, effect.ask)
        self.trace.append(f"{self.now:.3f} store: {asker} asks {effect.ask}: {verdict.decision}")
        answer = ev.StoreAnswered(verdict.decision, verdict.generation, verdict.owner)
        if verdict.changed:
            for node in (1, 2):
                self.send(COORDINATOR, node, lambda node=node: self.agents[node].settle(answer))  # type: ignore[misc]
        return answer


class Agent:
    """One node's driver: carries out effects, feeds outcomes back. What it does to guests survives it."""

    def __init__(self, world: World, node: int) -> None:
        self.world = world
        self.node = node
        self.records: dict[str, fx.Record] = {}
        self.finished: list[Any] = []
        self.forget_everything()

    def forget_everything(self) -> None:
        self.source: Source | None = None
        self.target: Target | None = None
        self._calls: dict[int, tuple[int, Any]] = {}  # number: (peer, event when the link dies)
        self._next = 0
        self._waits: dict[str, Callable[[Any], None]] = {}  # how to answer the source
        self._pulling = False
        self._left = 0

    @property
    def life(self) -> int:
        return self.world.lives[self.node]

    # ---- events in

    def start_source(self, params: MigrationParams) -> None:
        self.source = Source(MIGRATION, GUEST, 5, 2, params, disks=self.world.disks)
        if not self.world.link_up(self.node, COORDINATOR):
            self.feed(self.source, ev.CoordinatorLost())
        self.feed(self.source, ev.Start())

    def restart(self) -> None:
        self.forget_everything()
        if self.node in self.world.copies:
            self.world.copies[self.node].throttle = 0  # adoption
        for role, record in list(self.records.items()):
            if role == "source":
                self.source, effects = Source.recover(record, self.world.now)
                self.carry_out(self.source, effects)
            else:
                copy = self.world.copies.get(self.node)
                loaded = copy is not None and copy.state in ("loaded", "running")
                if record.phase == "committed" and copy is not None and copy.state == "running":
                    # As the manager does: it runs, only the record was left behind.
                    if not copy.absent and not record.postcopy:
                        self.records.pop("target")
                        continue
                    record = replace(record, phase="pull")
                self.target, effects = Target.recover(record, loaded, self.world.now)
                self.carry_out(self.target, effects)

    def feed(self, machine: Source | Target | None, event: Any) -> None:
        if machine is None:
            return
        who = f"{self.node} {type(machine).__name__} {machine.phase.value}"
        self.world.trace.append(f"{self.world.now:.3f} {who} {event}")
        self.carry_out(machine, machine.handle(event, self.world.now))

    def link_changed(self, other: int, *, up: bool) -> None:
        if other == COORDINATOR:
            event: Any = ev.CoordinatorRestored() if up else ev.CoordinatorLost()
            for machine in (self.source, self.target):
                self.feed(machine, event)
        elif not up:
            if self.source and self.source.target == other:
                self.feed(self.source, ev.TargetLost("link lost"))
            if self.target and self.target.source == other:
                self._waits.clear()
                self.feed(self.target, ev.SourceLost())
        if not up:
            for number in [n for n, (peer, _) in self._calls.items() if peer == other]:
                _, lost = self._calls.pop(number)
                lost()

    def settle(self, answer: ev.StoreAnswered) -> None:
        self.feed(self.source, answer)
        self.feed(self.target, answer)

    # ---- calls over links

    def call(
        self,
        peer: int,
        ask: Callable[[Callable[[Any], None]], None],
        done: Callable[[Any], None],
        lost: Callable[[], None],
    ) -> None:
        """``ask(answer)`` runs at the peer; ``done(value)`` here, unless the link dies first: then ``lost()``."""
        world, life = self.world, self.life
        if not world.link_up(self.node, peer):
            world.at(0.001, lost, lambda: self.life != life)
            return
        self._next += 1
        number = self._next
        self._calls[number] = (peer, lost)

        def finish(value: Any) -> None:
            if self.life == life and self._calls.pop(number, None):
                done(value)

        world.send(self.node, peer, lambda: ask(lambda value: world.send(peer, self.node, lambda: finish(value))))

    # ---- effects out

    def carry_out(self, machine: Source | Target, effects: list[fx.Effect]) -> None:
        for effect in effects:
            getattr(self, "_do_" + type(effect).__name__)(machine, effect)
        wake = machine.wakeup
        if wake is not None:
            life = self.life
            due = lambda: self.life != life or machine.wakeup is None or machine.wakeup > self.world.now  # noqa: E731
            self.world.when(wake, lambda: self.feed(machine, ev.Tick()), due)

    def _nothing(self, machine: Any, effect: Any) -> None:
        pass

    _do_ReportProgress = _do_EndRound = _nothing

    def _do_SetThrottle(self, machine: Source, effect: fx.SetThrottle) -> None:
        copy = self.world.copies.get(self.node)
        if copy is not None:
            copy.throttle = effect.percent

    def _do_StopCopy(self, machine: Source, effect: fx.StopCopy) -> None:
        copy = self.world.copies.get(self.node)
        if copy is not None:
            copy.throttle = 0

    def _do_Persist(self, machine: Any, effect: fx.Persist) -> None:
        self.records[effect.record.role] = effect.record

    def _do_Forget(self, machine: Any, effect: fx.Forget) -> None:
        self.records.pop("source" if isinstance(machine, Source) else "target", None)

    def _do_Done(self, machine: Any, effect: fx.Done) -> None:
        self.finished.append(effect.result)

    def _do_AskStore(self, machine: Any, effect: fx.AskStore) -> None:
        self.call(
            COORDINATOR,
            lambda answer: answer(self.world.decide(self.node, effect)),
            lambda value: self.feed(machine, value),
            lambda: self.feed(machine, ev.StoreUnreachable()),
        )

    # source

    def _to_target(self, machine: Source, kind: str, payload: Any, done: Callable[[Any], None]) -> None:
        peer = self.world.agents[machine.target]

        def outcome(value: Any) -> None:
            if isinstance(value, Refused):
                over = kind == "finish" and value.code == "not_found"
                self.feed(machine, ev.TargetLost(str(value), over=over))
            else:
                done(value)

        self.call(
            machine.target,
            lambda answer: peer.serve(kind, payload, self.node, answer),
            outcome,
            lambda: self.feed(machine, ev.TargetLost("link lost")),
        )

    def _do_PrepareTarget(self, machine: Source, effect: fx.PrepareTarget) -> None:
        self._to_target(machine, "prepare", None, lambda _: self.feed(machine, ev.TargetPrepared()))

    def _do_SendDisks(self, machine: Source, effect: fx.SendDisks) -> None:
        copy = self.world.copies[self.node]
        disk = copy.disk
        self._to_target(machine, "blocks", disk, lambda _: self.feed(machine, ev.DisksDone(1 << 20, 0.01, 100)))
        if copy.state == "running":
            copy.disk += 1

    def _do_KeepDisks(self, machine: Source, effect: fx.KeepDisks) -> None:
        copy = self.world.copies.get(self.node)
        if copy is not None:
            copy.mute = True

    def _do_SendRound(self, machine: Source, effect: fx.SendRound) -> None:
        copy = self.world.copies[self.node]
        memory, dirty = (copy.memory, copy.disk), (1000 if effect.number < 3 else 1)
        if self.world.writes:
            dirty = int(self.world.writes * (1 - copy.throttle / 100))
        done = ev.RoundDone(100, 5, 1 << 20, 0.01, dirty)
        self._to_target(machine, "pages", memory, lambda _: self.feed(machine, done))
        if copy.state == "running":
            copy.memory += 1
            copy.disk += 1

    def _do_SendLastRound(self, machine: Source, effect: fx.SendLastRound) -> None:
        copy = self.world.copies[self.node]
        memory = (copy.memory, copy.disk)
        self._to_target(machine, "pages", memory, lambda _: self.feed(machine, ev.LastRoundDone(1, 0, 4096)))

    def _do_LeavePages(self, machine: Source, effect: fx.LeavePages) -> None:
        self._left = CHUNKS
        done = ev.LastRoundDone(0, 0, 0, CHUNKS)
        if self.world.disks:
            disk = self.world.copies[self.node].disk
            self._to_target(machine, "blocks", disk, lambda _: self.feed(machine, done))
        else:
            self.feed(machine, done)

    def _do_ServePages(self, machine: Source, effect: fx.ServePages) -> None:
        copy = self.world.copies.get(self.node)
        if copy is None:
            self.feed(machine, ev.StepFailed("guest", "gone"))
        else:
            copy.mute = True

    def serve_pull(self, done: bool, answer: Callable[[Any], None]) -> None:
        """One chunk, or the target's word that it has all."""
        copy = self.world.copies.get(self.node)
        phases = (SourcePhase.SWITCH, SourcePhase.COMMIT, SourcePhase.FINISH, SourcePhase.SERVE)
        if self.source is None or self.source.phase not in phases or copy is None:
            answer(Refused("not_found", "no pages of it"))
        elif copy.state != "paused":
            answer(Refused("conflict", "it is not paused"))
        elif done:
            self.feed(self.source, ev.Pulled())
            answer(None)
        else:
            self.feed(self.source, ev.Served(1, 0, 4096, 0))
            answer(None)

    def _do_SendState(self, machine: Source, effect: fx.SendState) -> None:
        self._to_target(machine, "state", self._left, lambda value: self.feed(machine, value))

    def _do_FinishTarget(self, machine: Source, effect: fx.FinishTarget) -> None:
        def done(value: float) -> None:
            now = self.world.now
            self.feed(machine, ev.TargetFinished(value, now, now, now))

        self._to_target(machine, "finish", (effect.decision, effect.generation), done)

    def _guest(self, delay: float, act: Callable[[], None], machine: Any, event: Any) -> None:
        """In order per guest process; happens even if this agent dies meanwhile, but then nobody hears of it."""
        world, life = self.world, self.life
        copy = world.copies.get(self.node)
        if copy is None:
            if event is not None:
                world.at(0.001, lambda: self.feed(machine, ev.StepFailed("guest", "gone")), lambda: self.life != life)
            return
        copy.busy_until = max(copy.busy_until, world.now) + delay

        def happen() -> None:
            if world.copies.get(self.node) is copy:
                act()
            if event is not None and self.life == life:
                world.at(0.002, lambda: self.feed(machine, event()), lambda: self.life != life)

        world.at(copy.busy_until - world.now, happen)

    def _do_PauseGuest(self, machine: Source, effect: fx.PauseGuest) -> None:
        copy = self.world.copies.get(self.node)

        def pause() -> None:
            if copy and copy.state == "running":
                copy.state = "paused"
                copy.memory += 1
                copy.disk += 1
                self.world.stopped_with, self.world.stopped_disk = copy.memory, copy.disk

        self._guest(0.002, pause, machine, lambda: ev.Paused(self.world.now))

    def _do_ResumeGuest(self, machine: Source, effect: fx.ResumeGuest) -> None:
        copy = self.world.copies.get(self.node)

        def resume() -> None:
            if copy and copy.state == "paused":
                copy.state = "running"

        self._guest(0.002, resume, machine, None)

    def _do_SaveState(self, machine: Source, effect: fx.SaveState) -> None:
        self._guest(0.002, lambda: None, machine, ev.StateSaved)

    def _do_ComputeChecksum(self, machine: Source, effect: fx.ComputeChecksum) -> None:
        copy = self.world.copies.get(self.node)
        self._guest(0.002, lambda: None, machine, lambda: ev.Checksummed(str(copy.memory if copy else "")))

    def _do_FreeGuest(self, machine: Source, effect: fx.FreeGuest) -> None:
        others = [copy.state for node, copy in self.world.copies.items() if node != self.node]
        kept = not self.world.disks or self.node not in self.world.copies or "running" in others
        assert kept or self.world.dead_hosts, "a disk was removed, and nobody runs with another"
        self.world.copies.pop(self.node, None)

    # target

    def serve(self, kind: str, payload: Any, source: int, answer: Callable[[Any], None]) -> None:
        copy = self.world.copies.get(self.node)
        if kind == "prepare":
            if self.target is None:
                if copy is not None or "target" in self.records:
                    answer(Refused("conflict", "another copy is here"))
                    return
                self.target = Target(MIGRATION, GUEST, 5, source, disks=self.world.disks)
            self._waits["prepare"] = answer
            self.feed(self.target, ev.PrepareAsked())
        elif kind in ("pages", "blocks"):
            if copy is None or copy.state != "incoming":
                answer(Refused("conflict", "no reservation"))
                return
            if kind == "pages":
                copy.memory, copy.disk = payload
            else:
                copy.disk = payload
            answer(None)
        elif self.target is None:
            answer(Refused("not_found", "no such migration"))
        elif kind == "state" and self.target.phase is TargetPhase.DONE:
            answer(Refused("conflict", "the migration is over"))
        elif kind == "state":
            self._waits["state"] = answer
            if copy is not None and copy.state == "incoming":
                copy.absent = payload
            self.feed(self.target, ev.StateArrived(True, payload))
        else:
            self._waits["finish"] = answer
            self.feed(self.target, ev.FinishAsked(*payload))

    def _answer(self, kind: str, value: Any) -> None:
        answer = self._waits.pop(kind, None)
        if answer:
            answer(value)

    def _do_Reserve(self, machine: Target, effect: fx.Reserve) -> None:
        world, life = self.world, self.life

        def reserve() -> None:
            # The process may come up after its agent died; the restarted agent finds it.
            if "target" in self.records and self.node not in world.copies:
                world.copies[self.node] = Copy("incoming")
            if self.life == life:
                self.feed(machine, ev.Reserved())

        world.at(0.005, reserve)

    def _do_LoadState(self, machine: Target, effect: fx.LoadState) -> None:
        copy = self.world.copies.get(self.node)

        def load() -> None:
            if copy:
                copy.state = "loaded"

        self._guest(0.005, load, machine, lambda: ev.StateLoaded(str(copy.memory if copy else "")))

    def _do_StartGuest(self, machine: Target, effect: fx.StartGuest) -> None:
        copy = self.world.copies.get(self.node)

        def start() -> None:
            if copy and copy.state == "loaded":
                assert copy.absent or copy.memory == self.world.stopped_with, "pages were lost"
                assert not self.world.disks or copy.disk == self.world.stopped_disk, "blocks were lost"
                copy.state = "running"

        absent = lambda: copy.absent if copy else 0  # noqa: E731
        self._guest(0.002, start, machine, lambda: ev.GuestStarted(self.world.now, absent()))

    def _do_PullPages(self, machine: Target, effect: fx.PullPages) -> None:
        if not self._pulling:
            self._pulling = True
            self._pull(machine)

    def _do_ReleaseSource(self, machine: Target, effect: fx.ReleaseSource) -> None:
        self.feed(machine, ev.PullDone())

    def _pull(self, machine: Target) -> None:
        """The next chunk, or the word that nothing is missing; again for ever."""
        world, life = self.world, self.life
        copy = world.copies.get(self.node)
        if copy is None or machine.phase is TargetPhase.DONE:
            return
        done = not copy.absent

        def again(delay: float) -> None:
            world.at(delay, lambda: self._pull(machine), lambda: self.life != life)

        def outcome(value: Any) -> None:
            if isinstance(value, Refused):
                if done and value.code == "not_found":
                    self.feed(machine, ev.PullDone())
                else:
                    again(2.0)
            elif done:
                self.feed(machine, ev.PullDone())
            else:
                copy.absent -= 1
                if not copy.absent and world.stopped_with is not None:
                    copy.memory = world.stopped_with
                again(0.0)

        self.call(
            machine.source, lambda a: world.agents[machine.source].serve_pull(done, a), outcome, lambda: again(0.2)
        )

    def _do_DestroyIncoming(self, machine: Target, effect: fx.DestroyIncoming) -> None:
        copy = self.world.copies.get(self.node)
        assert copy is None or copy.state != "running", "a running guest was destroyed"
        self.world.copies.pop(self.node, None)

    def _do_KeepIncoming(self, machine: Target, effect: fx.KeepIncoming) -> None:
        assert self.world.dead_hosts, "processes that were loaded die with their hosts only"
        self.world.copies.pop(self.node, None)

    def _do_AnswerPrepared(self, machine: Target, effect: fx.AnswerPrepared) -> None:
        self._answer("prepare", None)

    def _do_AnswerReady(self, machine: Target, effect: fx.AnswerReady) -> None:
        self._answer("state", ev.TargetReady(effect.checksum, effect.verify_ms))

    def _do_AnswerFinished(self, machine: Target, effect: fx.AnswerFinished) -> None:
        self._answer("finish", effect.resumed_at)

    def _do_RefuseSource(self, machine: Target, effect: fx.RefuseSource) -> None:
        for kind in list(self._waits):
            self._answer(kind, Refused(effect.code, effect.reason))
