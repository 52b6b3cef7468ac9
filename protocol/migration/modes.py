"""What a migration may be asked for, and what of it exists. The coordinator and the source's agent both look here, so
that a wish that nobody can fulfil is refused before anything moves, and with the same words."""

from __future__ import annotations

from typing import Final

from protocol.messages import MigrationParams

BUILT: Final = frozenset({"auto", "precopy", "postcopy", "hybrid", "stop-and-copy", "cold"})
MOST_STREAMS: Final = 1


def refusal(params: MigrationParams) -> tuple[str, str] | None:
    """(field, message) of the first wish that is not built; None: it can be done. The error's code is "unsupported"."""
    if params.mode not in BUILT:
        return "mode", f"mode {params.mode} is not built yet; there are: {', '.join(sorted(BUILT))}"
    if params.streams > MOST_STREAMS:
        return "streams", f"{params.streams} streams are not built yet; at most {MOST_STREAMS}"
    if params.verify and (params.mode in ("postcopy", "hybrid") or params.on_stall == "postcopy"):
        return "verify", "pages that come after the switch cannot be compared before it: verify goes with precopy"
    if params.protect and params.mode not in ("postcopy", "hybrid") and params.on_stall != "postcopy":
        return "protect", "there is nothing to protect where all memory is at the target before the switch"
    return None
