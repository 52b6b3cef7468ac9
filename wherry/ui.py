"""How results look: tables for people, JSON for programs, bars for what takes time."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

_PIPE_WIDTH = 4096  # not a terminal: never wrap a row


def stdout() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def plain(item: Any) -> Any:
    return dataclasses.asdict(item) if dataclasses.is_dataclass(item) and not isinstance(item, type) else item


def print_json(data: Any) -> None:
    click.echo(json.dumps([plain(x) for x in data] if isinstance(data, list) else plain(data), indent=2))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str = "") -> None:
    """Columns by their widest cell, without frames, so that the output also cuts and greps well."""
    if not rows:
        if empty:
            click.echo(empty, err=True)
        return
    view = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
    for column in columns:
        # The last one, most often prose, gives way on a narrow terminal.
        view.add_column(column.upper(), no_wrap=column != columns[-1], overflow="fold")
    for row in rows:
        view.add_row(*("-" if cell is None or cell == "" else str(cell) for cell in row))
    out = stdout()
    with out.capture() as captured:
        out.print(view)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


class Bar:
    """A progress bar on stderr; silent where stderr is no terminal."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task = progress, task

    def update(self, done: float, total: float | None = None, text: str | None = None) -> None:
        self._progress.update(self._task, completed=done, total=total, description=text)


@contextmanager
def bar(text: str, *, total: float | None = 100.0, in_bytes: bool = False) -> Iterator[Bar]:
    amount = DownloadColumn(binary_units=True) if in_bytes else TaskProgressColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    with Progress(*columns, console=stderr(), transient=True, disable=not sys.stderr.isatty()) as progress:
        yield Bar(progress, progress.add_task(text, total=total))


def run(function: Any, *arguments: Any) -> Any:
    """``trio.run`` that lets a single error out of its exception group, so that one line can tell it."""
    try:
        return trio.run(function, *arguments)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
