"""One guest's copy on this node: its record, its process, the state that is reported.

A copy is changed by node/guests.py and by the migration drivers, under its lock; this file only holds it together.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import trio

from node.channel.qga import GuestAgent
from node.guest import Exit, GuestHandle
from node.machine import CH_AGENT
from node.record import Record
from protocol.errors import Refused
from protocol.messages import GuestState, GuestStatus


class Ports(Protocol):
    """The switch's side of a guest (node/mesh.py)."""

    def attach(self, guest: Guest, *, enabled: bool) -> None: ...
    def detach(self, guest: Guest) -> None: ...
    def enable(self, guest: Guest, on: bool) -> None: ...
    def announce(self, guest: Guest) -> None: ...
    def hold(self, guest: Guest) -> None: ...
    def release(self, guest: Guest) -> None: ...
    def moved(self, guest: Guest, node: int, generation: int) -> None: ...


class Guest:
    """One guest on this node. ``handle`` is None when no process is there."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder = folder
        self.record = record
        self.lock = trio.Lock()
        self.handle: GuestHandle | None = None
        self.state: GuestState = "pending"
        self.reason = ""
        self.started = 0.0
        self.booted = 0.0
        self.instructions = 0
        self.counters: dict[str, int] = {}
        self.sampled = 0.0
        self.resident = 0
        self.migration = record.migration
        self.pulling = False  # it runs here, and pages of it are at its migration's source
        self.ended = trio.Event()
        self.ending = False  # its process is to end: nobody wonders when it has
        self._agent: GuestAgent | None = None

    @property
    def id(self) -> str:
        return self.record.spec.guest

    @property
    def generation(self) -> int:
        return self.record.generation

    @property
    def tag(self) -> str:
        """For log lines."""
        return f"guest={self.id} generation={self.generation}"

    @property
    def takes_memory(self) -> bool:
        """It has a process, or is about to have one."""
        return self.handle is not None or self.state in ("starting", "migrating")

    @property
    def live(self) -> GuestHandle:
        """The process's handle; Refused("conflict") when there is none."""
        if self.handle is None:
            raise Refused("conflict", f"guest {self.record.spec.name} is {self.state}", state=self.state)
        return self.handle

    def status(self) -> GuestStatus:
        return GuestStatus(
            guest=self.id,
            generation=self.generation,
            state=self.state,
            reason=self.reason[:4000],
            pid=self.handle.pid if self.handle else 0,
            started=self.started,
            booted=self.booted,
            instructions=self.instructions,
            resident=self.resident,
            migration=self.migration,
            sampled=self.sampled,
            counters=self.counters,
        )

    async def agent(self) -> GuestAgent:
        """The guest agent's channel, opened once for this process."""
        if self._agent is None:
            self._agent = GuestAgent(await self.live.attach(CH_AGENT, kept=False))
        return self._agent

    async def drop_agent(self) -> None:
        if self._agent is not None:
            agent, self._agent = self._agent, None
            await agent.aclose()

    def release(self) -> None:
        """Let go of the process, whatever it does now."""
        if self.handle is not None:
            self.handle.close()
            self.handle = None


def outcome(exit_: Exit) -> tuple[GuestState, str]:
    """State and reason of a process that ended."""
    if exit_.reason == "poweroff":
        return "stopped", "powered off" if exit_.code == 0 else f"powered off with code {exit_.code}"
    if exit_.reason == "stopped":
        return "stopped", exit_.text
    if exit_.reason == "reboot":
        return "stopped", "rebooted"
    return "crashed", exit_.text or exit_.reason


def resident(ram_fd: int) -> int:
    """Bytes of a guest's memfd that have memory behind them."""
    try:
        return os.fstat(ram_fd).st_blocks * 512
    except OSError:
        return 0
