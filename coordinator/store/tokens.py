"""Tokens of people (API) and of joining nodes. Only hashes are kept.

Secrets carry 160 random bits, so that a plain SHA-256 is enough: there is nothing to guess.
Comparison takes constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import sqlite3
from typing import Any

from coordinator.errors import Forbidden, NotFound, Unauthorized
from coordinator.model import ApiToken, Role
from coordinator.store import nodes, trust
from coordinator.store.db import Tx

API_PREFIX = "wh"


def _random(octets: int) -> str:
    return base64.b32encode(os.urandom(octets)).decode().rstrip("=").lower()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


# ---- people --------------------------------------------------------------------------------------------------------


def create_api(tx: Tx, name: str, role: Role, ttl: float | None = None) -> tuple[ApiToken, str]:
    """A new token, good for ``ttl`` seconds or until it is revoked, and its plain text, which is not kept."""
    token, secret = _random(5), _random(20)
    made = ApiToken(token, name, role, tx.now, None if ttl is None else tx.now + ttl)
    tx.execute(
        "INSERT INTO api_tokens (id, hash, name, role, created, expires) VALUES (?, ?, ?, ?, ?, ?)",
        token,
        _hash(secret),
        name,
        role,
        made.created,
        made.expires,
    )
    return made, f"{API_PREFIX}_{token}_{secret}"


def _api(row: sqlite3.Row) -> ApiToken:
    return ApiToken(row["id"], row["name"], row["role"], row["created"], row["expires"])


def check_api(tx: Tx, text: str) -> ApiToken:
    """Who this is; :class:`Unauthorized` tells nothing about how much was right."""
    parts = text.split("_")
    if len(parts) == 3 and parts[0] == API_PREFIX:
        row = tx.one("SELECT * FROM api_tokens WHERE id = ?", parts[1])
        if row is not None and hmac.compare_digest(bytes(row["hash"]), _hash(parts[2])):
            found = _api(row)
            if found.expires is not None and tx.now >= found.expires:
                raise Unauthorized(f"the token {found.name} expired {tx.now - found.expires:.0f} s ago")
            return found
    raise Unauthorized("the token is not valid for this cluster")


def list_api(tx: Tx) -> list[ApiToken]:
    return [_api(r) for r in tx.all("SELECT * FROM api_tokens ORDER BY created")]


def revoke_api(tx: Tx, token: str) -> None:
    if tx.execute("DELETE FROM api_tokens WHERE id = ?", token).rowcount == 0:
        raise NotFound(f"no token with id {token}", field="id")


# ---- joining nodes --------------------------------------------------------------------------------------------------


def create_join(tx: Tx, ttl: float) -> tuple[str, str]:
    """(id, secret) of a token for one join within ``ttl`` seconds."""
    token, secret = _random(5), _random(20)
    tx.execute(
        "INSERT INTO join_tokens (id, hash, created, expires) VALUES (?, ?, ?, ?)",
        token,
        _hash(secret),
        tx.now,
        tx.now + ttl,
    )
    return token, secret


def use_join(tx: Tx, token: str, secret: str, *, name: str, csr_key: bytes) -> int:
    """Spend a token on a new node and return the node's id.

    A node that was dropped by a rotation of the CA gets the id that it had. The same token with the same name and key
    answers the same node again, for a joiner that lost our answer; anything else gets :class:`Forbidden`. A refusal
    spends nothing, as the transaction is rolled back.
    """
    row = tx.one("SELECT * FROM join_tokens WHERE id = ?", token)
    if row is None or not hmac.compare_digest(bytes(row["hash"]), _hash(secret)):
        raise Forbidden("the join token is not one of this cluster", field="token")
    if row["used"] is not None:
        node = nodes.find(tx, name)
        if node is not None and node.id == row["node"] and hmac.compare_digest(bytes(row["csr_key"]), csr_key):
            return node.id
        raise Forbidden("the join token was used already; ask for a new one", field="token")
    if tx.now >= row["expires"]:
        raise Forbidden(f"the join token expired {tx.now - row['expires']:.0f} s ago; ask for a new one", field="token")
    present = nodes.find(tx, name)
    # A node that a rotation of the CA left behind comes back as itself, with its guests.
    node = (present and trust.readmit(tx, present)) or nodes.add(tx, name)
    tx.execute("UPDATE join_tokens SET used = ?, node = ?, csr_key = ? WHERE id = ?", tx.now, node.id, csr_key, token)
    return node.id


def list_join(tx: Tx) -> list[dict[str, Any]]:
    def one(row: sqlite3.Row) -> dict[str, Any]:
        state = "used" if row["used"] is not None else "expired" if tx.now >= row["expires"] else "open"
        return {"id": row["id"], "state": state, "created": row["created"], "expires": row["expires"]}

    return [one(r) for r in tx.all("SELECT * FROM join_tokens ORDER BY created")]
