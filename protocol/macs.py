"""Who has which MAC: the advertisement table of one node, pure (SPEC.md section 9; after RFC 7432 §7.2, §7.7).

Each node tells every peer its own MACs, over the link to that peer, so claims of one node arrive in order and nobody
repeats another's. A claim is ordered by (generation, sequence): the generation is the guest's fencing number, given by
the coordinator's store; the sequence counts moves of MACs that have no generation (0, learned on a TAP). Of several
nodes that claim a MAC the highest wins, on a tie the lower node id: every node picks the same one whatever order it
heard them in.

A local MAC that a peer claims with a higher order is fenced: this node's copy of the guest is stale, and must be mute.
A node whose link is lost keeps its entries (frames may still reach it) until :class:`NodeGone`, or until the full table
that it sends on its next link replaces them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from protocol.messages import MacAdvert, MacAdverts

MAX_PER_NODE: Final = 65536
BATCH: Final = 4096

Key = tuple[int, str]  # (vni, mac)
Effects = list["Effect"]


# ---- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NetworkAdded:
    """This node has a port in the network now."""

    vni: int


@dataclass(frozen=True, slots=True)
class NetworkRemoved:
    """The last port is gone; the switch forgets the network's entries itself."""

    vni: int


@dataclass(frozen=True, slots=True)
class LocalMac:
    """A MAC is here: a guest's (its generation) or one learned on a TAP (generation 0)."""

    vni: int
    mac: str
    address: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class LocalGone:
    """No longer here."""

    vni: int
    mac: str


@dataclass(frozen=True, slots=True)
class LocalMoved:
    """Our guest was committed to ``node`` under ``generation``: known here before that node's own advert arrives. Ours
    stands, though it loses, until LocalGone: a peer that has not heard of the new one still has a way to the guest."""

    vni: int
    mac: str
    address: str
    generation: int
    node: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A session to this peer is live: it gets the full table."""

    node: int


@dataclass(frozen=True, slots=True)
class LinkDown:
    node: int


@dataclass(frozen=True, slots=True)
class NodeGone:
    """The node left the cluster or is held for dead."""

    node: int


@dataclass(frozen=True, slots=True)
class AdvertsArrived:
    """``node`` is the authenticated sender; adverts that name another are ignored."""

    node: int
    notice: MacAdverts


Event = (
    NetworkAdded | NetworkRemoved | LocalMac | LocalGone | LocalMoved | LinkUp | LinkDown | NodeGone | AdvertsArrived
)


# ---- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetRemote:
    """Switch: frames to this MAC go to ``node``. ``address``: what the control plane gave it, if anything."""

    vni: int
    mac: str
    node: int
    address: str = ""


@dataclass(frozen=True, slots=True)
class DelRemote:
    vni: int
    mac: str


@dataclass(frozen=True, slots=True)
class NetworkPeers:
    """Switch: BUM frames of the network go to these nodes (sorted; replaces the earlier list)."""

    vni: int
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LocalFenced:
    """``node`` has a newer copy of our local MAC's guest: disable the port."""

    vni: int
    mac: str
    node: int


@dataclass(frozen=True, slots=True)
class SendAdverts:
    """Notice for the link to ``node``."""

    node: int
    notice: MacAdverts


Effect = SetRemote | DelRemote | NetworkPeers | LocalFenced | SendAdverts


# ---- the table ------------------------------------------------------------------------------------------------------


def _order(advert: MacAdvert) -> tuple[int, int, int]:
    return advert.generation, advert.sequence, -advert.node


