"""What this host has to offer: processors, memory, disk, load. Reads /proc and the cgroup, keeps nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from protocol.messages import Resources

_HEADROOM = 512 << 20  # left to the host when no limit is configured


def meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo as bytes; lines that are none of its form are skipped."""
    result = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            result[name] = int(words[0]) * 1024
    return result


def cgroup_limit(text: str) -> int | None:
    """memory.max of cgroup v2: None is "max" or anything that is no number."""
    text = text.strip()
    return int(text) if text.isdigit() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def host_memory() -> tuple[int, int]:
    """(total, free right now) in bytes, as far as this process may use it."""
    info = meminfo(_read("/proc/meminfo"))
    total = info.get("MemTotal", 0)
    limit = cgroup_limit(_read("/sys/fs/cgroup/memory.max"))
    if limit is not None:
        total = min(total, limit)
    return total, min(info.get("MemAvailable", 0), total)


def measure(folder: Path, offered: int = 0) -> Resources:
    """``offered``: bytes for guests as configured; 0: all but a headroom. ``folder``: where disk space counts."""
    total, free = host_memory()
    return Resources(
        cpus=max(1, len(os.sched_getaffinity(0))),
        memory=offered or max(0, total - _HEADROOM),
        memory_free=free,
        disk_free=shutil.disk_usage(folder).free,
        load=os.getloadavg()[0],
    )
