"""What can go wrong on the people's side: one tree, so that the command line shows one line and picks an exit code.

``WherryError`` and its children exit with 1, ``UsageProblem`` with 2. Messages name the field, its value and what would
be allowed; they carry no traceback.
"""

from __future__ import annotations


class WherryError(Exception):
    """Something failed that the person at the keyboard can act on."""

    exit_code = 1


class UsageProblem(WherryError):
    """A value on the command line is wrong."""

    exit_code = 2


class ImageError(WherryError):
    """An image cannot be built, read or stored."""


class AptError(ImageError):
    """apt refused; the message has its own words."""


class SignatureProblem(AptError):
    """A repository is not signed by the keyring. Never retried without the check."""


class ApiError(WherryError):
    """The coordinator answered with an error.

    ``status`` is the HTTP status, ``code`` one of the error codes of the API, ``field`` the request field or "".
    """

    def __init__(self, status: int, code: str, message: str, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field and field not in message else message)
        self.status = status
        self.code = code
        self.field = field


class ApiUnreachable(WherryError):
    """No coordinator answers at the address."""
