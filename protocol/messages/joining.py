"""Bootstrap: the only calls that a peer without a certificate may make."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from protocol.messages.base import Id, Message, Name, NodeId, Request


class CaFetch(Request, frozen=True, kw_only=True):
    """First, unauthenticated contact: the joiner checks the answer against the fingerprint in its token."""

    method: ClassVar[str] = "bootstrap.ca"


class CaFetched(Message, frozen=True, kw_only=True):
    ca_pem: Annotated[str, Meta(max_length=65536)]


class Join(Request, frozen=True, kw_only=True):
    method: ClassVar[str] = "bootstrap.join"
    token: Annotated[str, Meta(max_length=256)]
    name: Name
    csr_pem: Annotated[str, Meta(max_length=65536)]


class Joined(Message, frozen=True, kw_only=True):
    node: NodeId
    cluster: Id
    certificate_pem: Annotated[str, Meta(max_length=65536)]
    ca_pem: Annotated[str, Meta(max_length=65536)]


CaFetch.answer = CaFetched
Join.answer = Joined
