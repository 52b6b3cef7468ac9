"""One machine of the C core, in this process: what csrc/api.cdef gives, with Python's types and exceptions.

Owner of a ``wh_machine``: :meth:`Machine.close` destroys it. Used by guest processes and tests; imports nothing but
``node.core``, because every guest process pays for each import in memory.

Order of calls: devices (:meth:`add_nic`, :meth:`add_disk`), then boot contents or :meth:`load`, then :meth:`start`.
"""

from __future__ import annotations

from node.core import check, core, ffi, new_error, take_buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENGINE_AUTO, ENGINE_INTERPRETER, ENGINE_JIT = 0, 1, 2
BOOT_LINUX, BOOT_FIRMWARE = 0, 1
ICOUNT_OFF, ICOUNT_FREE, ICOUNT_PACED = range(3)  # csrc/api.cdef says what they mean
CPU_MODELS = {"rva22": 0, "rv64gc": 1}  # enum wh_cpu_model
CH_UART, CH_CONSOLE, CH_AGENT = 0, 1, 2
EV_NONE, EV_POWEROFF, EV_REBOOT, EV_CRASH, EV_OUTPUT, EV_CHANNEL = range(6)
RESTORE_EAGER, RESTORE_LAZY, RESTORE_ON_DEMAND = range(3)  # csrc/api.cdef says what they mean
_AGAIN = -10
_NOBODY = 2**64 - 1
_CHUNK = 65536


class NicFds:
    """Borrowed from the machine: valid until it is closed."""

    __slots__ = ("ring", "to_guest", "to_switch")

    def __init__(self, ring: int, to_switch: int, to_guest: int) -> None:
        self.ring, self.to_switch, self.to_guest = ring, to_switch, to_guest


class Event:
    __slots__ = ("arg", "kind", "text")

    def __init__(self, kind: int, arg: int, text: str) -> None:
        self.kind, self.arg, self.text = kind, arg, text

    def __repr__(self) -> str:
        return f"Event({self.kind}, {self.arg}, {self.text!r})"


