"""Asking the store until it answers: the part that Source and Target share, pure."""

from __future__ import annotations

from typing import Final, Literal

from protocol.migration.effects import AskStore

RETRY: Final = 1.0  # seconds

Ask = Literal["commit", "abort", "query"]


class StoreQuestion:
    """At most one AskStore is under way. A changed wish waits for the answer to the earlier one: it may settle it."""

    def __init__(self) -> None:
        self.ask: Ask | None = None
        self.reason = ""
        self.retry_at: float | None = None
        self._waiting = False

    def want(self, ask: Ask, reason: str = "") -> list[AskStore]:
        """From now on the question is ``ask``."""
        self.ask, self.reason = ask, reason
        return [] if self._waiting else self._send()

    def drop(self) -> None:
        """Nothing is to be asked any more."""
        self.ask, self.retry_at, self._waiting = None, None, False

    def answered(self, decision: str, now: float) -> None:
        """Any answer; "pending" is asked again later."""
        self._waiting = False
        self.retry_at = now + RETRY if decision == "pending" and self.ask else None

    def unreachable(self, now: float) -> None:
        """No answer: again later."""
        self._waiting = False
        self.retry_at = now + RETRY if self.ask else None

    def restored(self) -> list[AskStore]:
        """The coordinator is back: do not wait for the timer."""
        return [] if self._waiting or self.ask is None else self._send()

    def tick(self, now: float) -> list[AskStore]:
        """The timer."""
        return self._send() if self.retry_at is not None and now >= self.retry_at else []

    def _send(self) -> list[AskStore]:
        assert self.ask is not None
        self._waiting, self.retry_at = True, None
        return [AskStore(self.ask, self.reason)]
