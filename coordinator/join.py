"""Joining: a token that is good once, for a while, and for this cluster only.

``ID.SECRET.FINGERPRINT``: the id finds the row, the secret proves the right to join, the fingerprint (base32 of the
SHA-256 of the CA certificate's DER) lets the joiner know this cluster before it says anything secret. New tokens pin
the CA that signs; while a rotation's overlap lasts, those that pin the old one are good too. Transactions live in
``store/tokens.py``; this file knows the text form and signs.
"""

from __future__ import annotations

import re

from coordinator.ca import Authority, csr_key_hash
from coordinator.errors import Forbidden, Invalid
from coordinator.store import tokens, trust
from coordinator.store.db import Db, Tx

_FORM = re.compile(r"([a-z2-7]{1,32})\.([a-z2-7]{16,64})\.([a-z2-7]{52})")


def split(text: str) -> tuple[str, str, str]:
    """(id, secret, fingerprint); :class:`Invalid` names the field ``token``."""
    match = _FORM.fullmatch(text.strip().lower())
    if match is None:
        raise Invalid("a join token looks like ID.SECRET.FINGERPRINT", field="token")
    return match[1], match[2], match[3]


async def make_token(db: Db, ca: Authority, ttl: float) -> str:
    ident, secret = await db.run(tokens.create_join, ttl)
    return f"{ident}.{secret}.{ca.fingerprint}"


async def join(db: Db, ca: Authority, *, token: str, name: str, csr_pem: str, now: float) -> tuple[int, str]:
    """Admit a node: its id and its first certificate. Refusals spend nothing."""
    ident, secret, fingerprint = split(token)
    if fingerprint not in (ca.fingerprint, ca.old_fingerprint):  # no secret: it is told to anybody
        if fingerprint in await db.run(trust.retired):
            raise Forbidden("the join token was made before the CA was rotated; ask for a new one", field="token")
        raise Forbidden("the join token is of another cluster", field="token")
    key = csr_key_hash(csr_pem)  # before the token is spent: a bad CSR must not cost it

    def spend(tx: Tx) -> int:
        return tokens.use_join(tx, ident, secret, name=name, csr_key=key)

    node = await db.run(spend)
    return node, ca.sign_node(csr_pem, node, now)
