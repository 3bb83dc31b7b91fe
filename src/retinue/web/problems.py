"""Every error as a problem document (RFC 9457): stable type, a detail to act on, the trace id, no internals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope, Send

from retinue import kernel
from retinue.kernel import BadInput, Fault, PayloadTooLarge, Unavailable
from retinue.web.exchange import Exchange, exchange_of
from retinue.web.idempotency import Replayed

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:retinue:problem:"
_MONEY = r"(\.[0-9]{1,9})?$"
"""How the patterns of all amounts of money end."""


class Malformed(Fault):
    """The body cannot be read at all: broken JSON, a broken form, not UTF-8."""

    kind, status, title = "malformed", 400, "The request cannot be read"


class MethodNotAllowed(Fault):
    """The path exists, and not for this method."""

    kind, status, title = "method-not-allowed", 405, "This method is not allowed here"


class NoSuchRoute(Fault):
    """Nothing answers at this path."""

    kind, status, title = "not-found", 404, "There is no such thing"


class Internal(Fault):
    """A mistake in the program; the log has the rest under the trace id."""

    kind, status, title = "internal", 500, "Something went wrong inside the server"


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="path of the field, such as `limits.tokens`", examples=["limits.tokens"])
    message: str = Field(examples=["Input should be greater than 0"])


class Problem(BaseModel):
    """An error (RFC 9457). `type` is stable; `detail` says what to do."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:retinue:problem:bad-input",
                    "title": "The request is not valid",
                    "status": 422,
                    "detail": "name: String should have at least 1 character",
                    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                    "errors": [{"field": "name", "message": "String should have at least 1 character"}],
                }
            ]
        },
    )

    type: str = Field(description="stable name of the kind of problem", examples=["urn:retinue:problem:not-found"])
    title: str = Field(description="one line, the same for all problems of the type")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what happened and what to do about it")
    trace_id: str = Field(description="names this request in the server's log")
    errors: list[FieldError] | None = Field(default=None, description="the fields that are wrong")


def _titles() -> dict[int, str]:
    local = [Malformed, MethodNotAllowed, Internal]
    shared = [kind for kind in vars(kernel).values() if isinstance(kind, type) and issubclass(kind, Fault)]
    kinds: list[type[Fault]] = [Fault, *shared, *local]
    return {kind.status: kind.title for kind in kinds}


