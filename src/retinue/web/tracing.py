"""The outermost layer: trace id in and out, one line of log and one observation a request, and no escape for errors.

Plain ASGI, around the whole framework: a request costs a few microseconds here. A live stream is run from here, once
the framework has answered, so that none of its layers stays around for the hours that a stream lasts.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

import retinue
from retinue.kernel import BadInput, Fault
from retinue.web.exchange import Exchange
from retinue.web.metrics import observe
from retinue.web.problems import NoSuchRoute, log_mistake, mistake, refuse

access = logging.getLogger("retinue.access")

# https://www.w3.org/TR/trace-context/#traceparent-header: version ff and ids of zeros only are not valid.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?")
_VERSION = (b"retinue-version", retinue.__version__.encode())
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
# Machines ask these all the time.
_PROBES = frozenset({"/health/live", "/health/ready", "/health/startup", "/metrics"})
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
        exchange.join_span()
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
            await refuse(scope, exchange, fault, traced)
        except Exception as error:
            if exchange.failed != "answered":
                await self._fail(scope, exchange, error, traced)
        finally:
            _end(scope, exchange, route or scope.get("route"))

    async def _fail(self, scope: Scope, exchange: Exchange, error: Exception, send: Send) -> None:
        """Log a mistake of the program and say that there was one."""
        if not exchange.failed:
            log_mistake(exchange, error)
        if exchange.status:
            raise error  # the answer has begun: only the server can cut it off
        await refuse(scope, exchange, mistake(), send)


def _begin(scope: Scope) -> Exchange:
    client = scope.get("client")
    address = client[0] if client else ""
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
            exchange.headers.clear()
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
    exchange.answer = exchange.credential = None
    exchange.body = b""


def _end(scope: Scope, exchange: Exchange, matched: Any) -> None:
    seconds = time.monotonic() - exchange.started
    route = getattr(matched, "path", "") or "(none)"
    method = scope.get("method", "WS")
    if exchange.stream is None:  # how long a stream lasts says nothing about speed
        observe(method, route, exchange.status, seconds)
    level = logging.DEBUG if route in _PROBES and exchange.status < 500 else logging.INFO
    if access.isEnabledFor(level):
        _log(level, scope, exchange, method, route, seconds)


def _log(level: int, scope: Scope, exchange: Exchange, method: str, route: str, seconds: float) -> None:
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
    access.log(level, "%s %s %d", method, fields["path"], exchange.status, extra=fields)
