"""Version and feature negotiation, pure.

Each end says the range it speaks and the features it knows in HELLO. The session's version is the highest that both
speak, its features the intersection; no common version ends the session with ``unsupported``. Within one version
unknown map fields and unknown notices are ignored, so that additions need no new version.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import RemoteProtocolError

VERSIONS: Final = (1, 1)
FEATURES: Final = frozenset({"relay", "precopy", "open-checksum", "tunnel-lanes", "tunnel-stream"})


def choose_version(ours: tuple[int, int], theirs: tuple[int, int]) -> int:
    """The highest version in both inclusive ranges; :class:`RemoteProtocolError` when they don't meet."""
    low, high = theirs
    if low > high:
        raise RemoteProtocolError("hello.versions", list(theirs), "[lowest, highest]")
    best = min(ours[1], high)
    if best < max(ours[0], low):
        raise RemoteProtocolError("hello.versions", list(theirs), f"a range that meets {ours[0]}..{ours[1]}")
    return best
