"""The application: the rooms' routers, the layers around them, and the services that only the web uses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

import retinue
from retinue.database import Database
from retinue.kernel import Clock, Room, Services, Settings, SystemClock
from retinue.ledger import Feed
from retinue.live import Live
from retinue.web import health, metrics, openapi, sse
from retinue.web.callers import Callers
from retinue.web.catalogue import Catalogue
from retinue.web.gate import Gate
from retinue.web.health import Health
from retinue.web.idempotency import Idempotency
from retinue.web.limits import Limits
from retinue.web.measuring import Measuring
from retinue.web.problems import install as install_problems
from retinue.web.routing import check_route
from retinue.web.streams import Streams
from retinue.web.tickets import Tickets
from retinue.web.tracing import Tracing

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class _Application(FastAPI):
    """The framework's application with one layer around it; its own middleware would all lie inside."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._outermost = Tracing(super().__call__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._outermost(scope, receive, send)


def _has_no_span(scope: MutableMapping[str, Any]) -> bool:
    """Pass over live streams, which last for hours and by the thousand, and over what machines ask all the time."""
    path: str = scope["path"]
    return path.endswith(("/events/stream", "/events/ws")) or path.startswith(("/health/", "/metrics"))


# One span a request, when `kernel.configure_tracing` has found where to send it. The framework's own metrics would
# double ours, and its log of errors would send away what people wrote.
SPANS: TelemetryConfig = {
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
    "exclude": _has_no_span,
}


def create_app(
    settings: Settings,
    services: Services,
    rooms: Sequence[Room],
    gate: Gate,
    *,
    clock: Clock | None = None,
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        settings: the server's settings.
        services: must hold the ``Database``, the ``Feed`` and the ``Live`` bus, opened or not; gets ``Idempotency``,
            ``Limits``, ``Measuring``, ``Tickets``, ``Streams`` and, unless it is there, ``Health``.
        rooms: from the ground floor up.
        gate: who knows users and rights.
        clock: the time; the machine's by default.
        lifespan: starts and stops what the services need.

    Raises:
        LookupError: a route names no cell of the permission table and is not public, or a service is missing.
    """
    clock = clock or SystemClock()
    limits = services.add(Limits, Limits(settings))
    tickets = services.add(Tickets, Tickets(services.get(Database), clock))
    services.add(Idempotency, Idempotency())
    services.add(Measuring, Measuring(services, settings))
    _ensure_health(services)
    live = services.get(Live)  # type: ignore[type-abstract]  # services are found by their base class
    services.add(Streams, Streams(settings, Catalogue(rooms), services.get(Feed), live, gate, clock))
    app = _Application(
        title="Retinue",
        version=retinue.__version__,
        summary="Teams of AI agents that people can trust with real work",
        openapi_url=None,  # openapi.py adds it, completed
        docs_url=None,  # its pages load scripts from elsewhere; nothing here does
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        lifespan=_with_limits(limits, lifespan),
        middleware=[Middleware(Callers, gate=gate, limits=limits, tickets=tickets, public_url=settings.public_url)],
        telemetry=SPANS,
    )
    app.state.settings = settings
    app.state.services = services
    app.state.gate = gate
    app.state.clock = clock
    install_problems(app)
    _add_routes(app, rooms)
    return app


def _with_limits(limits: Limits, lifespan: Lifespan | None) -> Lifespan:
    """Return a lifespan that closes the limits after the given one has ended."""

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with lifespan(app) if lifespan is not None else nullcontext():
                yield
        finally:
            await limits.close()

    return both


def _add_routes(app: FastAPI, rooms: Sequence[Room]) -> None:
    """Put all routes into one flat list: a router inside a router is matched twice for every request.

    Routes are tried one after the other, a microsecond each; what people come for lies in the upper rooms, so those
    come first.
    """
    routers: list[Any] = [router for room in reversed(rooms) for router in room.routers]
    for router in routers:
        for route in router.routes:
            check_route(route)
    for router in (*routers, sse.router, health.router, metrics.router):
        app.router.routes.extend(router.routes)
    openapi.install(app)


def _ensure_health(services: Services) -> None:
    try:
        services.get(Health)
    except LookupError:
        services.add(Health, Health())
