"""``GET /v1/my/events/stream`` and its WebSocket twin: what happens, as it happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Query
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope
from starlette.websockets import WebSocket

from retinue.kernel import BadInput, Scope
from retinue.web.catalogue import Filter
from retinue.web.connection import ABORT, Connection, SseConnection, WebSocketConnection
from retinue.web.exchange import Exchange, exchange_of
from retinue.web.gate import Credential, Entry, Gate
from retinue.web.problems import problems
from retinue.web.routing import Cell, Router
from retinue.web.scope import admitted, exchange_here, scoped
from retinue.web.streams import Streams
from retinue.web.tickets import SECONDS, Tickets

MAX_POSITION = 2**63 - 1
EVENTS = Cell("events", "read")

Begin = Callable[[Receive, Send], Awaitable[None]]

router = Router(prefix="/v1/my/events", tags=["events"])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks to see, as it was sent."""

    session: UUID | None
    run: UUID | None
    names: frozenset[str] | None
    after: int | None


async def wanted_of(
    connection: HTTPConnection,
    session: Annotated[UUID | None, Query(description="only what belongs to this session")] = None,
    run: Annotated[UUID | None, Query(description="only what belongs to this run")] = None,
    types: Annotated[
        str | None, Query(max_length=1000, description="only these event types, with commas between")
    ] = None,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_POSITION, description="what was recorded after this position comes first")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(max_length=20, description="as `after`; what a browser sends when it reconnects")
    ] = None,
    ticket: Annotated[
        str | None, Query(max_length=200, description="a one-time ticket instead of the Authorization header")
    ] = None,
) -> Wanted:
    """Read the parameters that both kinds of stream share."""
    streams: Streams = connection.app.state.services.get(Streams)
    names = None
    if types is not None:
        names = frozenset(name.strip() for name in types.split(",") if name.strip())
        unknown = sorted(names - streams.catalogue.names())
        if unknown or not names:
            known = ", ".join(sorted(streams.catalogue.names()))
            raise BadInput(
                f"No such event type: {', '.join(unknown)[:200] or '(none)'}. Known: {known}.", field="types"
            )
    if last_event_id is not None:
        if not last_event_id.isdecimal() or not last_event_id.isascii() or int(last_event_id) > MAX_POSITION:
            raise BadInput("Send the id of an event of this stream.", field="Last-Event-ID")
        after = int(last_event_id)
    return Wanted(session, run, names, after)


@dataclass(slots=True)
class Opening:
    """A stream about to be opened for somebody who was let in by a cell of the permission table.

    Attributes:
        others: whether it shows, besides the caller's own events, those of nobody and of the caller's teams.
    """

    streams: Streams
    credential: Credential
    tenant_id: UUID
    entry: Entry
    wanted: Wanted
    abort: Callable[[], None] | None
    cell: Cell = EVENTS
    others: bool = True

    async def serve(self, kind: type[Connection], begin: Begin, receive: Receive, send: Send) -> None:
        """Check that the stream can be had, begin the response, and stream until one side has had enough.

        Raises:
            Gone, BadInput: the position cannot be resumed from.
            Unavailable: the server has as many streams as it may, or the database does not answer.
        """
        after = self.wanted.after
        seats = self.streams.take_seat(self.tenant_id)
        try:
            channel = await seats.channel()
            if after is not None:
                await channel.check(after)
                await channel.reached(after)
            connection = kind(
                channel, self._filter(), receive, send, expires_at=self.credential.expires_at, abort=self.abort
            )
            holder = self.streams.watch(
                connection, self.credential, self.tenant_id, self.entry, self.cell, others=self.others
            )
            self.credential, self.entry = holder.credential, holder.entry  # equal, and there once for all
            try:
                await begin(receive, send)
                await connection.run(after)
            finally:
                self.streams.unwatch(connection, holder)
        finally:
            await self.streams.leave_seat(seats)

    def _filter(self) -> Filter:
        wanted = self.wanted
        if not self.others:
            return Filter(self.entry.user_id, session=wanted.session, run=wanted.run, names=wanted.names)
        visible = self.streams.visible(self.entry.role, self.entry.scopes)
        return Filter(self.entry.user_id, visible, self.entry.audiences, wanted.session, wanted.run, wanted.names)


def _abort_of(scope: AsgiScope) -> Callable[[], None] | None:
    """Return what drops the connection, when the server offers it (see server.py)."""
    found: Callable[[], None] | None = scope.get("extensions", {}).get(ABORT, {}).get("call")
    return found


