"""Guests: run, look, act, exec, log. The console is in ``console.py``."""

from __future__ import annotations

import base64
import binascii

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from coordinator.api.bodies import ExecBody, MigrateBody, RunBody, StopBody
from coordinator.api.deps import Json, Operator, Services, Svc, Viewer
from coordinator.errors import Conflict, Invalid
from coordinator.lifecycle import RunWish
from coordinator.model import Guest
from coordinator.portsettings import merge
from coordinator.store import guests, nodes
from coordinator.store.db import Tx
from protocol.messages import GuestExec, GuestLog, MigrationParams, PortSettings
from protocol.transport import Link

router = APIRouter(prefix="/v1/guests", tags=["guests"])
EXEC_SLACK_S = 15.0


@router.get("", dependencies=[Viewer])
async def list_guests(svc: Svc) -> Json:
    def read(tx: Tx) -> list[Json]:
        names = {n.id: n.name for n in nodes.all_nodes(tx)}
        return [g.to_json(names.get(g.node) if g.node is not None else None) for g in guests.all_guests(tx)]

    return {"guests": await svc.cluster.db.run(read)}


@router.post("", dependencies=[Operator])
async def run_guest(svc: Svc, body: RunBody) -> JSONResponse:
    """Place a guest and start it; with ``explain`` only tell where it would go and why."""
    wish = RunWish(
        name=body.name,
        image=body.image,
        memory=body.memory,
        cpus=body.cpus,
        cpu=body.cpu,
        icount=body.icount,
        seed=body.seed,
        networks=[
            (nic.network, merge(PortSettings(), nic.wish(), where=f"networks.{place}."))
            for place, nic in enumerate(body.networks)
        ],
        on=body.on,
        cmdline=body.cmdline or "",
    )
    if body.explain:
        placement = await svc.lifecycle.explain(wish)
        return JSONResponse({"placement": placement.to_json()})
    operation = await svc.lifecycle.run(wish)
    return JSONResponse(operation.to_json(), status_code=202)


@router.get("/{name}", dependencies=[Viewer])
async def get_guest(svc: Svc, name: str) -> Json:
    def read(tx: Tx) -> Json:
        guest = guests.by_name(tx, name)
        return guest.to_json(nodes.name_of(tx, guest.node))

    return await svc.cluster.db.run(read)


@router.delete("/{name}", status_code=202, dependencies=[Operator])
async def remove_guest(svc: Svc, name: str, force: bool = False) -> Json:
    return (await svc.lifecycle.remove(name, force=force)).to_json()


@router.post("/{name}/start", status_code=202, dependencies=[Operator])
async def start_guest(svc: Svc, name: str) -> Json:
    return (await svc.lifecycle.start(name)).to_json()


@router.post("/{name}/stop", status_code=202, dependencies=[Operator])
async def stop_guest(svc: Svc, name: str, body: StopBody | None = None) -> Json:
    body = body or StopBody()
    return (await svc.lifecycle.stop(name, force=body.force, grace_s=body.grace_s)).to_json()


@router.post("/{name}/migrate", dependencies=[Operator])
async def migrate_guest(svc: Svc, name: str, body: MigrateBody | None = None) -> JSONResponse:
    """Move a guest; with ``dry_run`` only tell what that would take."""
    given = (body or MigrateBody()).model_dump(exclude_none=True)
    to, dry_run = given.pop("to", None), given.pop("dry_run", False)
    if dry_run:
        estimate = await svc.moves.estimate(name, to=to, params=MigrationParams(**given))
        return JSONResponse({"estimate": estimate})
    operation = await svc.moves.migrate(name, to=to, params=MigrationParams(**given))
    return JSONResponse(operation.to_json(), status_code=202)


@router.post("/{name}/exec", dependencies=[Operator])
async def exec_in_guest(svc: Svc, name: str, body: ExecBody) -> Json:
    """Run a command through the guest's agent and wait for its end."""
    try:
        stdin = base64.b64decode(body.stdin_b64, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("stdin_b64 is not base64", field="stdin_b64") from None
    guest, link = await owner(svc, name)
    request = GuestExec(guest=guest.id, argv=body.argv, stdin=stdin, timeout_s=body.timeout_s)
    answer = await link.call(request, timeout=body.timeout_s + EXEC_SLACK_S)
    return {
        "exit_code": answer.exit_code,
        "stdout_b64": base64.b64encode(answer.stdout).decode(),
        "stderr_b64": base64.b64encode(answer.stderr).decode(),
        "truncated": answer.truncated,
    }


@router.get("/{name}/log", dependencies=[Viewer])
async def guest_log(svc: Svc, name: str) -> Response:
    """The kept part of the console, as it is."""
    guest, link = await owner(svc, name, running=False)
    answer = await link.call(GuestLog(guest=guest.id), timeout=10)
    return Response(answer.data, media_type="application/octet-stream")


async def owner(svc: Services, name: str, *, running: bool = True) -> tuple[Guest, Link]:
    """The guest and its owner's session."""

    def read(tx: Tx) -> tuple[Guest, str | None]:
        guest = guests.by_name(tx, name)
        return guest, nodes.name_of(tx, guest.node)

    guest, where = await svc.cluster.db.run(read)
    if running and guest.state in ("stopped", "crashed", "pending"):
        raise Conflict(f"guest {name} is {guest.state}", field="name")
    return guest, svc.cluster.owner_link(guest, where)