class Machine:
    """``ram``: bytes, ``harts``: count, ``boot``: BOOT_LINUX or BOOT_FIRMWARE, ``seed``: 0 = host randomness,
    ``engine``: ENGINE_*, ``icount``: ICOUNT_*, time from instructions (wants a seed), ``cpu``: a key of CPU_MODELS."""

    def __init__(
        self,
        ram: int,
        harts: int,
        boot: int = BOOT_LINUX,
        seed: int = 0,
        *,
        engine: int = ENGINE_AUTO,
        icount: int = ICOUNT_OFF,
        cpu: str = "rva22",
    ) -> None:
        self._lib = core()
        parts = {"ram_bytes": ram, "harts": harts, "boot": boot, "seed": seed, "engine": engine, "icount": icount}
        config = ffi.new("wh_machine_config *", {**parts, "cpu": CPU_MODELS[cpu]})
        out = ffi.new("wh_machine **")
        err = new_error()
        check(self._lib.wh_machine_new(config, out, err), err)
        self._m: Any = out[0]
        self._debugger: Any = None
        self._chunk = ffi.new("uint8_t[]", _CHUNK)
        self._ram = ram

    def close(self) -> None:
        """Stop and join every thread, free all. Idempotent."""
        self.end_debugger()
        if self._m is not None:
            machine, self._m = self._m, None
            self._lib.wh_machine_free(machine)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- devices and contents

    def add_nic(self, mac: bytes, mtu: int = 0) -> None:
        """``mtu`` is what the guest is told; 0: nothing."""
        err = new_error()
        check(self._lib.wh_machine_add_nic(self._m, mac, mtu, err), err)

    def add_disk(self, fd: int, *, read_only: bool = False, serial: str = "") -> None:
        err = new_error()
        check(self._lib.wh_machine_add_disk(self._m, fd, read_only, serial.encode(), err), err)

    def load_linux(self, kernel_fd: int, initrd_fd: int = -1, cmdline: str = "") -> None:
        err = new_error()
        check(self._lib.wh_machine_load_linux(self._m, kernel_fd, initrd_fd, cmdline.encode(), err), err)

    def load_firmware(self, fd: int) -> None:
        err = new_error()
        check(self._lib.wh_machine_load_firmware(self._m, fd, err), err)

    def load_firmware_linux(self, fd: int, kernel_fd: int, initrd_fd: int = -1, cmdline: str = "") -> None:
        """Firmware that starts a Linux Image by itself, as OpenSBI's fw_dynamic does."""
        err, line = new_error(), cmdline.encode()
        check(self._lib.wh_machine_load_firmware_linux(self._m, fd, kernel_fd, initrd_fd, line, err), err)

    def record(self, fd: int) -> None:
        """Before start, of an icount machine: write what comes from outside, and when, to ``fd``, which is dup'ed."""
        err = new_error()
        check(self._lib.wh_machine_record(self._m, fd, err), err)

    def replay(self, fd: int) -> None:
        """Before start, of an icount machine: take what comes from outside from a log, and nothing else."""
        err = new_error()
        check(self._lib.wh_machine_replay(self._m, fd, err), err)

    # -- running

    def start(self) -> None:
        err = new_error()
        check(self._lib.wh_machine_start(self._m, err), err)

    def pause(self) -> int:
        """Blocks until no hart and no device touches RAM. CLOCK_MONOTONIC nanoseconds of the last instruction."""
        when = ffi.new("uint64_t *")
        check(self._lib.wh_machine_pause(self._m, when))
        return int(when[0])

    def resume(self) -> int:
        """CLOCK_MONOTONIC nanoseconds of the first possible instruction."""
        when = ffi.new("uint64_t *")
        check(self._lib.wh_machine_resume(self._m, when))
        return int(when[0])

    def throttle(self, percent: int, lease_ms: int) -> None:
        """Have the harts rest so much of the time that they would run, for so long or until asked again; 0: off.
        Raises CoreStateError when nothing runs, CoreUnsupported with icount."""
        err = new_error()
        check(self._lib.wh_machine_throttle(self._m, percent, lease_ms, err), err)

    @property
    def throttled(self) -> int:
        """Percent of their time that the harts rest now."""
        return int(self._lib.wh_machine_throttled(self._m))

    def stop(self) -> None:
        check(self._lib.wh_machine_stop(self._m))

    def save(self) -> bytes:
        """Everything but RAM; the machine is paused."""
        buf, length, err = ffi.new("uint8_t **"), ffi.new("size_t *"), new_error()
        check(self._lib.wh_machine_save(self._m, buf, length, err), err)
        return take_buffer(self._lib, buf[0], length[0])

    def load(self, state: bytes) -> None:
        """Into a new machine with the same configuration and devices. Raises CoreDataError on damaged input."""
        err = new_error()
        check(self._lib.wh_machine_load(self._m, state, len(state), err), err)

    def expect_pages(self, bitmap: bytes) -> None:
        """Before :meth:`load`: these pages come through a RAM view, while the machine runs; who needs one waits."""
        err = new_error()
        check(self._lib.wh_machine_expect_pages(self._m, bitmap, len(bitmap), err), err)

    @property
    def wanted_fd(self) -> int:
        """Rings when somebody waits for such a page. Borrowed."""
        return int(self._lib.wh_machine_wanted_fd(self._m))

    def recent_pages(self, kind: int) -> bytes:
        """A bitmap of pages that the machine would touch first elsewhere: 0 by its load, 1 soon, 2 later."""
        out = bytearray(self._ram // 4096 // 64 * 8)
        err = new_error()
        raw = ffi.from_buffer("uint8_t[]", out, require_writable=True)
        check(self._lib.wh_machine_recent_pages(self._m, kind, raw, len(out), err), err)
        return bytes(out)

    def snapshot(self, fd: int, extra: bytes = b"") -> None:
        """The whole machine, RAM too, into the empty file ``fd``, which is synced then. The machine is paused."""
        err = new_error()
        check(self._lib.wh_machine_snapshot(self._m, fd, extra, len(extra), err), err)

    def restore(self, fd: int, how: int = RESTORE_LAZY) -> bytes:
        """Into a new machine with the same configuration and devices; returns the snapshot's ``extra``. The file must
        not change until ``stats()["pages_absent"]`` is 0: a page that is lost ends the guest with EV_CRASH. Raises
        CoreDataError on a damaged or newer file."""
        out, size, err = ffi.new("uint8_t **"), ffi.new("size_t *"), new_error()
        check(self._lib.wh_machine_restore(self._m, fd, how, out, size, err), err)
        return take_buffer(self._lib, out[0], size[0]) if size[0] else b""

    # -- a debugger

    def debug(self, fd: int) -> None:
        """Serve GDB's remote protocol on the connected socket ``fd``, which is taken over; the machine stands still
        from here on until the debugger lets it go on or leaves. CoreExists: there is one already."""
        if self._debugger is not None and not self.debugged:
            self.end_debugger()
        out, err = ffi.new("wh_gdb **"), new_error()
        check(self._lib.wh_gdb_new(self._m, fd, out, err), err)
        self._debugger = out[0]

    @property
    def debugged(self) -> bool:
        """A debugger is attached."""
        return self._debugger is not None and not self._lib.wh_gdb_ended(self._debugger)

    def end_debugger(self) -> None:
        """Cut its connection, if there is one; the machine goes on."""
        if self._debugger is not None:
            debugger, self._debugger = self._debugger, None
            self._lib.wh_gdb_free(debugger)

    def hot_list(self) -> bytes:
        """Warm start: what the translator found worth translating, for :meth:`warm` of the machine that goes on."""
        buf, length, err = ffi.new("uint8_t **"), ffi.new("size_t *"), new_error()
        check(self._lib.wh_machine_hot_list(self._m, buf, length, err), err)
        return take_buffer(self._lib, buf[0], length[0])

    def warm(self, hot: bytes, most_ms: int) -> int:
        """Translate what ``hot`` names from what RAM holds by now, for so long at most; how many blocks were looked at.
        Raises CoreDataError for what is no list."""
        warmed, err = ffi.new("uint32_t *"), new_error()
        check(self._lib.wh_machine_warm(self._m, hot, len(hot), most_ms, warmed, err), err)
        return int(warmed[0])

    # -- what others map

    @property
    def ram_fd(self) -> int:
        return int(self._lib.wh_machine_ram_fd(self._m))

    @property
    def share_fd(self) -> int:
        return int(self._lib.wh_machine_share_fd(self._m))

    def disk_share_fd(self, disk: int) -> int:
        """What the machine writes to a disk, for node/diskview.py. Borrowed."""
        fd = ffi.new("int *")
        check(self._lib.wh_machine_disk_share_fd(self._m, disk, fd))
        return int(fd[0])

    def nic_fds(self, nic: int) -> NicFds:
        fds = ffi.new("int[3]")
        check(self._lib.wh_machine_nic_fds(self._m, nic, fds, fds + 1, fds + 2))
        return NicFds(fds[0], fds[1], fds[2])

    # -- events, channels, figures

    @property
    def event_fd(self) -> int:
        return int(self._lib.wh_machine_event_fd(self._m))

    def next_event(self) -> Event | None:
        """The next event, None when there is none now."""
        event = ffi.new("wh_event *")
        status = self._lib.wh_machine_next_event(self._m, event)
        if status == _AGAIN:
            return None
        check(status)
        return Event(event.kind, event.arg, ffi.string(event.text, 120).decode("utf-8", "replace"))

    def channel_read(self, channel: int, offset: int) -> tuple[int, bytes]:
        """Up to 64 KiB of output from ``offset`` (bytes since the machine was made), or b"" when there is no more. The
        returned offset is where the next read begins; bytes that left the kept window are skipped."""
        at, got = ffi.new("uint64_t *", offset), ffi.new("size_t *")
        check(self._lib.wh_machine_channel_read(self._m, channel, at, self._chunk, _CHUNK, got))
        data = bytes(ffi.buffer(self._chunk, got[0]))
        return int(at[0]) + len(data), data  # at: offset, or the start of the kept window when that is later

    def channel_consumed(self, channel: int, offset: int | None) -> None:
        """For the reader of CH_AGENT: it has all output before ``offset``; what follows must wait for it. None: nobody
        reads any more."""
        check(self._lib.wh_machine_channel_consumed(self._m, channel, _NOBODY if offset is None else offset))

    def channel_write(self, channel: int, data: bytes) -> int:
        """How many bytes of ``data`` the channel took; 0 when its input is full."""
        taken = ffi.new("size_t *")
        status = self._lib.wh_machine_channel_write(self._m, channel, data, len(data), taken)
        if status == _AGAIN:
            return 0
        check(status)
        return int(taken[0])

    def stats(self) -> dict[str, int]:
        stats = ffi.new("wh_machine_stats *")
        self._lib.wh_machine_get_stats(self._m, stats)
        return {name: int(getattr(stats, name)) for name, _ in ffi.typeof("wh_machine_stats").fields}


def snapshot_info(fd: int) -> dict[str, int]:
    """The configuration in a snapshot (``ram_bytes harts boot seed icount cpu ...``) and ``pages``, how many it stores.
    Raises CoreDataError on a damaged or newer file."""
    config, pages, err = ffi.new("wh_machine_config *"), ffi.new("uint64_t *"), new_error()
    check(core().wh_snapshot_info(fd, config, pages, err), err)
    found = {name: int(getattr(config, name)) for name, _ in ffi.typeof("wh_machine_config").fields}
    return {**found, "pages": int(pages[0])}


def enter_sandbox() -> list[str]:
    """Drop what a guest process no longer needs, for ever. Names of the layers that this host's kernel lacks."""
    missing, err = ffi.new("uint32_t *"), new_error()
    check(core().wh_sandbox_enter(0, missing, err), err)
    return [name for bit, name in enumerate(("seccomp", "landlock")) if missing[0] >> bit & 1]
