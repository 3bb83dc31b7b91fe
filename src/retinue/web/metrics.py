"""``/metrics`` for Prometheus: what the web itself counts. Other rooms register their own with the same library."""

from __future__ import annotations

import hmac
import ipaddress

from fastapi import APIRouter
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from retinue.kernel import Forbidden, Settings, Unauthenticated
from retinue.web.exchange import exchange_of
from retinue.web.measuring import Measuring

REQUESTS = Histogram(
    "retinue_http_request_duration_seconds",
    "Duration of requests, without live streams",
    ["method", "route", "status"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
STREAMS = Gauge("retinue_streams", "Open live streams", ["kind"])
DELIVERIES = Counter("retinue_stream_deliveries_total", "Chunks handed to live streams")
CUT = Counter("retinue_streams_ended_total", "Live streams that the server ended", ["reason"])

_children: dict[tuple[str, str, int], Histogram] = {}


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Count one request. Methods that HTTP does not know are one, so that callers cannot make up new series."""
    key = (method if method in _METHODS else "(other)", route, status)
    child = _children.get(key)
    if child is None:
        child = _children[key] = REQUESTS.labels(key[0], route, str(status))
    child.observe(seconds)


_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "WS"})

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Return every number, as OpenMetrics text.

    Raises:
        Unauthenticated: a token is set, and the caller did not send it.
        Forbidden: none is set, and the caller is not on this machine.
    """
    settings: Settings = request.app.state.settings
    if settings.metrics_token is not None:
        wanted = f"Bearer {settings.metrics_token.get_secret_value()}".encode()
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), wanted):
            raise Unauthenticated("Send the metrics token.")
    elif not _is_here(exchange_of(request.scope).client):
        raise Forbidden("/metrics answers on this machine only, unless RETINUE_METRICS_TOKEN is set.")
    await request.app.state.services.get(Measuring).look()
    text: bytes = generate_latest(REGISTRY)  # type: ignore[no-untyped-call]  # the library leaves it unannotated
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _is_here(client: str) -> bool:
    try:
        return ipaddress.ip_address(client).is_loopback
    except ValueError:
        return client == ""  # a Unix socket: only this machine can reach it