TITLES = _titles()


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` that declare problem documents for ``statuses`` in the API's description.

    What any route can answer (401, 403, 404, 413, 415, 422, 429, 500, 503, 507) is declared by itself: name only what
    is special to a route or router, such as 402, 409, 410 or 412.
    """
    return {
        status: {
            "description": TITLES.get(status, "A problem"),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def document(fault: Fault, trace_id: str) -> bytes:
    """Write the problem document of a fault."""
    content: dict[str, Any] = {
        "type": TYPE_PREFIX + fault.kind,
        "title": fault.title,
        "status": fault.status,
        "detail": fault.detail,
        "trace_id": trace_id,
    }
    for name, value in fault.extra.items():
        content.setdefault(name, value)
    return orjson.dumps(content, default=str)


def problem_response(fault: Fault, trace_id: str) -> Response:
    """Return a fault as a response."""
    return Response(document(fault, trace_id), fault.status, headers=fault.headers, media_type=MEDIA_TYPE)


def refused(request: Request, fault: Fault) -> Response:
    """Return a fault as the route's own answer, so that the scope commits what was recorded along with the refusal."""
    return problem_response(fault, exchange_of(request.scope).trace_id)


def _answer(request: Request, fault: Fault) -> Response:
    return problem_response(fault, exchange_of(request.scope).trace_id)


async def _on_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, Fault)  # registered for nothing else
    if isinstance(error, Unavailable):
        log.warning("%s: %s", type(error).__name__, error.detail, exc_info=error.__cause__)
    return _answer(request, error)


async def _on_mistake(request: Request, error: Exception) -> Response:
    exchange = exchange_of(request.scope)
    log_mistake(exchange, error)
    exchange.failed = "cut" if exchange.status else "answered"
    return problem_response(mistake(), exchange.trace_id)


def log_mistake(exchange: Exchange, error: Exception) -> None:
    """Put an error that nobody expected into the log, under the trace id that the caller gets."""
    log.error("an error that nobody expected", exc_info=error, extra={"trace_id": exchange.trace_id})


def mistake() -> Fault:
    """Return what a caller may know of a mistake in the program: that there was one."""
    return Internal("The server made a mistake. Its log names it under the trace id.")


async def refuse(scope: Scope, exchange: Exchange, fault: Fault, send: Send) -> None:
    """Answer with a problem from outside of the framework; nothing was answered yet."""
    prefix = "http"
    if scope["type"] == "websocket":
        prefix = "websocket.http"
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": fault.detail[:100]})
            return
    body = document(fault, exchange.trace_id)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in fault.headers.items()]
    await send({"type": f"{prefix}.response.start", "status": fault.status, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError | WebSocketRequestValidationError)  # registered for nothing else
    return _answer(request, invalid(error.errors()))


def invalid(errors: Sequence[Mapping[str, Any]]) -> Fault:
    """Return the fault for the errors of a validation; values are left out, they may be secrets."""
    found = [{"field": field_path(error["loc"]), "message": _message(error)} for error in errors[:100]]
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    fault = BadInput(f"{first['field']}: {first['message']}{more}", field=first["field"])
    fault.extra["errors"] = found
    return fault


def _message(error: Mapping[str, Any]) -> str:
    if str((error.get("ctx") or {}).get("pattern", "")).endswith(_MONEY):  # a pattern says nothing to a person
        return "Input should be a decimal number such as 5.00, with at most 9 digits after the point"
    if error["type"] == "extra_forbidden":
        return "There is no such field"
    if error["type"] == "timezone_aware":
        return "Input should have a time zone, such as 2026-12-31T18:00:00Z"
    if error["type"] in ("too_short", "too_long") and (error.get("ctx") or {}).get("field_type") == "Value":  # a secret
        bound = {"too_short": "at least {min_length}", "too_long": "at most {max_length}"}[error["type"]]
        return f"Value should have {bound.format_map(error['ctx'])} characters"
    return str(error["msg"])


def field_path(location: Sequence[str | int]) -> str:
    """Write a location such as ``("body", "limits", "tokens")`` as ``limits.tokens``."""
    where = [str(part) for part in location]
    inside = where[1:] if where and where[0] in ("body", "query", "path", "header", "cookie") else where
    return ".".join(inside) or (where[0] if where else "body")


async def _on_replayed(request: Request, error: Exception) -> Response:
    assert isinstance(error, Replayed)  # registered for nothing else
    return error.answer.response()


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for nothing else
    return _answer(request, _from_http(request, error))


def _from_http(request: Request, error: HTTPException) -> Fault:
    """Name what the framework refuses. A fault that it wrapped while it read the body is the real reason."""
    headers = dict(error.headers or {})
    cause: BaseException | None = error.__cause__
    while cause is not None:
        if isinstance(cause, Fault):
            return cause
        cause = cause.__cause__
    if error.status_code == 404:
        return NoSuchRoute(f"Nothing answers at {request.url.path}. /v1/openapi.json lists what there is.")
    if error.status_code == 405:
        allowed = headers["Allow"] = ", ".join(_methods(request))
        return MethodNotAllowed(f"{request.method} is not allowed here; {allowed} is.", headers=headers)
    if error.status_code == 413:
        return PayloadTooLarge("The body is over the limit.")
    if error.status_code < 500:
        return Malformed(str(error.detail), headers=headers)
    return mistake()


def _methods(request: Request) -> list[str]:
    """Return the methods that the request's path takes. The framework names those of the first route alone."""
    found: set[str] = set()
    for route in request.app.router.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""
    app.add_exception_handler(Fault, _on_fault)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(WebSocketRequestValidationError, _on_invalid)
    app.add_exception_handler(Replayed, _on_replayed)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_mistake)
