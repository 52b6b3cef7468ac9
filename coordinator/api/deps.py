"""What every route needs: the services, and who is asking.

Roles include each other: viewer reads, operator changes guests, networks, images and nodes' duty, admin also changes
who may do so.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from coordinator.attachments import Attachments
from coordinator.cluster import Cluster
from coordinator.drain import Drains
from coordinator.errors import Forbidden, Unauthorized
from coordinator.lifecycle import Lifecycle
from coordinator.migrations import Migrations
from coordinator.model import ROLES, ApiToken, Role
from coordinator.operations import Operations
from coordinator.rollover import Rollover
from coordinator.store import tokens

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """The coordinator as the API sees it. ``link``: HOST:PORT that nodes dial."""

    cluster: Cluster
    operations: Operations
    lifecycle: Lifecycle
    moves: Migrations
    drains: Drains
    rollover: Rollover
    attachments: Attachments
    link: str
    software: str


def services(connection: HTTPConnection) -> Services:
    found = connection.app.state.services
    assert isinstance(found, Services)
    return found


Svc = Annotated[Services, Depends(services)]


async def authenticate(connection: HTTPConnection, svc: Services, role: Role) -> ApiToken:
    """Who asks; :class:`Unauthorized` without a valid token, :class:`Forbidden` when its role is too low."""
    scheme, _, text = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise Unauthorized("a bearer token is needed (Authorization: Bearer ...); wherry reads it from cli.json")
    token = await svc.cluster.db.run(tokens.check_api, text.strip())
    connection.scope.setdefault("state", {})["who"] = token
    if ROLES.index(token.role) < ROLES.index(role):
        raise Forbidden(f"this needs the role {role}; the token {token.name} is {token.role}")
    return token


def need(role: Role) -> Callable[[HTTPConnection], Awaitable[ApiToken]]:
    async def check(connection: HTTPConnection) -> ApiToken:
        return await authenticate(connection, services(connection), role)

    return check


Viewer = Depends(need("viewer"))
Operator = Depends(need("operator"))
Admin = Depends(need("admin"))

Json = dict[str, Any]
