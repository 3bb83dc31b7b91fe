"""The second layer: who asks, as far as that is known without the database, and whether they ask too often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from urllib.parse import parse_qs, quote

from starlette.types import ASGIApp, Receive, Scope, Send

from retinue.kernel import Fault, Unauthenticated
from retinue.web.exchange import Exchange, exchange_of
from retinue.web.gate import Asked, Gate
from retinue.web.limits import Limits
from retinue.web.problems import refuse
from retinue.web.tickets import Tickets

STREAM_PATHS = frozenset({"/v1/my/events/stream", "/v1/my/events/ws"})


class RawHeaders(Mapping[str, str]):
    """The headers of a request by lower-case name; the first of several. Looked up, not copied: few are ever read."""

    __slots__ = ("_raw",)

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        wanted = name.encode("latin-1")
        for key, value in self._raw:
            if key == wanted:
                return value.decode("latin-1")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.decode("latin-1") for key, _ in self._raw))

    def __len__(self) -> int:
        return len({key for key, _ in self._raw})


class Callers:
    """Looks at the credential and counts the request, for everything under ``/v1``."""

    def __init__(
        self, app: ASGIApp, gate: Gate, limits: Limits, tickets: Tickets, public_url: str | None = None
    ) -> None:
        self.app = app
        self._public_url = public_url
        self._gate = gate
        self._limits = limits
        self._tickets = tickets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] in ("http", "websocket") and scope["path"].startswith("/v1/"):
            exchange = exchange_of(scope)
            exchange.join_span()
            try:
                await self._identify(scope, exchange)
                await self._limits.spend(exchange, scope["path"], scope.get("method", "GET"))
            except Fault as fault:
                await refuse(scope, exchange, fault, send)
                return
        await self.app(scope, receive, send)

    def _asked(self, scope: Scope, exchange: Exchange) -> Asked:
        headers = RawHeaders(scope["headers"])
        return Asked(
            scope.get("method", "GET"),
            headers,
            scope["headers"],
            exchange.client,
            partial(target_of, scope, headers, self._public_url),
            scope["path"],
        )

    async def _identify(self, scope: Scope, exchange: Exchange) -> None:
        """Look at the credential. A bad one is kept for routes that need one; public routes do not mind it."""
        try:
            exchange.credential = await self._gate.identify(self._asked(scope, exchange))
            if exchange.credential is None and scope["path"] in STREAM_PATHS:
                ticket = parse_qs(scope["query_string"].decode("latin-1")).get("ticket")
                if ticket:
                    exchange.credential = await self._tickets.redeem(ticket[0])
        except Unauthenticated as refusal:
            exchange.refusal = refusal


def target_of(scope: Scope, headers: Mapping[str, str], public_url: str | None) -> str:
    """Return the URL of a request as its client wrote it (RFC 9110, section 7.1).

    Behind a proxy that changes the scheme, the host or the path, ``public_url`` says how the server is called.
    """
    base = public_url or f"{scope['scheme']}://{headers.get('host', '')}"
    raw: bytes | None = scope.get("raw_path")
    path = raw.decode("latin-1") if raw is not None else quote(scope["path"])
    query: bytes = scope["query_string"]
    return f"{base}{path}?{query.decode('latin-1')}" if query else f"{base}{path}"
