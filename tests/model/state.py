"""What one state of the modelled cluster consists of. Hashable as a tuple; unpacked to be changed."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

GENERATION: Final = 5
NOBODY: Final = -1  # no machine


class Target(NamedTuple):
    """The guest process at the target. ``fresh``: it has the memory with which the source stopped, but what is
    ``absent``. ``disk``: the disk as it was then. ``record``: its folder says that it is the guest's owner."""

    state: str  # incoming, loaded, running
    fresh: bool = False
    absent: bool = False
    record: bool = False
    disk: bool = False


class State:
    """``s_`` is the source's, ``t_`` the target's, ``c_`` the coordinator's. What a crash leaves: records (``_rec``),
    guest processes (``_copy``, with what they were told: ``_ops``), the store (``decision``, ``generation``)."""

    __slots__ = (
        "c_again",
        "c_up",
        "channel",
        "decision",
        "generation",
        "left",
        "link",
        "s",
        "s_calls",
        "s_copy",
        "s_local",
        "s_ops",
        "s_rec",
        "s_up",
        "s_view",
        "t",
        "t_calls",
        "t_copy",
        "t_local",
        "t_ops",
        "t_pull",
        "t_ram",
        "t_rec",
        "t_slot",
        "t_up",
        "t_view",
        "t_watch",
    )

    def __init__(self, left: int) -> None:
        self.left = left  # faults that may still come
        self.decision: Any = "pending"
        self.generation = GENERATION
        self.c_up = True
        self.c_again = False  # the coordinator was restarted: the source is to be told to start
        self.link = True  # source - target
        self.channel: frozenset[Any] = frozenset()  # (to, whose call, what, number, ...): delivered in any order
        self.s = self.t = NOBODY  # number of the machine
        self.s_up = self.t_up = True
        self.s_rec: Any = None
        self.t_rec: Any = None
        self.s_calls: frozenset[Any] = frozenset()  # (kind, number): waited for
        self.t_calls: frozenset[Any] = frozenset()
        self.s_local: frozenset[Any] = frozenset()  # events that have not been handled yet
        self.t_local: frozenset[Any] = frozenset()
        self.s_ops: tuple[str, ...] = ()  # what the guest process will do, in order
        self.t_ops: tuple[str, ...] = ()
        self.s_view = self.t_view = "up"  # session to the coordinator: up, lost (not noticed yet), down
        self.s_copy: Any = "running"  # running, paused, None
        self.t_copy: Target | None = None
        self.t_ram = False  # the agent has the incoming RAM mapped (not after its restart)
        self.t_slot: Any = (
            None  # (kind, number): the source's request that waits for an answer; number None: of a dead link
        )
        self.t_watch = False  # it will be told when the link of the source's request ends
        self.t_pull = False

    def packed(self) -> tuple[Any, ...]:
        """In the order of the slots. Written out: this and its counterpart are what the search spends its time with."""
        return (
            self.c_again,
            self.c_up,
            self.channel,
            self.decision,
            self.generation,
            self.left,
            self.link,
            self.s,
            self.s_calls,
            self.s_copy,
            self.s_local,
            self.s_ops,
            self.s_rec,
            self.s_up,
            self.s_view,
            self.t,
            self.t_calls,
            self.t_copy,
            self.t_local,
            self.t_ops,
            self.t_pull,
            self.t_ram,
            self.t_rec,
            self.t_slot,
            self.t_up,
            self.t_view,
            self.t_watch,
        )

    @classmethod
    def unpacked(cls, packed: tuple[Any, ...]) -> State:
        state = cls.__new__(cls)
        (
            state.c_again,
            state.c_up,
            state.channel,
            state.decision,
            state.generation,
            state.left,
            state.link,
            state.s,
            state.s_calls,
            state.s_copy,
            state.s_local,
            state.s_ops,
            state.s_rec,
            state.s_up,
            state.s_view,
            state.t,
            state.t_calls,
            state.t_copy,
            state.t_local,
            state.t_ops,
            state.t_pull,
            state.t_ram,
            state.t_rec,
            state.t_slot,
            state.t_up,
            state.t_view,
            state.t_watch,
        ) = packed
        return state
