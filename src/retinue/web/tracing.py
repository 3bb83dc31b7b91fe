"""The outermost layer: trace id in and out, one line of log and one observation a request, and no escape for errors.

Plain ASGI: a request costs a few microseconds here, and a stream keeps one small object.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import retinue
from retinue.kernel import BadInput, Fault
from retinue.web.exchange import Exchange
from retinue.web.metrics import observe
from retinue.web.problems import MEDIA_TYPE, Internal, NoSuchRoute, document

log = logging.getLogger(__name__)
access = logging.getLogger("retinue.access")

# https://www.w3.org/TR/trace-context/#traceparent-header: version ff and ids of zeros only are not valid.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?")
_VERSION = (b"retinue-version", retinue.__version__.encode())
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
# Not the server's own: what the layers and the routing put into the scope for one another.
_PASSING = frozenset({"app", "endpoint", "path_params", "retinue.exchange", "route", "router", "state"})


class Tracing:
    """Wraps everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        exchange = _begin(scope)
        exchange.enter(scope)
        traced = _traced(exchange, send)
        route = None
        try:
            _check_url(scope)
            await self.app(scope, receive, traced)
            route = scope.get("route")
            if exchange.stream is not None:
                _forget(scope, exchange)
                await exchange.stream(receive, traced)
        except Fault as fault:
            await _refuse(scope, exchange, fault, traced)
        except Exception as error:
            log.exception("an error that nobody expected", extra={"trace_id": exchange.trace_id})
            if exchange.status:
                raise  # the answer has begun: only the server can cut it off
            await _refuse(scope, exchange, _hidden(error), traced)
        finally:
            _end(scope, exchange, route or scope.get("route"))


def _begin(scope: Scope) -> Exchange:
    client = scope.get("client")
    address = client[0] if client else ""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:  # tracing is on, and the framework has opened the request's span
        return Exchange(f"{span.trace_id:032x}", f"{span.span_id:016x}", span.trace_flags.sampled, address)
    given = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
    found = _TRACEPARENT.fullmatch(given)
    if found is None:
        return Exchange(secrets.token_hex(16), secrets.token_hex(8), False, address)
    return Exchange(found[1].decode(), secrets.token_hex(8), bool(int(found[2], 16) & 1), address)


def _traced(exchange: Exchange, send: Send) -> Send:
    async def traced(message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" or kind == "websocket.http.response.start":
            exchange.status = message["status"]
            headers = list(message.get("headers", ()))
            headers += (_VERSION, _NO_SNIFF, (b"traceparent", _traceparent(exchange)), *exchange.headers)
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append(_NO_STORE)
            message["headers"] = headers
        elif kind == "websocket.accept":
            exchange.status = 101
            message["headers"] = [*message.get("headers", ()), _VERSION, (b"traceparent", _traceparent(exchange))]
        await send(message)

    return traced


def _traceparent(exchange: Exchange) -> bytes:
    return f"00-{exchange.trace_id}-{exchange.span_id}-{'01' if exchange.sampled else '00'}".encode()


def _check_url(scope: Scope) -> None:
    """Refuse the one character that no text column can hold."""
    if "\x00" in scope["path"]:
        raise NoSuchRoute("Nothing answers at this path.")
    if b"%00" in scope["query_string"]:
        name = next(part.partition(b"=")[0] for part in scope["query_string"].split(b"&") if b"%00" in part)
        field = name.decode("ascii", "replace").replace("%00", "")[:100] or "query"
        raise BadInput(f"{field}: the character NUL is not allowed in text.", field=field)


def _hidden(error: Exception) -> Fault:
    """Return what a caller may know of a mistake in the program: that there was one."""
    return Internal("The server made a mistake. Its log names it under the trace id.")


async def _refuse(scope: Scope, exchange: Exchange, fault: Fault, send: Send) -> None:
    """Answer with a problem, when nothing was answered yet."""
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


def _forget(scope: Scope, exchange: Exchange) -> None:
    """Let go of what only the request needed: a quiet stream, of which there may be thousands, holds little."""
    kept = {
        key: value
        for key, value in scope.items()
        if key not in _PASSING and not key.startswith(("fastapi", "starlette"))
    }
    scope.clear()  # a dict keeps its size when keys are deleted one by one
    scope.update(kept)
    scope["headers"].clear()  # in place: the server holds the same list
    exchange.answer = None
    exchange.body = b""


def _end(scope: Scope, exchange: Exchange, matched: Any) -> None:
    seconds = time.monotonic() - exchange.started
    route = getattr(matched, "path", "") or "(none)"
    method = scope.get("method", "WS")
    if exchange.stream is None:  # how long a stream lasts says nothing about speed
        observe(method, route, exchange.status, seconds)
    if access.isEnabledFor(logging.INFO):
        _log(scope, exchange, method, route, seconds)


def _log(scope: Scope, exchange: Exchange, method: str, route: str, seconds: float) -> None:
    """Write the line; the path without its query, which may hold a ticket."""
    fields: dict[str, Any] = {
        "method": method,
        "path": scope["path"][:500],
        "route": route,
        "status": exchange.status,
        "ms": round(seconds * 1000, 2),
        "client": exchange.client,
        "user": exchange.user,
        "trace_id": exchange.trace_id,
    }
    access.info("%s %s %d", method, fields["path"], exchange.status, extra=fields)
