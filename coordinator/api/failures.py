"""Every failure as ``{"error": {"code", "field", "message"}}`` with a fitting status."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from coordinator.blobs import WrongOffset
from coordinator.errors import CoordinatorError
from coordinator.operations import error_json
from protocol.errors import WherryError

log = logging.getLogger(__name__)

STATUS = {
    "invalid": 422,
    "unsupported": 422,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "exists": 409,
    "conflict": 409,
    "fenced": 409,
    "cancelled": 409,
    "unavailable": 503,
    "full": 503,
    "timeout": 503,
    "internal": 500,
}
_BY_STATUS = {400: "invalid", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "unsupported"}


def response(error: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def failure(exc: Exception) -> JSONResponse:
    """The answer for an exception of ours or of a link."""
    error = error_json(exc)
    headers = {}
    if isinstance(exc, WrongOffset):
        headers["Upload-Offset"] = str(exc.offset)
    if isinstance(exc, CoordinatorError):
        if exc.code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        if "placement" in exc.details:
            error["placement"] = exc.details["placement"]
    return response(error, STATUS.get(error["code"], 500), headers)


def _invalid(exc: RequestValidationError) -> JSONResponse:
    """The first thing that is wrong, with the field's path; malformed JSON is 400."""
    first: dict[str, Any] = exc.errors()[0]
    where = [str(p) for p in first.get("loc", ()) if p not in ("body", "query", "path", "header")]
    if first.get("type") == "json_invalid":
        return response({"code": "invalid", "field": None, "message": "the body is not JSON"}, 400)
    field = ".".join(where) or None
    message = str(first.get("msg", "invalid"))
    value = first.get("input")
    if field and isinstance(value, str | int | float | bool):
        message = f"{field} {str(value)[:80]!r}: {message}"
    elif field:
        message = f"{field}: {message}"
    return response({"code": "invalid", "field": field, "message": message}, 422)


def install(app: FastAPI) -> None:
    async def ours(request: Request, exc: Exception) -> JSONResponse:
        return failure(exc)

    async def invalid(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        return _invalid(exc)

    async def http(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        code = _BY_STATUS.get(exc.status_code, "invalid" if exc.status_code < 500 else "internal")
        message = str(exc.detail) if exc.status_code != 404 else f"no such path: {request.url.path}"
        return response({"code": code, "field": None, "message": message}, exc.status_code)

    async def broken(request: Request, exc: Exception) -> JSONResponse:
        log.error("%s %s broke", request.method, request.url.path, exc_info=exc)
        error = {"code": "internal", "field": None, "message": "the coordinator failed; its log says why"}
        return response(error, 500)

    app.add_exception_handler(CoordinatorError, ours)
    app.add_exception_handler(WherryError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, broken)