_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events before it passes them on
]


class EventStream(Response):
    """The response of the stream: raw ASGI, written by the channel."""

    media_type = "text/event-stream"

    def __init__(self, opening: Opening, exchange: Exchange) -> None:
        super().__init__()
        self._opening = opening
        self._exchange = exchange

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Leave the streaming to the outermost layer: by then the scope has committed and its connection is free."""
        self._exchange.stream = partial(self._opening.serve, SseConnection, _begin_sse)


async def _begin_sse(receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})


async def _begin_websocket(receive: Receive, send: Send) -> None:
    await receive()  # the client's wish to connect
    await send({"type": "websocket.accept"})


_EXAMPLE = (
    "id: 42\nevent: message_created\n"
    'data: {"event_type":"message_created","payload":{"role":"agent","content":"Done."},'
    '"timestamp":"2026-01-01T12:00:00Z","session_id":null,"run_id":null}\n\n'
)


@router.get(
    "/stream",
    status_code=200,
    response_class=EventStream,
    responses={
        200: {
            "description": "Server-sent events. `id` is the tenant's position; frames (`message_delta`) have none. A "
            "frame with offset 0 starts the text of its run anew.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
        **problems(410),
    },
)
async def stream(
    connection: HTTPConnection,
    scope: Annotated[Scope, scoped("events", "read")],
    exchange: Annotated[Exchange, Depends(exchange_here)],
    wanted: Annotated[Wanted, Depends(wanted_of)],
) -> Response:
    """Stream the caller's events as they are recorded, and answers while they are written.

    Resumes after `after` or `Last-Event-ID` without a gap. A client that cannot keep up is cut and can resume, too.
    """
    entry = Entry(scope.actor, scope.owner(), scope.role or "", scope.scopes)
    gate: Gate = connection.app.state.gate
    entry = replace(entry, audiences=await gate.audiences(entry, scope.uow))
    abort = _abort_of(connection.scope)
    opening = Opening(scope.service(Streams), exchange.caller(), scope.tenant_id, entry, wanted, abort)
    return EventStream(opening, exchange)


def stream_of_one(
    connection: HTTPConnection, scope: Scope, exchange: Exchange, owner_id: UUID, wanted: Wanted, cell: tuple[str, str]
) -> Response:
    """Stream what belongs to one thing that a route has shown to be the caller's to see.

    Args:
        owner_id: whose events those are.
        wanted: names the thing, as its ``session`` or ``run``, and where to begin.
        cell: what the caller must go on to be allowed.

    Raises:
        ValueError: nothing is named; a mistake in the program.
    """
    if wanted.session is None and wanted.run is None:
        raise ValueError("a stream of one thing names it")
    entry = Entry(scope.actor, owner_id, scope.role or "", scope.scopes, grant_id=scope.grant_id)
    streams, caller = scope.service(Streams), exchange.caller()
    abort = _abort_of(connection.scope)
    opening = Opening(streams, caller, scope.tenant_id, entry, wanted, abort, Cell(*cell), others=False)
    return EventStream(opening, exchange)


class Ticket(BaseModel):
    """A one-time ticket for a live stream."""

    ticket: str = Field(description="send it as `?ticket=` when opening the stream", examples=["0192…c0ffee.V2h5…"])
    expires_in: int = Field(description="seconds", examples=[SECONDS])


@router.post("/ticket", status_code=201)
async def ticket(
    scope: Annotated[Scope, scoped("events", "read")], exchange: Annotated[Exchange, Depends(exchange_here)]
) -> Ticket:
    """Issue a ticket that opens one live stream within half a minute, for clients that cannot send headers."""
    return Ticket(ticket=await scope.service(Tickets).issue(scope, exchange.caller()), expires_in=SECONDS)


@router.websocket("/ws")
async def websocket(connection: WebSocket, wanted: Annotated[Wanted, Depends(wanted_of)]) -> None:
    """Stream the same over a WebSocket; the position is the message's ``id``."""
    tenant_id, entry = await admitted(connection, "events", "read")
    exchange = exchange_of(connection.scope)
    streams: Streams = connection.app.state.services.get(Streams)
    opening = Opening(streams, exchange.caller(), tenant_id, entry, wanted, _abort_of(connection.scope))
    exchange.stream = partial(opening.serve, WebSocketConnection, _begin_websocket)
