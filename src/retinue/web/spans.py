"""One span a request, where traces are sent to a collector; :mod:`retinue.web.tracing` takes its ids.

Plain ASGI, and outermost. Live streams get none: they last for hours, and thousands of them are open.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.semconv.attributes import http_attributes as http
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_tracer = trace.get_tracer("retinue.web")
_propagator = TraceContextTextMapPropagator()
_HEADERS = frozenset({b"traceparent", b"tracestate"})


class RequestSpans:
    """Wraps the application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request inside a span, which goes on with the caller's trace when there is one."""
        if scope["type"] != "http" or scope["path"].endswith("/stream"):
            await self.app(scope, receive, send)
            return
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _HEADERS}
        method = scope["method"]
        span = _tracer.start_span(method, context=_propagator.extract(carrier), kind=trace.SpanKind.SERVER)
        span.set_attribute(http.HTTP_REQUEST_METHOD, method)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                _describe(span, scope, method, message["status"])
            await send(message)

        # Of an error the log has the stack; its text may hold what a person wrote, so the span does not get it.
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            await self.app(scope, receive, noted)


def _describe(span: trace.Span, scope: Scope, method: str, status: int) -> None:
    """Name the span by the route, as the conventions for HTTP ask: a path would make a name of every id."""
    span.set_attribute(http.HTTP_RESPONSE_STATUS_CODE, status)
    if route := getattr(scope.get("route"), "path", ""):
        span.update_name(f"{method} {route}")
        span.set_attribute(http.HTTP_ROUTE, route)
    if status >= 500:
        span.set_status(trace.StatusCode.ERROR)
