"""How the demo tells where it is: a live list on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from wherry import ui


class View:
    """Steps with their time and a detail that changes; use as a context manager."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._steps: list[tuple[str, str, float]] = []  # text, detail, seconds it took
        self._current = ""
        self._detail = ""
        self._since = self._began
        self._spinner = Spinner("dots")
        self._live = Live(console=ui.stderr(), refresh_per_second=8, transient=True) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._live is not None:
            self._live.stop()
            self._live.console.print(self._finished())

    def step(self, text: str) -> None:
        """A new step begins; the one before is done."""
        self._close()
        self._current, self._detail, self._since = text, "", time.monotonic()
        if self._live is None:
            print(f"[{self._since - self._began:6.1f} s] {text}", file=sys.stderr, flush=True)
        self._draw()

    def detail(self, text: str) -> None:
        """What the present step is at."""
        self._detail = text
        self._draw()

    def _close(self) -> None:
        if self._current:
            if self._live is None and self._detail:
                print(f"             {self._detail}", file=sys.stderr, flush=True)
            self._steps.append((self._current, self._detail, time.monotonic() - self._since))
            self._current = ""

    def _finished(self) -> Text:
        lines = [f"  {seconds:6.1f} s  {text:<44} {detail}".rstrip() for text, detail, seconds in self._steps]
        return Text("\n".join(lines))

    def _draw(self) -> None:
        if self._live is not None:
            self._spinner.update(text=Text(f"{self._current}  {self._detail}"))
            self._live.update(Group(self._finished(), self._spinner))
