"""Tunnel keys between this node and one peer, pure (SPEC.md section 8.4).

Each direction has its own keys, made by the sender, so a key is used by one sender only and a nonce never repeats:

    sender                                  receiver
      │ ── peer.key(epoch, key) ──────────────► │ InstallRx: both epochs open from here on
      │ ◄────────────────────────────── answer ─│
      │ InstallTx: seals with the new epoch      │ DropRx of the older epochs, OVERLAP later

A key is replaced after ``LIFETIME``, when the switch says that it is worn (``Worn``), and on every new link, because
the peer may have been restarted and have lost its keys. While there is no link the present keys stay in use, however
old they are. An answer may be lost with its link: then the sender goes on with the older epoch, and the receiver, which
cannot know, must not drop it. So the one that datagrams still come under stays (``InUse``) until they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from protocol.messages import TunnelKey

LIFETIME: Final = 3600.0
OVERLAP: Final = 30.0
RETRY: Final = 5.0
KEY_BYTES: Final = 32
MAX_EPOCH: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A session to the peer is live and ``peer.hello`` told its cipher."""

    cipher: int


@dataclass(frozen=True, slots=True)
class LinkDown:
    """No session."""


@dataclass(frozen=True, slots=True)
class Tick:
    """``wakeup`` has come."""


@dataclass(frozen=True, slots=True)
class Worn:
    """The switch has sealed as much as one key should."""


@dataclass(frozen=True, slots=True)
class KeyArrived:
    """``peer.key`` of the peer. Answer it after the effects are carried out."""

    message: TunnelKey


@dataclass(frozen=True, slots=True)
class KeyAccepted:
    """The peer answered our ``peer.key`` of this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class KeyFailed:
    """It did not."""

    epoch: int


@dataclass(frozen=True, slots=True)
class InUse:
    """DropRx was refused: the peer still seals with this epoch."""

    epoch: int


Event = LinkUp | LinkDown | Tick | Worn | KeyArrived | KeyAccepted | KeyFailed | InUse


@dataclass(frozen=True, slots=True)
class SendKey:
    """→ KeyAccepted | KeyFailed."""

    message: TunnelKey


@dataclass(frozen=True, slots=True, repr=False)
class InstallRx:
    """Open what the peer seals with this."""

    epoch: int
    cipher: int
    key: bytes


@dataclass(frozen=True, slots=True, repr=False)
class InstallTx:
    """Seal with this from now on."""

    epoch: int
    cipher: int
    key: bytes


@dataclass(frozen=True, slots=True)
class DropRx:
    """Open this epoch no longer; erase its key. → InUse if that is what the peer's last datagram came under."""

    epoch: int


Effect = SendKey | InstallRx | InstallTx | DropRx
Effects = list[Effect]


class PeerKeys:
    """``random(n)`` gives n secret bytes. ``first_epoch`` is random too: a datagram of an epoch that is not known is
    dropped for nothing but a look, and who does not see our datagrams cannot name one (decision 18). ``cipher`` is our
    preference; the lower node id's preference counts for both."""

    def __init__(self, node: int, peer: int, cipher: int, random: Callable[[int], bytes], first_epoch: int = 1) -> None:
        self.node = node
        self.peer = peer
        self.cipher = cipher
        self._preference = cipher
        self._random = random
        self._epoch = max(first_epoch, 1) - 1
        self._link = False
        self._offered: TunnelKey | None = None
        self._rotate_at: float | None = None
        self._retry_at: float | None = None
        self._rx: int | None = None
        self._dropping: dict[int, float] = {}  # epoch: when

    @property
    def wakeup(self) -> float | None:
        """When it wants a Tick."""
        times = list(self._dropping.values())
        if self._link:
            times += [t for t in (self._rotate_at, self._retry_at) if t is not None]
        return min(times, default=None)

    def handle(self, event: Event, now: float) -> Effects:
        """One event; gives the effects to carry out, in order."""
        return _ACTIONS[type(event)](self, event, now)

    def _on_link_up(self, event: LinkUp, now: float) -> Effects:
        self._link = True
        self.cipher = self._preference if self.node < self.peer else event.cipher
        return self._offer()

    def _on_link_down(self, event: LinkDown, now: float) -> Effects:
        self._link = False
        self._offered = None
        self._retry_at = None
        return []

    def _offer(self) -> Effects:
        self._epoch = self._epoch % MAX_EPOCH + 1
        self._retry_at = None
        self._offered = TunnelKey(epoch=self._epoch, cipher=self.cipher, key=self._random(KEY_BYTES))  # type: ignore[arg-type]
        return [SendKey(self._offered)]

    def _on_accepted(self, event: KeyAccepted, now: float) -> Effects:
        if self._offered is None or self._offered.epoch != event.epoch:
            return []
        key, self._offered = self._offered, None
        self._rotate_at = now + LIFETIME
        return [InstallTx(key.epoch, key.cipher, key.key)]

    def _on_failed(self, event: KeyFailed, now: float) -> Effects:
        if self._offered is not None and self._offered.epoch == event.epoch:
            self._offered = None
            self._retry_at = now + RETRY
        return []

    def _on_arrived(self, event: KeyArrived, now: float) -> Effects:
        message = event.message
        if self._rx is not None and self._rx != message.epoch:
            self._dropping[self._rx] = now + OVERLAP
        self._dropping.pop(message.epoch, None)
        self._rx = message.epoch
        return [InstallRx(message.epoch, message.cipher, message.key)]

    def _on_in_use(self, event: InUse, now: float) -> Effects:
        if self._rx != event.epoch:
            self._dropping[event.epoch] = now + OVERLAP
        return []

    def _on_worn(self, event: Worn, now: float) -> Effects:
        if self._offered is not None:
            return []
        if not self._link:
            self._rotate_at = now  # as soon as there is a link; a new link brings a new key anyway
            return []
        return self._offer()

    def _on_tick(self, event: Tick, now: float) -> Effects:
        effects: Effects = []
        for epoch in [e for e, when in self._dropping.items() if now >= when]:
            del self._dropping[epoch]
            effects.append(DropRx(epoch))
        due = [t for t in (self._rotate_at, self._retry_at) if t is not None and now >= t]
        if self._link and due and self._offered is None:
            self._rotate_at = None
            effects += self._offer()
        return effects


_ACTIONS: Final[dict[type, Callable[[PeerKeys, Any, float], Effects]]] = {
    LinkUp: PeerKeys._on_link_up,
    LinkDown: PeerKeys._on_link_down,
    Tick: PeerKeys._on_tick,
    Worn: PeerKeys._on_worn,
    KeyArrived: PeerKeys._on_arrived,
    KeyAccepted: PeerKeys._on_accepted,
    KeyFailed: PeerKeys._on_failed,
    InUse: PeerKeys._on_in_use,
}
