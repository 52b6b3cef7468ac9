"""Sizes and times as people write and read them."""

from __future__ import annotations

import re
import time

from wherry.errors import UsageProblem

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$", re.I)
_TIME = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?$")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str, field: str = "size") -> int:
    """``256M`` → 268435456; factors of 1024; no suffix is bytes. Raises :class:`UsageProblem`."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise UsageProblem(f"{field} {text!r}: a number with K, M, G or T, as in 256M")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def parse_seconds(text: str, field: str = "time") -> float:
    """``90``, ``90s``, ``15m``, ``1h``, ``7d``, ``30ms`` → seconds. Raises :class:`UsageProblem`."""
    match = _TIME.match(text.strip())
    if match is None:
        raise UsageProblem(f"{field} {text!r}: a number with ms, s, m, h or d, as in 15m")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def size(count: float) -> str:
    """Bytes for a table: three significant digits, binary units."""
    value = float(count)
    for unit in ("B", "K", "M", "G", "T"):
        if abs(value) < 1024 or unit == "T":
            return f"{value:.0f}{unit}" if unit == "B" or value >= 100 else f"{value:.3g}{unit}"
        value /= 1024
    raise AssertionError


def age(then: float, now: float | None = None) -> str:
    """How long ago Unix time ``then`` was, in its largest unit."""
    return duration((time.time() if now is None else now) - then) if then else "-"


def duration(seconds: float) -> str:
    if seconds < 0:
        return "0s"
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _SECONDS[unit]:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.2g}s"
