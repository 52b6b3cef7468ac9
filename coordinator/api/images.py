"""Images, and the blobs that they are made of."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Request, Response
from starlette.responses import FileResponse, JSONResponse

from coordinator.api.deps import Json, Operator, Services, Svc, Viewer
from coordinator.errors import Conflict, Invalid, NotFound
from coordinator.model import Image
from coordinator.store import images
from coordinator.store.db import Tx

router = APIRouter(tags=["images"])
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
ARCH = "riscv64"
MAX_DEPTH = 16


@router.get("/v1/images", dependencies=[Viewer])
async def list_images(svc: Svc) -> Json:
    found = await svc.cluster.db.run(images.all_images)
    return {"images": [i.to_json() for i in found]}


@router.get("/v1/images/{name}", dependencies=[Viewer])
async def get_image(svc: Svc, name: str) -> Json:
    return (await svc.cluster.db.run(images.by_name, name)).to_json()


@router.post("/v1/images", status_code=201, dependencies=[Operator])
async def add_image(svc: Svc, manifest: Annotated[dict[str, Any], Body()]) -> Json:
    """Register a manifest whose blobs are all here."""
    check_manifest(svc, manifest)
    return (await svc.cluster.db.run(images.put, manifest)).to_json()


@router.delete("/v1/images/{name}", dependencies=[Operator])
async def remove_image(svc: Svc, name: str) -> Json:
    """Remove the name, and the blobs that nothing else needs."""

    def write(tx: Tx) -> None:
        # Inside the transaction: an image that is added next must not count on a blob that is about to go.
        for sha256 in images.remove(tx, name):
            svc.cluster.blobs.remove(sha256)

    await svc.cluster.db.run(write)
    return {"removed": name}


def check_manifest(svc: Services, manifest: dict[str, Any]) -> None:
    """:class:`Invalid` names the field; :class:`Conflict` names blobs that are missing or of another size."""
    if manifest.get("format") != 1:
        raise Invalid(f"format {manifest.get('format')!r}: this coordinator knows format 1", field="format")
    if manifest.get("arch") != ARCH:
        raise Invalid(f"arch {manifest.get('arch')!r}: only {ARCH} guests run here", field="arch")
    name = manifest.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(f"name {str(name)[:80]!r}: lower-case letters, digits, dots and dashes", field="name")
    created = manifest.get("created", 0)
    if isinstance(created, bool) or not isinstance(created, int | float) or not 0 <= created < 2**53:
        raise Invalid(f"created {str(created)[:80]!r}: Unix seconds", field="created")
    if not isinstance(manifest.get("source", {}), dict):
        raise Invalid(f"source {str(manifest['source'])[:80]!r}: an object", field="source")
    try:
        ref = Image(name, images.digest_of(manifest), manifest).ref()
    except KeyError as exc:
        raise Invalid(f"the manifest lacks {exc.args[0]}", field=str(exc.args[0])) from None
    except msgspec.ValidationError as exc:
        message, _, path = str(exc).partition(" - at `$.")
        raise Invalid(f"manifest: {message}", field=path.rstrip("`") or None) from None
    except (ValueError, TypeError, RecursionError) as exc:
        raise Invalid(f"manifest: {exc}", field=None) from None
    for file in ref.files:
        size = svc.cluster.blobs.size(file.sha256)
        if size is None:
            raise Conflict(f"blob {file.sha256} ({file.role}) is not here; upload it first", field="files")
        if size != file.size:
            raise Invalid(f"blob {file.sha256} ({file.role}) has {size} bytes, not {file.size}", field="files")


# ---- blobs ----------------------------------------------------------------------------------------------------------


@router.head("/v1/blobs/{sha256}", dependencies=[Viewer])
async def head_blob(svc: Svc, sha256: str) -> Response:
    size = svc.cluster.blobs.size(sha256)
    if size is None:
        return Response(status_code=404, headers={"Upload-Offset": str(svc.cluster.blobs.held(sha256))})
    return Response(headers={"Content-Length": str(size), "Accept-Ranges": "bytes"})


@router.get("/v1/blobs/{sha256}", dependencies=[Viewer])
async def get_blob(svc: Svc, sha256: str) -> FileResponse:
    if svc.cluster.blobs.size(sha256) is None:
        raise NotFound(f"no blob {sha256}", field="sha256")
    return FileResponse(svc.cluster.blobs.path(sha256), media_type="application/octet-stream")


@router.put("/v1/blobs/{sha256}", dependencies=[Operator])
async def put_blob(svc: Svc, sha256: str, request: Request) -> JSONResponse:
    """The whole blob, or, with ``Content-Range: bytes START-END/TOTAL``, the next part of it."""
    start, total = content_range(request.headers.get("content-range"))
    held = await svc.cluster.blobs.write(sha256, request.stream(), start=start, total=total)
    if held is None:
        return JSONResponse({"sha256": sha256}, status_code=201)
    return JSONResponse({"sha256": sha256, "offset": held}, status_code=202, headers={"Upload-Offset": str(held)})


def content_range(text: str | None) -> tuple[int, int | None]:
    """(start, total); (0, None) without the header."""
    if text is None:
        return 0, None
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise Invalid(f"Content-Range {text[:80]!r}: expected bytes START-END/TOTAL", field="content-range")
    start, end, total = (int(g) for g in match.groups())
    if not start <= end < total or total >= 2**63:
        raise Invalid(f"Content-Range {text[:80]!r}: START <= END < TOTAL does not hold", field="content-range")
    return start, total
