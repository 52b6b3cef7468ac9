"""What a guest process does before its sandbox closes: files, machine, socket. See node/guestproc.py.

Everything here runs once, in the order lock, machine, socket; a failure is a :class:`SetupError` or a CoreError that
names the field, written to ``exit.json`` as well, so that the reason is kept when nobody listens.
"""

from __future__ import annotations

import os
import socket
import time

from node.machine import BOOT_FIRMWARE, BOOT_LINUX, ICOUNT_OFF, ICOUNT_PACED, Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INVALID, _HOST = -2, -3


class SetupError(Exception):
    """The guest cannot be made; ``status``, ``field``, ``message`` as in a wh_error."""

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(message)
        self.status, self.field, self.message = status, field, message


def make_machine(spec: dict[str, Any]) -> Machine:
    """The machine of a spec with its devices, and with its boot contents unless it is to receive them."""
    guest, files = spec["spec"], spec["files"]
    boot = BOOT_LINUX if "kernel" in files else BOOT_FIRMWARE
    icount = ICOUNT_PACED if guest.get("icount") else ICOUNT_OFF
    machine = Machine(guest["memory"], guest["cpus"], boot, guest["seed"], icount=icount, cpu=guest["cpu"])
    for nic in guest["nics"]:
        machine.add_nic(bytes.fromhex(nic["mac"].replace(":", "")), nic["mtu"])
    if "disk" in files:
        with _opened(files["disk"], "disk", os.O_RDWR) as fd:
            machine.add_disk(fd, serial="disk0")
    if spec["role"] == "incoming":
        return machine
    if boot == BOOT_LINUX:
        with _opened(files["kernel"], "kernel") as kernel:
            if "initrd" in files:
                with _opened(files["initrd"], "initrd") as initrd:
                    machine.load_linux(kernel, initrd, spec["cmdline"])
            else:
                machine.load_linux(kernel, -1, spec["cmdline"])
    elif "firmware" in files:
        with _opened(files["firmware"], "firmware") as fd:
            machine.load_firmware(fd)
    else:
        raise SetupError(_INVALID, "image", "it has neither a kernel nor a firmware file")
    return machine


class _opened:
    """A file's descriptor for the time of a with block; failures name the field."""

    def __init__(self, path: str, field: str, flags: int = os.O_RDONLY) -> None:
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            raise SetupError(_HOST, field, f"{path}: {error.strerror}") from error

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def listen(folder: str, name: str = "guest.sock") -> socket.socket:
    """Bind a socket that only its owner may use. By way of /proc/self/fd, because a socket's path is limited to 107
    bytes and folders are not."""
    folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = f"/proc/self/fd/{folder_fd}/{name}"
        if os.path.lexists(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(128)  # a full queue looks to trio like a connection that is under way
        listener.setblocking(False)
        return listener
    finally:
        os.close(folder_fd)


def write_exit(fd: int, generation: int, end: dict[str, Any]) -> None:
    """exit.json by hand: the json module costs a megabyte that every guest would pay."""

    def quote(text: str) -> str:
        safe = "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\u{min(ord(c), 0xFFFF):04x}" for c in text)
        return f'"{safe}"'

    line = (
        f'{{"reason":{quote(end["reason"])},"code":{int(end.get("code", 0))},"field":{quote(end.get("field", ""))},'
        f'"text":{quote(end.get("text", ""))},"generation":{generation},"time":{time.time():.3f}}}\n'
    )
    os.ftruncate(fd, 0)
    os.pwrite(fd, line.encode(), 0)
