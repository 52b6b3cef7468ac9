"""The one door to the C core: the declarations of csrc/api.cdef, two lazily opened libraries, typed errors.

    CoreError
    ├── CoreNoMemory      WH_E_NOMEM
    ├── CoreInvalid       WH_E_INVAL    an argument or configuration value; ``field`` names it
    ├── CoreHostError     WH_E_IO       the host refused; ``message`` has strerror
    ├── CoreStateError    WH_E_STATE
    ├── CoreDataError     WH_E_FORMAT, WH_E_VERSION, WH_E_AUTH, WH_E_REPLAY: what came in is no good
    ├── CoreFull          WH_E_FULL
    ├── CoreNotFound      WH_E_NOTFOUND
    ├── CoreExists        WH_E_EXISTS
    ├── CoreUnsupported   WH_E_UNSUPPORTED
    └── CoreTimeout       WH_E_TIMEOUT

WH_E_AGAIN is no error ("nothing there now"): callers that can meet it look at the status themselves.

A guest process opens libwherry-core only, an agent both; neither pays for what it does not open. ABI mode of cffi
(decision 0001): every call releases the GIL, arguments are checked against the declarations.
"""

from __future__ import annotations

import os

from node._core import ffi

TYPE_CHECKING = False  # as typing has it; typing itself and pathlib would cost every guest process a megabyte
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CoreDataError",
    "CoreError",
    "CoreExists",
    "CoreFull",
    "CoreHostError",
    "CoreInvalid",
    "CoreNoMemory",
    "CoreNotFound",
    "CoreStateError",
    "CoreTimeout",
    "CoreUnsupported",
    "check",
    "core",
    "ffi",
    "new_error",
    "switch",
    "take_buffer",
]

_STATUS_NAMES = {
    -1: "out of memory",
    -2: "invalid argument",
    -3: "host error",
    -4: "not in this state",
    -5: "damaged or hostile data",
    -6: "unsupported version",
    -7: "authentication failed",
    -8: "replayed",
    -9: "full",
    -10: "nothing there now",
    -11: "not found",
    -12: "exists already",
    -13: "not supported",
    -14: "timed out",
}


class CoreError(Exception):
    """A negative wh_status. ``status`` is the number, ``field`` what was wrong ("" unknown), ``message`` the text."""

    def __init__(self, status: int, field: str = "", message: str = "") -> None:
        self.status = status
        self.field = field
        self.message = message or _STATUS_NAMES.get(status, f"status {status}")
        super().__init__(f"{field}: {self.message}" if field else self.message)


class CoreNoMemory(CoreError):
    pass


class CoreInvalid(CoreError):
    pass


class CoreHostError(CoreError):
    pass


class CoreStateError(CoreError):
    pass


class CoreDataError(CoreError):
    pass


class CoreFull(CoreError):
    pass


class CoreNotFound(CoreError):
    pass


class CoreExists(CoreError):
    pass


class CoreUnsupported(CoreError):
    pass


class CoreTimeout(CoreError):
    pass


_BY_STATUS: dict[int, type[CoreError]] = {
    -1: CoreNoMemory,
    -2: CoreInvalid,
    -3: CoreHostError,
    -4: CoreStateError,
    -5: CoreDataError,
    -6: CoreDataError,
    -7: CoreDataError,
    -8: CoreDataError,
    -9: CoreFull,
    -11: CoreNotFound,
    -12: CoreExists,
    -13: CoreUnsupported,
    -14: CoreTimeout,
}


def error_for(status: int, field: str = "", message: str = "") -> CoreError:
    """The exception of a status, also for one that came over a guest process's control socket."""
    return _BY_STATUS.get(status, CoreError)(status, field, message)


def check(status: int, err: Any = None) -> int:
    """Return ``status`` when it is not negative, else raise the typed error. ``err``: the wh_error that was passed, or
    None for functions that take none."""
    if status >= 0:
        return status
    if err is None:
        raise error_for(status)
    field = ffi.string(err.field, 48).decode("utf-8", "replace")
    message = ffi.string(err.message, 208).decode("utf-8", "replace")
    raise error_for(status, field, message)


def new_error() -> Any:
    """A fresh wh_error to pass to a call and then to :func:`check`."""
    return ffi.new("wh_error *")


def take_buffer(library: Any, buf: Any, length: int) -> bytes:
    """Copy what a function allocated for its caller, and free it."""
    try:
        return bytes(ffi.buffer(buf, length))
    finally:
        library.wh_buf_free(buf)


_opened: dict[str, Any] = {}


def _open(name: str) -> Any:
    library = _opened.get(name)
    if library is not None:
        return library
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    if not os.path.exists(path):
        raise CoreHostError(-3, "library", f"{path} is not built: run make -C csrc")
    try:
        library = _opened[name] = ffi.dlopen(path)
    except OSError as error:
        raise CoreHostError(-3, "library", str(error)) from error
    return library


def core() -> Any:
    """libwherry-core: the machine, RAM views, the sandbox."""
    return _open("libwherry-core.so")


def switch() -> Any:
    """libwherry-switch: the switch, tunnels, RAM views."""
    return _open("libwherry-switch.so")
