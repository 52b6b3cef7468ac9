"""The VLANs of a port as text, the form in which people give them and everything keeps them. Pure.

``""``: frames pass as they are, tagged or not. ``"10"``: an access port, its station knows nothing of VLANs.
``"10:20"``, ``"10:100-199"`` or, for one only, ``"10:"``: a trunk, which carries these with their tags (IEEE 802.1Q).
A trunk's untagged frames are of its native VLAN; 0: it takes none.
"""

from __future__ import annotations

from dataclasses import dataclass

LAST = 4094
MOST_TEXT = 255


@dataclass(frozen=True, slots=True)
class Vlans:
    """``access`` and ``trunk`` are never both there; neither: the port is transparent."""

    access: int | None = None
    trunk: tuple[int, ...] = ()
    native: int = 0


def parse(text: str, native: int = 0) -> Vlans:
    """Raises ValueError that names the wrong part and what is allowed."""
    text = text.strip()
    if len(text) > MOST_TEXT:
        raise ValueError(f"{text[:40]!r}...: at most {MOST_TEXT} characters")
    if text and not any(sign in text for sign in ":-"):
        if native:
            raise ValueError(f"native {native} goes with a trunk, as in 10:20; {text!r} is an access port's VLAN")
        return Vlans(access=_vid(text, text))
    if not text:
        if native:
            raise ValueError(f"native {native} goes with a trunk, as in 10:20; there is none")
        return Vlans()
    if native and not 1 <= native <= LAST:
        raise ValueError(f"native {native}: 1 to {LAST}, or 0 for none")
    found: set[int] = set()
    for part in text.removesuffix(":").split(":"):
        low, dash, high = part.partition("-")
        first = _vid(low, text)
        last = _vid(high, text) if dash else first
        if last < first:
            raise ValueError(f"{text!r}: {part} runs backwards")
        found.update(range(first, last + 1))
    return Vlans(trunk=tuple(sorted(found)), native=native)


def canonical(text: str, native: int = 0) -> str:
    """The shortest text for the same VLANs. Raises ValueError as :func:`parse`."""
    vlans = parse(text, native)
    if vlans.access is not None:
        return str(vlans.access)
    runs: list[list[int]] = []
    for vid in vlans.trunk:
        if runs and runs[-1][1] == vid - 1:
            runs[-1][1] = vid
        else:
            runs.append([vid, vid])
    out = ":".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"{out}:" if out and ":" not in out and "-" not in out else out


def _vid(part: str, text: str) -> int:
    part = part.strip()
    if part.isascii() and part.isdecimal() and len(part) <= 5 and 1 <= int(part) <= LAST:
        return int(part)
    raise ValueError(f"{text!r}: {part or 'nothing'} is no VLAN; 1 to {LAST} are, as 10, 10:20 or 10:100-199")
