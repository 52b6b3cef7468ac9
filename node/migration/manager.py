"""The migrations that this node takes part in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.transport import Handlers

if TYPE_CHECKING:
    from node.agent import Agent


class Migrations:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def register(self, handlers: Handlers) -> None:
        pass

    def recover(self) -> None:
        pass
