"""The user space of a built image: unpacked packages, pruned, with busybox's commands and our init around them."""

from __future__ import annotations

import re
from pathlib import Path

from wherry.errors import ImageError
from wherry.image import guest_init
from wherry.image.initramfs import Archive
from wherry.image.modules import Module

# Left out: nothing of it is read on a machine without an editor, a package manager or systemd.
PRUNED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/initramfs-tools",
    "usr/share/bash-completion",
    "usr/share/gcc",
    "usr/lib/systemd",
    "usr/lib/riscv64-linux-gnu/gconv",
    "usr/lib/modules",
    "usr/lib/linux-image",
    "boot",
    "var/lib/dpkg",
    "etc/init.d",
    *(f"etc/rc{level}.d" for level in "0123456S"),
)
_MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib"}
_SYSTEM_COMMANDS = ("init", "poweroff", "reboot", "halt", "getty")
_APPLETS = re.compile(rb"(\[\0\[\[\0(?:[a-z0-9_.+-]{1,24}\0){100,600})")


def applets(busybox: bytes) -> list[str]:
    """The command names in a busybox binary: its sorted, NUL-separated name table, which begins with ``[`` and ``[[``.

    Read from the file because the binary is for another architecture. Empty when the table is not found; the image then
    lets busybox install its own links at boot.
    """
    match = _APPLETS.search(busybox)
    return [name.decode() for name in match[1].split(b"\0") if name] if match else []


def build(packages: Path, modules: list[Module]) -> Archive:
    """The archive for the packages unpacked under ``packages`` and ``modules`` in load order."""
    archive = Archive()
    archive.add_tree(packages, skip=PRUNED)
    _merge_folders(archive)
    busybox = archive.entries.get("usr/bin/busybox")
    if busybox is None:
        raise ImageError("package busybox-static left no usr/bin/busybox")
    names = applets(busybox.data)
    # busybox's shell prefers its own applet to a file of that name, so the real ones are named to it.
    real = {name: path for name in names for path in (f"usr/bin/{name}", f"usr/sbin/{name}") if path in archive.entries}
    aliases = "".join(f"alias {name}=/{path}\n" for name, path in real.items() if name != "busybox")
    for name in names:
        if name not in real:
            archive.add_link(f"usr/bin/{name}", "busybox")
    archive.entries.setdefault("usr/bin/sh", archive.entries["usr/bin/busybox"])
    for name in _SYSTEM_COMMANDS:
        archive.entries.pop(f"usr/bin/{name}", None)
        archive.add_link(f"usr/sbin/{name}", "../bin/busybox")
    for folder in ("dev", "proc", "sys", "run", "root", "mnt"):
        archive.add_folder(folder)
    archive.add_folder("tmp", 0o1777)
    archive.add_device("dev/console", 5, 1)
    archive.add_device("dev/null", 1, 3, 0o666)
    archive.add_file("init", guest_init.INIT.encode(), 0o755)
    archive.add_file("usr/sbin/wherry-agent", guest_init.AGENT.encode(), 0o755)
    archive.add_file("usr/sbin/shutdown", guest_init.SHUTDOWN.encode(), 0o755)
    archive.add_file("etc/udhcpc.script", guest_init.UDHCPC.encode(), 0o755)
    archive.add_file("etc/inittab", guest_init.INITTAB.encode())
    archive.add_file("etc/profile", (guest_init.PROFILE + aliases).encode())
    archive.add_file("etc/passwd", b"root::0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    archive.add_file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    for module in modules:
        archive.add_file(f"usr/lib/modules/{module.name}.ko", module.data)
    archive.add_file("etc/modules-order", "".join(f"{module.name}.ko\n" for module in modules).encode())
    return archive


def _merge_folders(archive: Archive) -> None:
    """Packages may ship /bin, /sbin and /lib as folders; a guest has them as links into /usr."""
    for old, new in _MERGED.items():
        for name in [n for n in archive.entries if n == old or n.startswith(old + "/")]:
            entry = archive.entries.pop(name)
            if name != old:
                archive.entries.setdefault(new + name[len(old) :], entry)
        archive.add_link(old, new)
