"""The handover as a model: the real machines of :mod:`protocol.migration`, and around them everything that can happen.

What is real: Source, Target, their recovery, and the store's rule (:func:`protocol.migration.decide`). What is
modelled, as nodes and coordinator do it: links and calls, records, guest processes, restarts, the pull.

- A message may be delivered whenever it is under way, before or behind any other. Faults (each takes one of the
  ``left``): a message is lost; delivered twice; a call is given up while it is still under way; a link is cut; source,
  target or coordinator dies, at any moment and between any two effects of one event; somebody cancels.
- After a fault things mend in their own time: a link comes back, a process is started again, a call that cannot be
  answered any more ends. These steps are no faults, and neither is a timer, whenever it fires.
- A guest process outlives its agent and may still do what it was told. A copy's folder says whose it is.
- An agent that has died leaves its messages under way, until the other end notices.

Left out: hosts that die (a guest dies with its host), disks that fail, a guest that ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from protocol.messages import MigrationParams
from protocol.migration import Begin, decide
from protocol.migration import effects as fx
from protocol.migration import events as ev
from protocol.migration.source import Source
from protocol.migration.target import Target
from tests.model.machines import Bank
from tests.model.state import GENERATION, NOBODY, State
from tests.model.state import Target as Incoming

M, G = "m", "g"
SOURCE, TARGET = 1, 2
_SERVES: Final = ("switch", "commit", "finish", "serve")
_ONCE: Final = (
    "prepared",
    "placed",
    "ready",
    "finished",
    "refused",
    "gone",
    "told",
    "pulled",
)  # an answer finds its call once

Act = Callable[[State], None]


class _Dies(Exception):
    """The agent whose effects are being carried out is killed between two of them."""


class Handover:
    """``dirty``: pages that each round leaves behind; ``disks``: the guest has one. The classes may be replaced by
    wrong ones, to be caught."""

    def __init__(
        self,
        params: MigrationParams,
        *,
        faults: int,
        dirty: int = 1,
        disks: bool = False,
        source: type[Source] = Source,
        target: type[Target] = Target,
        rule: Callable[..., Any] = decide,
    ) -> None:
        self.faults = faults
        self._params = params
        self.disks = disks
        self._round = ev.RoundDone(100, 5, 1 << 20, 0.01, dirty)
        self._source, self._target, self._rule = source, target, rule
        self.bank = Bank()
        self._carried = 0  # effects of the action that is being done
        self._dies_at = 0  # the agent dies before this one; 0: it lives

    # ---- what the search asks

    def initial(self) -> Any:
        state = State(self.faults)
        state.channel = frozenset({("S", "C", "start", 0)})
        return state.packed()

    def _wrong(self, was: State, now: State) -> str:
        """What is wrong with this step, or ""."""
        target = now.t_copy
        runs_there = target is not None and target.state == "running"
        if now.generation < was.generation:
            return "the generation went back"
        if was.decision not in ("pending", now.decision):
            return "the store took its word back"
        if now.s_copy == "running" and runs_there:
            return "two copies run"
        if now.s_copy == "running" and now.decision == "committed":
            return "the source runs in a generation that has passed"
        if runs_there and now.decision != "committed":
            return "the target runs in a generation that has not come"
        if target is not None and target.state == "running" and target.absent and now.s_copy != "paused":
            return "pages that the running guest lacks are nowhere"
        if target is not None and target.state == "running" and not target.fresh and not target.absent:
            return "the target runs with memory of another time"
        if now.s_copy is None and (target is None or target.state == "incoming"):
            return "the guest is nowhere"
        if self.disks and runs_there and target is not None and not target.disk:
            return "the target runs with a disk of another time"
        if self.disks and now.s_copy is None and not runs_there:
            return "the source's disk is removed and nobody runs with the other one"
        return ""

    def view(self, packed: Any) -> State:
        return State.unpacked(packed)

    @staticmethod
    def good(state: State) -> bool:
        """Settled: one copy, running, whole, at its owner; nothing is noted any more."""
        if state.s_rec or state.t_rec:
            return False
        if state.decision == "aborted":
            return state.s_copy == "running" and state.t_copy is None
        there = state.t_copy
        done = there is not None and there.state == "running" and not there.absent
        return state.decision == "committed" and done and state.s_copy is None

    def show(self, packed: Any) -> str:
        state = State.unpacked(packed)
        parts = [f"{name}={getattr(state, name)}" for name in State.__slots__ if name not in ("s", "t")]
        machines = [
            f"{who}={self.bank.phase(n) if n != NOBODY else None}" for who, n in (("s", state.s), ("t", state.t))
        ]
        return " ".join(machines + parts)

    def steps(self, packed: Any) -> Iterator[tuple[str, bool, Any, str]]:
        was = State.unpacked(packed)
        for name, who, fault, act in self._actions(was):
            if fault and not was.left:
                continue
            after = self._do(packed, act, fault, 0, who)
            yield name, fault, after.packed(), self._wrong(was, after)
            most = self._carried
            if was.left and not fault:
                for before in range(2, most + 1):
                    after = self._do(packed, act, True, before, who)
                    yield f"{name}, dies before effect {before}", True, after.packed(), self._wrong(was, after)

    def _do(self, packed: Any, act: Act, fault: bool, dies_at: int, who: str) -> State:
        state = State.unpacked(packed)
        self._carried, self._dies_at = 0, dies_at
        try:
            act(state)
        except _Dies:
            self._crash(state, who)
        state.left -= fault
        self._tidy(state)
        return state

    @staticmethod
    def _tidy(state: State) -> None:
        """What nobody waits for any more changes nothing when it comes: it need not be told apart."""
        calls = {"S": {n for _, n in state.s_calls}, "T": {n for _, n in state.t_calls}}
        for m in state.channel:
            if m[2] in _ONCE and m[3] not in calls[m[0]]:
                state.channel -= {m}
        if state.s_local:
            state.s_local = frozenset(e for e in state.s_local if e[0] != "lost" or e[1] in state.s_calls)
        if state.t_local:
            state.t_local = frozenset(e for e in state.t_local if e[0] != "lost" or e[1] in state.t_calls)

    # ---- what can happen

    def _actions(self, state: State) -> Iterator[tuple[str, str, bool, Act]]:
        """(name, whose effects it carries out, is it a fault, the action)."""
        for message in state.channel:
            to, what = message[0], message[2]
            if self._ready(state, message):
                yield f"{what} reaches {to}", to, False, lambda s, m=message: self._deliver(s, m, keep=False)  # type: ignore[misc]
                if what not in _ONCE:
                    yield (
                        f"{what} reaches {to}, and again",
                        to,
                        True,
                        lambda s, m=message: self._deliver(s, m, keep=True),
                    )  # type: ignore[misc]
            yield f"{what} to {to} is lost", "", True, lambda s, m=message: self._drop(s, lambda x: x == m)  # type: ignore[misc]
        yield from self._of_source(state)
        yield from self._of_target(state)
        for who in "ST":
            yield from self._of_either(state, who)
        yield from self._of_coordinator(state)
        if state.link:
            yield "the link of the ends is cut", "", True, self._cut_link
        elif state.s_up and state.t_up:
            yield "mend the link of the ends", "", False, self._mend_link

    def _of_either(self, state: State, who: str) -> Iterator[tuple[str, str, bool, Act]]:
        get = lambda name: getattr(state, f"{who.lower()}_{name}")  # noqa: E731
        machine, view = (state.s if who == "S" else state.t), get("view")
        if not get("up"):
            yield f"restart {who}", who, False, self._restart_source if who == "S" else self._restart_target
            return
        yield f"{who} dies", "", True, lambda s: self._crash(s, who)
        if self._alive(machine):
            for timer in self.bank.timers(machine):
                early = timer != "retry"
                if who == "S" and self.disks and self.bank.phase(machine) == "finish":
                    if any(kind == "finish" for kind, _ in state.s_calls):
                        continue  # one question at a time
                    early = False  # it asks until it is answered
                yield f"{who}: {timer} fires", who, early, lambda s, t=timer: self._fire(s, who, t)  # type: ignore[misc]
            yield f"{who} is asked to cancel", who, True, lambda s: self._feed(s, who, ev.CancelAsked())
        for event in get("local"):
            yield (
                f"{who} is told {event[0] if len(event) > 1 else type(event[0]).__name__}",
                who,
                False,
                lambda s, e=event: self._tell(s, who, e),
            )  # type: ignore[misc]
        for call in get("calls"):
            hangs = any(m[1] == who and m[3] == call[1] for m in state.channel)
            hangs = hangs or (who == "S" and state.t_slot is not None and state.t_slot == call and state.t_up)
            name = f"{who} gives up {call[0]}" + (", which is under way" if hangs else "")
            yield name, who, hangs, lambda s, c=call: self._lose_call(s, who, c)  # type: ignore[misc]
        if view == "up":
            yield f"{who}'s link to the coordinator is cut", "", True, lambda s: self._cut_control(s, who)
        elif view == "lost":
            yield f"{who} misses the coordinator", who, False, lambda s: self._miss(s, who)
        elif state.c_up:
            yield f"{who} reaches the coordinator again", who, False, lambda s: self._register(s, who)

    def _of_source(self, state: State) -> Iterator[tuple[str, str, bool, Act]]:
        if state.s_ops:
            yield f"the source's guest does {state.s_ops[0]}", "S", False, self._source_guest

    def _of_target(self, state: State) -> Iterator[tuple[str, str, bool, Act]]:
        if state.t_ops:
            yield f"the target's guest does {state.t_ops[0]}", "T", False, self._target_guest
        pulls = state.t_up and state.t_pull and state.t_copy is not None and self._alive(state.t)
        if pulls and state.link and not any(kind == "pull" for kind, _ in state.t_calls):
            yield "T pulls", "T", False, self._pull

    def _of_coordinator(self, state: State) -> Iterator[tuple[str, str, bool, Act]]:
        if not state.c_up:
            yield "restart C", "", False, self._restart_coordinator
            return
        yield "C dies", "", True, self._crash_coordinator
        if state.decision == "pending":
            without = not state.s_up or not (self._alive(state.s) or ("S", "C", "start", 0) in state.channel)
            yield "C aborts", "", not without, lambda s: self._decide(s, "abort")
            return
        for who in "ST":
            if self._stale(state, who):
                yield f"{who} reports, C tells it", "", False, lambda s, w=who: self._post(s, w, "C", "settle", 0)  # type: ignore[misc]

    def _stale(self, state: State, who: str) -> bool:
        """Does this node report a migration that is settled, and nobody has just told it so?"""
        view, machine = (state.s_view, state.s) if who == "S" else (state.t_view, state.t)
        if view != "up" or not self._alive(machine) or not (state.s_rec if who == "S" else state.t_rec):
            return False
        return not any(m[0] == who and m[2] in ("settle", "told") for m in state.channel)

    # ---- feeding machines

    def _alive(self, machine: int) -> bool:
        """Is there a driver that still handles events?"""
        return machine != NOBODY and self.bank.phase(machine) != "done"

    def _feed(self, state: State, who: str, event: Any) -> None:
        machine = state.s if who == "S" else state.t
        if self._alive(machine):
            self._went(state, who, self.bank.handle(machine, event))

    def _fire(self, state: State, who: str, timer: str) -> None:
        self._went(state, who, self.bank.fire(state.s if who == "S" else state.t, timer))

    def _went(self, state: State, who: str, step: tuple[int, tuple[fx.Effect, ...]]) -> None:
        number, effects = step
        if who == "S":
            state.s = number
        else:
            state.t = number
        self._carry_out(state, who, effects)

    def _carry_out(self, state: State, who: str, effects: tuple[fx.Effect, ...]) -> None:
        for effect in effects:
            self._one_more()
            match effect:
                case fx.Persist(record):
                    setattr(state, f"{who.lower()}_rec", record)
                case fx.Forget():
                    setattr(state, f"{who.lower()}_rec", None)
                case fx.AskStore(ask):
                    self._ask(state, who, ask)
                case fx.Done():
                    self._done(state, who)
                case _ if who == "S":
                    self._source_effect(state, effect)
                case _:
                    self._target_effect(state, effect)

    def _one_more(self) -> None:
        self._carried += 1
        if self._carried == self._dies_at:
            raise _Dies

    def _done(self, state: State, who: str) -> None:
        """The driver ends: nobody waits for what it began."""
        if who == "S":
            state.s_calls = state.s_local = frozenset()
        else:
            state.t_calls = state.t_local = frozenset()
            state.t_pull = False
            kind = state.t_slot[0] if state.t_slot else ""
            self._answer(state, "finished" if kind == "finish" else "refused")

    def _tell(self, state: State, who: str, event: Any) -> None:
        self._add_local(state, who, event, away=True)
        if event[0] == "lost":
            if event[1] in (state.s_calls if who == "S" else state.t_calls):
                self._lose_call(state, who, event[1])
        else:
            self._feed(state, who, event[0])

    def _lose_call(self, state: State, who: str, call: Any) -> None:
        """No answer will come, or nobody waits for it any more."""
        if who == "S":
            state.s_calls -= {call}
        else:
            state.t_calls -= {call}
        if call[0] == "ask":
            self._feed(state, who, ev.StoreUnreachable())
        elif who == "S":
            self._feed(state, who, ev.TargetLost("lost"))

    @staticmethod
    def _add_local(state: State, who: str, event: Any, *, away: bool = False) -> None:
        name = f"{who.lower()}_local"
        local = getattr(state, name)
        setattr(state, name, local - {event} if away else local | {event})

    # ---- links

    @staticmethod
    def _drop(state: State, which: Callable[[Any], bool]) -> None:
        state.channel = frozenset(m for m in state.channel if not which(m))

    @staticmethod
    def _post(state: State, *message: Any) -> None:
        state.channel |= {message}

    @staticmethod
    def _new(state: State, who: str) -> int:
        """A number of a call that nobody knows."""
        used = {m[3] for m in state.channel if m[1] == who}
        used |= {number for _, number in (state.s_calls if who == "S" else state.t_calls)}
        if who == "S" and state.t_slot:
            used.add(state.t_slot[1])
        number = 1
        while number in used:
            number += 1
        return number

    def _call(self, state: State, kind: str, *payload: Any) -> None:
        """From the source to the target."""
        number = self._new(state, "S")
        state.s_calls |= {(kind, number)}
        if state.link:
            self._post(state, "T", "S", kind, number, *payload)

    def _ask(self, state: State, who: str, ask: str) -> None:
        number = self._new(state, who)
        if who == "S":
            state.s_calls |= {("ask", number)}
        else:
            state.t_calls |= {("ask", number)}
        if (state.s_view if who == "S" else state.t_view) == "up":
            self._post(state, "C", who, "ask", number, ask)

    def _cut_link(self, state: State) -> None:
        state.link = False
        self._drop(state, lambda m: m[0] in "ST" and m[1] in "ST" and m[2] != "told")
        self._broken(state)

    def _broken(self, state: State) -> None:
        """Both ends will notice. What the target works at for the source has nobody who waits."""
        if state.s_up:
            state.s_local |= {("lost", call) for call in state.s_calls if call[0] != "ask"}
        if state.t_up:
            state.t_local |= {("lost", call) for call in state.t_calls if call[0] != "ask"}
            if state.t_watch:
                state.t_watch = False
                state.t_local |= {(ev.SourceLost(),)}
            if state.t_slot:
                state.t_slot = (state.t_slot[0], None)

    def _mend_link(self, state: State) -> None:
        self._drop(state, lambda m: m[0] in "ST" and m[1] in "ST" and m[2] != "told")  # of the session before
        state.link = True

    def _cut_control(self, state: State, who: str) -> None:
        self._drop(state, lambda m: (m[0] == "C" and m[1] == who) or (m[0] == who and (m[1] == "C" or m[2] == "told")))
        self._lost_control(state, who)

    def _lost_control(self, state: State, who: str) -> None:
        calls = state.s_calls if who == "S" else state.t_calls
        lost = {("lost", call) for call in calls if call[0] == "ask"}
        if who == "S":
            state.s_view = "lost"
            state.s_local |= lost
        else:
            state.t_view = "down"  # it makes no difference to a target when it notices
            state.t_local |= lost

    def _miss(self, state: State, who: str) -> None:
        self._drop(state, lambda m: m[0] == who and (m[1] == "C" or m[2] == "told"))
        setattr(state, f"{who.lower()}_view", "down")
        self._feed(state, who, ev.CoordinatorLost())

    def _register(self, state: State, who: str) -> None:
        """A new session: the node reports, and the coordinator answers with what it seems not to know."""
        self._drop(state, lambda m: m[0] == "C" and m[1] == who)
        setattr(state, f"{who.lower()}_view", "up")
        if state.decision != "pending" and (state.s_rec if who == "S" else state.t_rec):
            self._post(state, who, "C", "settle", 0)
        if who == "S" and state.c_again:
            state.c_again = False
            if state.decision == "pending":
                self._post(state, "S", "C", "start", 0)
        self._feed(state, who, ev.CoordinatorRestored())

    # ---- the coordinator

    def _decide(self, state: State, ask: Any) -> None:
        owner = TARGET if state.decision == "committed" else SOURCE
        row = Begin(M, G, GENERATION, SOURCE, TARGET, state.decision)
        verdict = self._rule(row, state.generation, owner, GENERATION, ask)
        if verdict.changed:
            state.decision, state.generation = verdict.decision, verdict.generation
            for who in "ST":
                if (state.s_view if who == "S" else state.t_view) == "up":
                    self._post(state, who, "C", "settle", 0)

    def _word(self, state: State) -> ev.StoreAnswered:
        committed = state.decision == "committed"
        return ev.StoreAnswered(state.decision, GENERATION + committed, TARGET if committed else SOURCE)

    def _crash_coordinator(self, state: State) -> None:
        state.c_up = False
        self._drop(state, lambda m: m[0] == "C")
        for who in "ST":
            if (state.s_view if who == "S" else state.t_view) == "up":
                self._lost_control(state, who)

    @staticmethod
    def _restart_coordinator(state: State) -> None:
        state.c_up, state.c_again = True, True

    # ---- messages that arrive

    @staticmethod
    def _ready(state: State, message: Any) -> bool:
        to, what = message[0], message[2]
        if not (state.c_up if to == "C" else state.s_up if to == "S" else state.t_up):
            return False
        if what == "state" and state.t_ram and state.t_copy and not (message[4] or state.t_copy.fresh):
            return not any(m[2] == "last" for m in state.channel)  # it waits for the pages before it
        if what == "state" and state.t_ram and state.t_copy and not state.t_copy.disk:
            return not any(m[2] == "blocks" for m in state.channel)
        return True

    def _deliver(self, state: State, message: Any, *, keep: bool) -> None:
        if not keep:
            self._drop(state, lambda m: m == message)
        to, caller, what, number, *payload = message
        if to == "C":
            self._decide(state, payload[0])
            if state.s_up if caller == "S" else state.t_up:
                view = state.s_view if caller == "S" else state.t_view
                if view == "up":
                    self._post(state, caller, caller, "told", number, self._word(state))
        elif what == "settle":
            self._feed(state, to, self._word(state))
        elif what == "told":
            self._told(state, to, number, payload[0])
        elif to == "S":
            self._to_source(state, what, number, payload)
        else:
            self._to_target(state, what, number, payload)

    def _told(self, state: State, who: str, number: int, word: Any) -> None:
        call = ("ask", number)
        if call in (state.s_calls if who == "S" else state.t_calls):
            if who == "S":
                state.s_calls -= {call}
            else:
                state.t_calls -= {call}
            self._feed(state, who, word)

    def _to_source(self, state: State, what: str, number: int, payload: list[Any]) -> None:
        if what == "start":
            if state.s == NOBODY and state.s_copy == "running" and state.s_rec is None:
                state.s = self.bank.number(self._source(M, G, GENERATION, TARGET, self._params, disks=self.disks))
                if state.s_view != "up":
                    state.s = self.bank.handle(state.s, ev.CoordinatorLost())[0]
                self._feed(state, "S", ev.Start())
            return
        if what == "pull":
            self._serve(state, number, done=payload[0])
            return
        call = next((c for c in state.s_calls if c[1] == number and c[0] != "ask"), None)
        if call is None:
            return
        state.s_calls -= {call}
        outcomes: dict[tuple[str, str], Any] = {
            ("prepare", "prepared"): ev.TargetPrepared(),
            ("round", "placed"): self._round,
            ("disks", "placed"): ev.DisksDone(1 << 20, 0.01, 0),
            ("finish", "gone"): ev.TargetLost("gone", over=True),
            ("state", "ready"): ev.TargetReady("sum" if self._params.verify else ""),
            ("finish", "finished"): ev.TargetFinished(0.0, 0.0, 0.0, 0.0),
        }
        self._feed(state, "S", outcomes.get((call[0], what), ev.TargetLost("refused")))

    def _serve(self, state: State, number: int, *, done: bool) -> None:
        serves = self._alive(state.s) and self.bank.phase(state.s) in _SERVES and state.s_copy is not None
        answer = "not_found" if not serves else "ok" if state.s_copy == "paused" else "conflict"
        if answer == "ok":
            self._feed(state, "S", ev.Pulled() if done else ev.Served(1, 0, 4096, 0))
        if state.link:
            self._post(state, "T", "T", "pulled", number, answer, done)

    def _to_target(self, state: State, what: str, number: int, payload: list[Any]) -> None:
        if what == "pulled":
            self._pulled(state, number, *payload)
            return
        known = state.t != NOBODY
        takes = state.t_ram and state.t_copy is not None and state.t_copy.state == "incoming"
        if what in ("round", "disks"):
            self._reply(state, number, "placed" if takes else "refused")
        elif what == "last":
            if takes and state.t_copy:
                state.t_copy = state.t_copy._replace(fresh=True)
        elif what == "blocks":
            if takes and state.t_copy:
                state.t_copy = state.t_copy._replace(disk=True)
        elif what == "finish" and not known:
            self._reply(state, number, "gone")
        elif what == "finish" and known and not self._alive(state.t):
            self._reply(state, number, "finished")
        elif what == "prepare" and not known and state.t_copy is None and state.t_rec is None:
            state.t = self.bank.number(self._target(M, G, GENERATION, SOURCE, disks=self.disks))
            self._asked(state, what, number, ev.PrepareAsked())
        elif not self._alive(state.t) or (what == "state" and not self._whole(state, absent=payload[0])):
            self._reply(state, number, "refused")
        elif what == "prepare":
            self._asked(state, what, number, ev.PrepareAsked())
        elif what == "state":
            if takes and state.t_copy and self.bank.phase(state.t) == "receive":
                state.t_copy = state.t_copy._replace(absent=payload[0])
            self._asked(state, what, number, ev.StateArrived(self._verifies(payload[0]), int(payload[0])))
        else:
            self._asked(state, what, number, ev.FinishAsked(*payload))

    def _verifies(self, absent: bool) -> bool:
        return self._params.verify and not absent

    def _whole(self, state: State, *, absent: bool) -> bool:
        copy = state.t_copy
        return state.t_ram and copy is not None and (copy.fresh or absent) and (copy.disk or not self.disks)

    def _asked(self, state: State, kind: str, number: int, event: Any) -> None:
        self._answer(state, "refused")
        state.t_slot = (kind, number)
        if kind == "prepare" and state.link:
            state.t_watch = True
        self._feed(state, "T", event)

    def _answer(self, state: State, what: str) -> None:
        if state.t_slot:
            number, state.t_slot = state.t_slot[1], None
            if number is not None:
                self._reply(state, number, what)

    def _reply(self, state: State, number: int, what: str) -> None:
        if state.link:
            self._post(state, "S", "S", what, number)

    # ---- the source's hands

    def _source_effect(self, state: State, effect: fx.Effect) -> None:
        match effect:
            case fx.PrepareTarget():
                self._call(state, "prepare")
            case fx.SendRound():
                self._call(state, "round")
            case fx.SendDisks():
                self._call(state, "disks")
            case fx.SendLastRound():
                if state.link:
                    self._post(state, "T", "S", "last", 0)
                self._send_blocks(state)
                self._add_local(state, "S", (ev.LastRoundDone(1, 0, 4096),))
            case fx.LeavePages():
                self._send_blocks(state)
                self._add_local(state, "S", (ev.LastRoundDone(0, 0, 0, 1),))
            case fx.SendState():
                self._call(state, "state", self.bank.machines[state.s].postcopy)  # type: ignore[union-attr]
            case fx.FinishTarget("committed", generation):
                self._call(state, "finish", "committed", generation)
            case fx.FinishTarget(decision, generation):  # nobody waits
                if state.link:
                    self._post(state, "T", "S", "finish", self._new(state, "S"), decision, generation)
            case fx.PauseGuest() | fx.SaveState() | fx.ComputeChecksum() | fx.ResumeGuest():
                if state.s_copy is not None:
                    state.s_ops += (type(effect).__name__,)
                elif not isinstance(effect, fx.ResumeGuest):
                    self._add_local(state, "S", (ev.StepFailed("guest", "gone"),))
            case fx.FreeGuest():
                state.s_copy, state.s_ops = None, ()
            case fx.ServePages():
                if state.s_copy is None:
                    self._add_local(state, "S", (ev.StepFailed("guest", "gone"),))

    def _send_blocks(self, state: State) -> None:
        """What is left of the disk, in the pause."""
        if self.disks and state.link:
            self._post(state, "T", "S", "blocks", 0)

    def _source_guest(self, state: State) -> None:
        op, *rest = state.s_ops
        state.s_ops = tuple(rest)
        if op == "ResumeGuest":
            state.s_copy = "running"
            return
        if op == "PauseGuest":
            state.s_copy = "paused"
        outcome = {
            "PauseGuest": ev.Paused(1.0),
            "SaveState": ev.StateSaved(),
            "ComputeChecksum": ev.Checksummed("sum"),
        }[op]
        if state.s_up:
            self._feed(state, "S", outcome)

    def _restart_source(self, state: State) -> None:
        state.s_up, state.s_ops = True, ()
        if state.s_rec is not None:
            machine, effects = self._source.recover(state.s_rec, 0.0)
            state.s = self.bank.number(machine)
            self._carry_out(state, "S", tuple(effects))
        elif state.s_copy == "paused":
            state.s_ops = ("ResumeGuest",)  # adopted, and nothing is noted of a migration

    # ---- the target's hands

    def _target_effect(self, state: State, effect: fx.Effect) -> None:
        match effect:
            case fx.Reserve():
                state.t_ops += ("reserve",)
            case fx.LoadState():
                state.t_ops += ("load",)
            case fx.AnswerPrepared():
                self._answer(state, "prepared")
            case fx.AnswerReady():
                self._answer(state, "ready")
            case fx.AnswerFinished():
                self._answer(state, "finished")
            case fx.RefuseSource():
                self._answer(state, "refused")
            case fx.PullPages():
                state.t_pull = True
            case fx.StartGuest():
                self._start(state)
            case fx.DestroyIncoming():
                if state.t_copy is None or not state.t_copy.record:
                    # Of KeepIncoming there is nothing here: processes that were loaded do not die.
                    state.t_copy, state.t_ops, state.t_ram = None, (), False

    def _start(self, state: State) -> None:
        """The first instruction, then the folder's record: an agent may die between the two."""
        copy = state.t_copy
        if copy is None or copy.state == "incoming":
            self._add_local(state, "T", (ev.StepFailed("StartGuest", "it cannot run"),))
            return
        state.t_copy = copy._replace(state="running")
        self._one_more()
        state.t_copy = state.t_copy._replace(record=True)
        self._add_local(state, "T", (ev.GuestStarted(1.0, int(copy.absent)),))

    def _target_guest(self, state: State) -> None:
        op, *rest = state.t_ops
        state.t_ops = tuple(rest)
        if op == "reserve":
            if state.t_copy is None:
                state.t_copy = Incoming("incoming")
            if state.t_up:
                state.t_ram = True
                self._feed(state, "T", ev.Reserved())
        elif state.t_copy is not None:
            state.t_copy = state.t_copy._replace(state="loaded")
            if state.t_up:
                verifies = self._verifies(state.t_copy.absent)
                self._feed(state, "T", ev.StateLoaded("sum" if verifies else ""))

    def _pull(self, state: State) -> None:
        assert state.t_copy is not None
        number = self._new(state, "T")
        state.t_calls |= {("pull", number)}
        self._post(state, "S", "T", "pull", number, not state.t_copy.absent)

    def _pulled(self, state: State, number: int, answer: str, done: bool) -> None:
        if ("pull", number) not in state.t_calls:
            return
        state.t_calls -= {("pull", number)}
        if done and answer in ("ok", "not_found"):
            state.t_pull = False
            self._feed(state, "T", ev.PullDone())
        elif answer == "ok" and state.t_copy is not None:
            state.t_copy = state.t_copy._replace(absent=False, fresh=True)

    def _restart_target(self, state: State) -> None:
        """As the node adopts what it finds (node/guests.py), and then takes up its migrations (manager.py)."""
        state.t_up, state.t_ops = True, ()
        copy, record = state.t_copy, state.t_rec
        if copy is None or (record is None and not copy.record):
            state.t_copy = state.t_rec = None  # the process is gone, or nobody knows what it is for
            return
        if record is None:
            return
        if copy.record:
            if record.phase != "pull" and not record.postcopy:
                state.t_rec = None
                return
            record = fx.Record(
                record.role,
                record.migration,
                record.guest,
                record.generation,
                record.peer,
                "pull",
                record.postcopy,
                record.disks,
            )
        machine, effects = self._target.recover(record, copy.state in ("loaded", "running"), 0.0)
        state.t = self.bank.number(machine)
        self._carry_out(state, "T", tuple(effects))

    # ---- death

    def _crash(self, state: State, who: str) -> None:
        """All that the agent had in memory. What it has sent is under way still, what was sent to it is lost."""
        self._drop(state, lambda m: m[0] == who)
        if who == "S":
            state.s, state.s_up, state.s_view = NOBODY, False, "down"
            state.s_calls = state.s_local = frozenset()
        else:
            state.t, state.t_up, state.t_view = NOBODY, False, "down"
            state.t_calls = state.t_local = frozenset()
            state.t_slot, state.t_watch, state.t_pull, state.t_ram = None, False, False, False
        if state.link:
            state.link = False
            self._broken(state)
