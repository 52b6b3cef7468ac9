"""A node's agent that passes for one of another version: ``python -m tests.faults.skewed CLAIM node-arguments``.

``older``: it writes and reads machine states of the version before ours. ``newer``: of the one behind ours, and it
reads ours. ``next``: of the one behind ours only. ``first``: it speaks as the first release did, without the fields and
requests that came to migrations since. The documents themselves are ours: the core knows one version.
"""

from __future__ import annotations

import sys
from typing import Any

from node import __main__ as agent
from node.migration import manager, target
from protocol.messages import MigrationWarm, Prepared
from protocol.migration import skew

CLAIMS = {"older": (0, 0), "newer": (1, 2), "next": (2, 2), "first": (1, 1)}


def speak_as_the_first() -> None:
    """Unknown requests are answered "unsupported", unknown fields are neither sent nor seen."""
    target.TargetDriver._prepared = lambda self: Prepared(state_version=1)  # type: ignore[method-assign]
    register = manager.Migrations.register

    def fewer(self: manager.Migrations, handlers: Any) -> None:
        register(self, handlers)
        del handlers.requests[MigrationWarm]

    manager.Migrations.register = fewer  # type: ignore[method-assign]


def main() -> int:
    claim = sys.argv.pop(1)
    skew.OLDEST_STATE, skew.STATE_VERSION = CLAIMS[claim]  # type: ignore[misc]
    if claim == "first":
        speak_as_the_first()
    return agent.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
