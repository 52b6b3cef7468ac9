"""A port's settings as people write them: ``lan,vlan=10``, ``vlan=10:20,native=1,guard=on,stations=4,storm=500``.

Numbers are checked here, VLANs by the coordinator, which says what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wherry.errors import UsageProblem

_SWITCH: dict[str, bool | None] = {"on": True, "off": False, "default": None}


def _vlan(text: str, field: str) -> str:
    return "" if text == "none" else text


def _guard(text: str, field: str) -> bool | None:
    if text not in _SWITCH:
        raise UsageProblem(f"{field} {text!r}: on, off or default")
    return _SWITCH[text]


def _number(zero: str) -> Callable[[str, str], int | None]:
    def read(text: str, field: str) -> int | None:
        if text in ("default", zero):
            return None if text == "default" else 0
        if not (text.isascii() and text.isdecimal()):
            raise UsageProblem(f"{field} {text!r}: a number, {zero} or default")
        return int(text)

    return read


_READ: dict[str, Callable[[str, str], Any]] = {
    "vlan": _vlan,
    "native": _number("none"),
    "guard": _guard,
    "stations": _number("all"),
    "storm": _number("unlimited"),
    "broadcast": _number("unlimited"),
    "multicast": _number("unlimited"),
    "unknown": _number("unlimited"),
}
KEYS = ", ".join(_READ)


def setting(key: str, text: str, field: str) -> Any:
    """One setting's value for the API; ``field``: how messages name it. Raises :class:`UsageProblem`."""
    return _READ[key](text.strip(), field)


def network(text: str, field: str = "--network") -> dict[str, Any]:
    """``lan,vlan=10`` → ``{"network": "lan", "vlan": "10"}``. Raises :class:`UsageProblem`."""
    name, *rest = text.split(",")
    wish: dict[str, Any] = {"network": name.strip()}
    for part in rest:
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or key not in _READ:
            raise UsageProblem(f"{field} {text!r}: {part.strip() or 'nothing'!r} is not of NAME=VALUE with {KEYS}")
        if key in wish:
            raise UsageProblem(f"{field} {text!r}: {key} is there twice")
        wish[key] = setting(key, value, f"{field} {key}")
    return wish


def told(settings: Mapping[str, Any]) -> str:
    """Settings as the API gives them, in words; empty for none."""
    words = []
    if vlan := str(settings.get("vlan") or ""):
        words.append(f"{'trunk' if ':' in vlan or '-' in vlan else 'vlan'} {vlan}")
    words += [f"{key} {settings[key]}" for key in ("native", "stations") if settings.get(key)]
    if settings.get("guard") is not None:
        words.append(f"guard {'on' if settings['guard'] else 'off'}")
    for name in ("storm", "broadcast", "multicast", "unknown"):
        if settings.get(name) is not None:
            words.append(f"{name} {settings[name] or 'unlimited'}")
    return ", ".join(words)
