"""A person's wish for a port's settings, checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from coordinator.errors import Invalid
from protocol import vlans
from protocol.messages import PortSettings


def merge(old: PortSettings, wish: Mapping[str, Any], *, where: str = "") -> PortSettings:
    """``old`` with what the wish names; None takes a setting back to what the port's kind and network have. Types and
    ranges were checked by the API's bodies. :class:`Invalid` names the field below ``where``."""
    new = replace(old, **{key: _DEFAULTS[key] if value is None else value for key, value in wish.items()})
    if "vlan" in wish and "native" not in wish and not _is_trunk(new.vlan):
        new = replace(new, native=0)  # it went with the trunk that is no more
    try:
        return replace(new, vlan=vlans.canonical(new.vlan, new.native))
    except ValueError as error:
        field = "native" if "native" in str(error).partition(" ")[0] else "vlan"
        text = str(error) if field == "native" else f"vlan {error}"
        raise Invalid(text, field=f"{where}{field}") from None


def told(settings: PortSettings) -> str:
    """In words, for people."""
    words = []
    if settings.vlan:
        found = vlans.parse(settings.vlan, settings.native)
        words.append(f"vlan {settings.vlan}" if found.access else f"trunk {settings.vlan}")
    if settings.native:
        words.append(f"native {settings.native}")
    if settings.guard is not None:
        words.append(f"guard {'on' if settings.guard else 'off'}")
    if settings.stations:
        words.append(f"stations {settings.stations}")
    for name in ("storm", "broadcast", "multicast", "unknown"):
        if (rate := getattr(settings, name)) is not None:
            words.append(f"{name} {rate}")
    return ", ".join(words) or "no settings of its own"


def _is_trunk(vlan: str) -> bool:
    return ":" in vlan or "-" in vlan


_DEFAULTS: dict[str, Any] = {"vlan": "", "native": 0, "guard": None, "stations": 0} | dict.fromkeys(
    ("storm", "broadcast", "multicast", "unknown")
)
