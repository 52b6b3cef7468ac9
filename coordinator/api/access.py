"""Tokens, cluster information, the dashboard."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from coordinator.api.bodies import ApiTokenBody, JoinTokenBody
from coordinator.api.deps import Admin, Json, Svc, Viewer
from coordinator.join import make_token
from coordinator.store import tokens

router = APIRouter(tags=["access"])
# The page is one file with its own script and style and talks to this server only.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)


@router.get("/v1/info", dependencies=[Viewer])
async def info(svc: Svc) -> Json:
    return {
        "cluster": svc.cluster.ca.cluster,
        "software": svc.software,
        "api_version": 1,
        "ca_fingerprint": svc.cluster.ca.fingerprint,
        "link": svc.link,
    }


@router.post("/v1/join-tokens", status_code=201, dependencies=[Admin])
async def create_join_token(svc: Svc, body: JoinTokenBody | None = None) -> Json:
    ttl = (body or JoinTokenBody()).ttl_s
    token = await make_token(svc.cluster.db, svc.cluster.ca, ttl)
    return {"token": token, "join": f"{token}@{svc.link}", "expires": svc.cluster.wall() + ttl}


@router.get("/v1/join-tokens", dependencies=[Admin])
async def list_join_tokens(svc: Svc) -> Json:
    return {"tokens": await svc.cluster.db.run(tokens.list_join)}


@router.post("/v1/tokens", status_code=201, dependencies=[Admin])
async def create_api_token(svc: Svc, body: ApiTokenBody) -> Json:
    """The plain token is in this answer and nowhere else."""
    token, text = await svc.cluster.db.run(tokens.create_api, body.name, body.role, body.ttl_s)
    return {**token.to_json(), "token": text}


@router.get("/v1/tokens", dependencies=[Admin])
async def list_api_tokens(svc: Svc) -> Json:
    found = await svc.cluster.db.run(tokens.list_api)
    return {"tokens": [t.to_json() for t in found]}


@router.delete("/v1/tokens/{ident}", dependencies=[Admin])
async def revoke_api_token(svc: Svc, ident: str) -> Json:
    await svc.cluster.db.run(tokens.revoke_api, ident)
    return {"removed": ident}


@router.get("/", include_in_schema=False)
async def dashboard() -> HTMLResponse:
    page = files("coordinator.api").joinpath("dashboard.html").read_text(encoding="utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"})
