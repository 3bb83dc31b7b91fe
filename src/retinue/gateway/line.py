"""A line: the gateway for one caller, on a socket of its own. Who may open the socket is the caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from retinue.gateway.commands import Caller, begin
from retinue.gateway.listening import serving
from retinue.gateway.relay import Relay
from retinue.gateway.reply import Reply
from retinue.gateway.requests import Receive, Refused, Send
from retinue.gateway.routes import route_for, wire_of
from retinue.gateway.rules import Allowance, Rules, Use
from retinue.kernel import Services, Settings, nanos

_SINGLE = (b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding")


class Line:
    """The open line of one caller."""

    def __init__(self, services: Services, caller: Caller, rules: Rules, *, budgeted: bool) -> None:
        unpriced = nanos(services.get(Settings).unpriced_call_cost)
        allowance = Allowance(rules, unpriced, careful=budgeted)
        self._relay = Relay(services, caller, allowance)

    @property
    def usage(self) -> Use:
        """What was used so far; complete once the line is closed."""
        return self._relay.allowance.use

    async def settled(self) -> None:
        """Wait until all that was used is written down."""
        await self._relay.settled()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        path: str = scope["path"]
        headers, odd = _read(scope["headers"])
        reply = Reply(send, wire_of(path))
        route = route_for(scope["method"], path, anthropic="anthropic-version" in headers)
        if odd:
            await reply.refuse(Refused(400, "The request cannot be read in one way only.", "invalid_request"))
        elif route is None:
            await reply.refuse(Refused(404, "The gateway has no such path.", "not_found"))
        else:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            await self._relay.answer(route, headers, query, receive, send)


def _read(raw: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], bool]:
    """Return the headers, and whether they leave open where the request ends or whom it is for."""
    headers: dict[str, str] = {}
    odd = False
    for name, value in raw:
        key = name.decode("latin-1")
        odd = odd or (key in headers and name in _SINGLE) or name == b"retinue-refused"
        headers[key] = value.decode("latin-1")
    return headers, odd or ("content-length" in headers and "transfer-encoding" in headers)


@asynccontextmanager
async def listen(
    services: Services,
    path: Path,
    caller: Caller,
    rules: Rules,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
) -> AsyncIterator[Line]:
    """Open a line on a unix socket as long as the block lasts.

    It speaks HTTP/1.1 in the formats of OpenAI (``/v1/chat/completions``, ``/v1/responses``, ``/v1/embeddings``),
    Anthropic (``/v1/messages``) and Gemini (``/v1beta/models/...``), and has nothing else. No key is needed: to be able
    to open the socket is the identity. When the block ends, calls under way are cut, and counted by what is known.

    What earlier lines of the same run still hold in budgets is given back: a run has one line at a time, so the worker
    that had them is gone.

    Args:
        services: the server's.
        path: of the socket; its folder is made for this account alone where it is missing.
        caller: for whom.
        rules: what may be used.
        mode: the socket's access rights.
        owner: user and group id the socket is given to, when a sandbox runs as another account.

    Raises:
        BadInput: the socket cannot be made.
    """
    line = Line(services, caller, rules, budgeted=await begin(services, caller))
    try:
        async with serving(line, path, mode, owner):
            yield line
    finally:
        await line.settled()