class MacTable:
    """One node's table. ``dropped`` counts adverts beyond ``MAX_PER_NODE`` of one peer."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.dropped = 0
        self._networks: set[int] = set()
        self._links: set[int] = set()
        self._claims: dict[Key, dict[int, MacAdvert]] = {}  # withdrawn ones stay until a full table replaces them
        self._of_node: dict[int, set[Key]] = {}
        self._vnis: dict[int, frozenset[int]] = {}
        self._installed: dict[Key, int] = {}
        self._peers: dict[int, tuple[int, ...]] = {}
        self._fenced: set[Key] = set()

    def handle(self, event: Event, now: float = 0.0) -> Effects:
        """One event; gives the effects, in order. Time plays no part."""
        return _ACTIONS[type(event)](self, event)

    def owner(self, vni: int, mac: str) -> int | None:
        """The node that has this MAC, this one included; None when nobody claims it."""
        best = self._best((vni, mac))
        return best.node if best else None

    # ---- local side

    def _on_network_added(self, event: NetworkAdded) -> Effects:
        if event.vni in self._networks:
            return []
        self._networks.add(event.vni)
        effects = self._refresh_peers()
        for key in sorted(k for k in self._claims if k[0] == event.vni):
            effects += self._refresh(key)
        return effects + self._announce([])

    def _on_network_removed(self, event: NetworkRemoved) -> Effects:
        if event.vni not in self._networks:
            return []
        self._networks.discard(event.vni)
        self._installed = {k: n for k, n in self._installed.items() if k[0] != event.vni}
        self._peers.pop(event.vni, None)
        # The switch has no table left whose entries could age: what was learned on ports is withdrawn here.
        learned = [key for key in sorted(self._of_node.get(self.node, ())) if key[0] == event.vni]
        gone = [advert for key in learned if (advert := self._withdraw(key, learned_only=True))]
        effects = [e for i in range(0, len(gone), BATCH) for e in self._announce(gone[i : i + BATCH])]
        return effects or self._announce([])

    def _on_local_mac(self, event: LocalMac) -> Effects:
        key = (event.vni, event.mac)
        mine = self._claims.get(key, {}).get(self.node)
        if mine and not mine.withdrawn and (mine.generation, mine.address) == (event.generation, event.address):
            return []
        same = [a.sequence for a in self._claims.get(key, {}).values() if a.generation == event.generation]
        sequence = max(same) + 1 if same else 0
        advert = MacAdvert(
            vni=event.vni,
            mac=event.mac,
            address=event.address,
            generation=event.generation,
            sequence=sequence,
            node=self.node,
        )
        self._store(advert)
        return self._refresh(key) + self._announce([advert])

    def _on_local_gone(self, event: LocalGone) -> Effects:
        key = (event.vni, event.mac)
        gone = self._withdraw(key)
        return self._refresh(key) + self._announce([gone]) if gone else []

    def _withdraw(self, key: Key, *, learned_only: bool = False) -> MacAdvert | None:
        mine = self._claims.get(key, {}).get(self.node)
        if mine is None or mine.withdrawn or (learned_only and mine.generation):
            return None
        gone = MacAdvert(
            vni=mine.vni,
            mac=mine.mac,
            address=mine.address,
            generation=mine.generation,
            sequence=mine.sequence + 1,
            node=self.node,
            withdrawn=True,
        )
        self._store(gone)
        return gone

    def _on_local_moved(self, event: LocalMoved) -> Effects:
        advert = MacAdvert(
            vni=event.vni,
            mac=event.mac,
            address=event.address,
            generation=event.generation,
            sequence=0,
            node=event.node,
        )
        return self._refresh((event.vni, event.mac)) if self._store(advert) else []

    # ---- peers

    def _on_link_up(self, event: LinkUp) -> Effects:
        self._links.add(event.node)
        keys = sorted(self._of_node.get(self.node, ()))
        mine = [self._claims[key][self.node] for key in keys]
        mine = [advert for advert in mine if not advert.withdrawn]
        batches = [mine[i : i + BATCH] for i in range(0, len(mine), BATCH)] or [[]]
        return [SendAdverts(event.node, self._notice(b, full=n == 0)) for n, b in enumerate(batches)]

    def _on_link_down(self, event: LinkDown) -> Effects:
        self._links.discard(event.node)
        return []

    def _on_node_gone(self, event: NodeGone) -> Effects:
        self._links.discard(event.node)
        self._vnis.pop(event.node, None)
        effects: Effects = []
        for key in self._clear(event.node):
            effects += self._refresh(key)
        return effects + self._refresh_peers()

    def _on_adverts(self, event: AdvertsArrived) -> Effects:
        if event.node == self.node:
            return []
        touched: dict[Key, None] = {}
        if event.notice.full:
            touched.update(dict.fromkeys(self._clear(event.node)))
        for advert in event.notice.adverts:
            if advert.node == event.node and self._store(advert):
                touched[(advert.vni, advert.mac)] = None
        self._vnis[event.node] = frozenset(event.notice.vnis)
        # What was learned here and is elsewhere now is withdrawn, so that it is news when it comes back (RFC 7432, 15).
        lost = [own for key in touched if self._lost(key) and (own := self._withdraw(key, learned_only=True))]
        effects: Effects = []
        for key in touched:
            effects += self._refresh(key)
        effects += [e for i in range(0, len(lost), BATCH) for e in self._announce(lost[i : i + BATCH])]
        return effects + self._refresh_peers()

    # ---- helpers

    def _lost(self, key: Key) -> bool:
        best = self._best(key)
        return best is not None and best.node != self.node

    def _store(self, advert: MacAdvert) -> bool:
        """Keep a claim unless its node has made a newer one."""
        key = (advert.vni, advert.mac)
        keys = self._of_node.setdefault(advert.node, set())
        if key not in keys and len(keys) >= MAX_PER_NODE:
            self.dropped += 1
            return False
        claims = self._claims.setdefault(key, {})
        old = claims.get(advert.node)
        if old is not None and _order(old) > _order(advert):
            return False
        claims[advert.node] = advert
        keys.add(key)
        return True

    def _clear(self, node: int) -> list[Key]:
        keys = sorted(self._of_node.pop(node, ()))
        for key in keys:
            del self._claims[key][node]
            if not self._claims[key]:
                del self._claims[key]
        return keys

    def _best(self, key: Key) -> MacAdvert | None:
        live = [a for a in self._claims.get(key, {}).values() if not a.withdrawn]
        return max(live, key=_order) if live else None

    def _refresh(self, key: Key) -> Effects:
        """Bring switch and fencing in line with the claims on one MAC."""
        vni, mac = key
        best = self._best(key)
        mine = self._claims.get(key, {}).get(self.node)
        effects: Effects = []
        fenced = bool(mine and not mine.withdrawn and best and best.node != self.node)
        if fenced and key not in self._fenced and best:
            effects.append(LocalFenced(vni, mac, best.node))
        (self._fenced.add if fenced else self._fenced.discard)(key)
        wanted = best.node if best and best.node != self.node and vni in self._networks else None
        if wanted != self._installed.get(key):
            if wanted is None or best is None:
                del self._installed[key]
                effects.append(DelRemote(vni, mac))
            else:
                self._installed[key] = wanted
                effects.append(SetRemote(vni, mac, wanted, best.address))
        return effects

    def _refresh_peers(self) -> Effects:
        effects: Effects = []
        for vni in sorted(self._networks):
            nodes = tuple(sorted(node for node, vnis in self._vnis.items() if vni in vnis))
            if nodes != self._peers.get(vni, ()):
                self._peers[vni] = nodes
                effects.append(NetworkPeers(vni, nodes))
        return effects

    def _notice(self, adverts: list[MacAdvert], *, full: bool = False) -> MacAdverts:
        return MacAdverts(adverts=adverts, vnis=sorted(self._networks), full=full)

    def _announce(self, adverts: list[MacAdvert]) -> Effects:
        return [SendAdverts(node, self._notice(adverts)) for node in sorted(self._links)]


_ACTIONS: Final[dict[type, Callable[[MacTable, Any], Effects]]] = {
    NetworkAdded: MacTable._on_network_added,
    NetworkRemoved: MacTable._on_network_removed,
    LocalMac: MacTable._on_local_mac,
    LocalGone: MacTable._on_local_gone,
    LocalMoved: MacTable._on_local_moved,
    LinkUp: MacTable._on_link_up,
    LinkDown: MacTable._on_link_down,
    NodeGone: MacTable._on_node_gone,
    AdvertsArrived: MacTable._on_adverts,
}
