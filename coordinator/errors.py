"""What can go wrong in the coordinator, as callers see it.

::

    CoordinatorError            one refusal with a code, a message and, if one input is to blame, its field
      Invalid NotFound Exists Conflict Fenced Unavailable Full Unsupported Forbidden Unauthorized
    StartError                  the daemon cannot start; printed as one line, exit code 1
      StateVersionError         the state folder was written by a newer version

Codes are those of ``docs/architecture.md``; they travel unchanged over HTTP and links.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CoordinatorError(Exception):
    """A refusal that its cause can act on."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, field: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.details = details


class Invalid(CoordinatorError):
    code = "invalid"


class NotFound(CoordinatorError):
    code = "not_found"


class Exists(CoordinatorError):
    code = "exists"


class Conflict(CoordinatorError):
    code = "conflict"


class Fenced(CoordinatorError):
    code = "fenced"


class Unavailable(CoordinatorError):
    code = "unavailable"


class Full(CoordinatorError):
    code = "full"


class Unsupported(CoordinatorError):
    code = "unsupported"


class Forbidden(CoordinatorError):
    code = "forbidden"


class Unauthorized(CoordinatorError):
    code = "unauthorized"


class Cancelled(CoordinatorError):
    code = "cancelled"


class Failed(CoordinatorError):
    """Carries a code that came from elsewhere (a node's refusal)."""

    def __init__(self, code: str, message: str, *, field: str | None = None, **details: Any) -> None:
        super().__init__(message, field=field, **details)
        self.code = code  # type: ignore[misc]


class StartError(Exception):
    """The daemon cannot start."""


class StateVersionError(StartError):
    """The state folder belongs to a newer version."""
