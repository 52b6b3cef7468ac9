"""Which peer may use which method, pure: the first question asked of each request, notice and stream.

A certificate proves a role; the role grants method families. Without this table a node could order another node to
run or forget guests, because every agent serves both the coordinator and its peers.
"""

from __future__ import annotations

from typing import Final

ANONYMOUS: Final = "anonymous"
NODE: Final = "node"
COORDINATOR: Final = "coordinator"
ROLES: Final = (ANONYMOUS, NODE, COORDINATOR)

_EVERY_NODE: Final = frozenset({NODE})
_COORDINATOR: Final = frozenset({COORDINATOR})
_BOTH: Final = frozenset({NODE, COORDINATOR})

_FAMILIES: Final[dict[str, frozenset[str]]] = {
    "bootstrap": frozenset(ROLES),
    "node": _EVERY_NODE,
    "cluster": _COORDINATOR,
    "guest": _COORDINATOR,
    "peer": _EVERY_NODE,
    "port": _COORDINATOR,
    "blob": _BOTH,
}
_METHODS: Final[dict[str, frozenset[str]]] = {
    "migration.start": _COORDINATOR,
    "migration.estimate": _COORDINATOR,
    "migration.cancel": _COORDINATOR,
    "migration.lookup": _COORDINATOR,
    "migration.settle": _COORDINATOR,
    "migration.decide": _EVERY_NODE,
    "migration.progress": _EVERY_NODE,
    "migration.result": _EVERY_NODE,
    "migration.prepare": _EVERY_NODE,
    "migration.ask": _EVERY_NODE,
    "migration.pages": _EVERY_NODE,
    "migration.probe": _EVERY_NODE,
    "migration.disk": _EVERY_NODE,
    "migration.warm": _EVERY_NODE,
    "migration.state": _EVERY_NODE,
    "migration.pull": _EVERY_NODE,
    "migration.protect": _EVERY_NODE,
    "migration.finish": _EVERY_NODE,
    "link.relay": _EVERY_NODE,
    "link.relayed": _COORDINATOR,
}


def allowed(role: str, method: str) -> bool:
    """May a peer of this role use ``method``? Unknown methods: no."""
    grants = _METHODS.get(method) or _FAMILIES.get(method.partition(".")[0], frozenset())
    return role in grants
