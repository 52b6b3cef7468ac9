"""``python -P -m coordinator``: one ready line on stdout, log on stderr, until SIGTERM or SIGINT.

Exit status: 0 after a clean stop, 1 when it cannot start or fails, 2 for wrong usage.
"""

from __future__ import annotations

import gc
import json
import logging
import signal
import sys

import trio

from coordinator import logs
from coordinator.config import Config, parse
from coordinator.errors import StartError
from coordinator.service import coordinator

log = logging.getLogger("coordinator")


async def run(config: Config) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def until_signal() -> None:
                async for number in signals:
                    log.info("stopping on %s", signal.Signals(number).name)
                    asked.set()
                    return

            asked = trio.Event()
            nursery.start_soon(until_signal)
            async with coordinator(config) as ready:
                gc.freeze()  # what the start made stays: a collection in a migration's pause need not look at it
                line = ready.to_text() if sys.stdout.isatty() else f"ready {json.dumps(ready.to_json())}"
                print(line, flush=True)
                await asked.wait()
            nursery.cancel_scope.cancel()


def _start_error(exc: BaseException) -> StartError | None:
    """The reason that it cannot start, also out of a nursery's group."""
    if isinstance(exc, BaseExceptionGroup):
        return next((found for inner in exc.exceptions if (found := _start_error(inner))), None)
    return exc if isinstance(exc, StartError) else None


def main(argv: list[str] | None = None) -> int:
    config = parse(sys.argv[1:] if argv is None else argv)
    logs.setup(config.log_format)
    try:
        trio.run(run, config)
    except Exception as exc:
        reason = _start_error(exc)
        if reason is not None:
            print(f"wherry coordinator: {reason}", file=sys.stderr)
        else:
            log.exception("the coordinator failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
