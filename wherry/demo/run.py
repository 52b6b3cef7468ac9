"""Starts the demo and always ends it: on success, on failure, on Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click
import trio

from wherry import paths, ui
from wherry.demo.daemons import Daemons
from wherry.demo.report import Report
from wherry.demo.scenario import IMAGE, Scenario
from wherry.demo.view import View
from wherry.errors import WherryError
from wherry.image import debian
from wherry.image.store import Library

_CLEAN_S = 30.0
INTERRUPTED = 130


async def _supervised(scenario: Scenario) -> Report | None:
    """The scenario under SIGINT and SIGTERM: the first cancels it. Returns None then."""
    result: Report | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                result = await scenario.run()
                nursery.cancel_scope.cancel()
        finally:
            scenario.view.step("stop everything")
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEAN_S):
                await scenario.daemons.stop()
    return result


def ensure_image(library: Library, view: View) -> None:
    """Build the image that the guests boot when the library lacks it."""
    if IMAGE in library.names():
        return
    view.step("build the Debian image")
    cache = paths.home() / "cache" / "apt"
    debian.build(library, cache, debian.Options(name=IMAGE), lambda text, p: view.detail(f"{text} {p:.0f} %"))


def main(report_file: str | None, keep: bool) -> int:
    """Exit status: 0 all held, 1 something did not, 130 interrupted."""
    library = Library(paths.open_state(paths.home()) / "images")
    folder = Path(tempfile.mkdtemp(prefix="wherry-demo-"))
    result: Report | None = None
    failed = True
    try:
        with View() as view:
            ensure_image(library, view)
            result = ui.run(_supervised, Scenario(Daemons(folder), library, view))
        if result is None:
            click.echo("interrupted; everything that was started is stopped", err=True)
            return INTERRUPTED
        failed = bool(result.failures())
        return _tell(result, report_file)
    except trio.TooSlowError:
        raise WherryError(f"a step took too long; logs: {folder}") from None
    finally:
        if keep or (failed and result is None and sys.exc_info()[0] is not None):
            click.echo(f"state and logs: {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _tell(result: Report, report_file: str | None) -> int:
    ui.table(("figure", "value"), result.rows())
    if report_file is not None:
        Path(report_file).write_text(json.dumps(result.to_json(), indent=2) + "\n")
    for line in result.failures():
        click.echo(f"FAILED: {line}", err=True)
    if not result.failures():
        click.echo("passed: the stream is intact, no unexplained loss, checksums agree, one copy ran")
    return 1 if result.failures() else 0
