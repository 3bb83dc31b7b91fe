"""The HTTP/1.1 side: a bare asyncio protocol on httptools, as a stub in a bench must cost almost nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qs

import httptools

Handler = Callable[["Exchange"], Awaitable[None]]

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Exchange:
    """One request and the way to answer it. Header names are lower case; of a query, first values count."""

    def __init__(self, connection: Connection, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        path, _, query = target.partition("?")
        self.method = method
        self.path = path
        self.query = {name: values[0] for name, values in parse_qs(query).items()} if query else {}
        self.headers = headers
        self.body = body
        self._connection = connection
        self._chunked = False

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a whole JSON response."""
        self._connection.send(_head(status, headers or {}, len(body)) + body)

    def answer_partly(self, status: int, body: bytes, missing: int) -> None:
        """Send a response whose announced length is `missing` bytes more than what comes, and close."""
        self._connection.send(_head(status, {}, len(body) + missing) + body)
        self.close()

    def start_events(self) -> None:
        """Send the head of an event stream; `event` and `end` follow."""
        self._chunked = True
        self._connection.send(_EVENTS_HEAD)

    def event(self, body: bytes) -> None:
        """Send a piece of the event stream."""
        if body:
            self._connection.send(b"%x\r\n%b\r\n" % (len(body), body))

    def end(self) -> None:
        """End the event stream as it should end."""
        self._connection.send(b"0\r\n\r\n")

    def close(self) -> None:
        """Close the connection, whatever was sent so far."""
        self._connection.close()


_EVENTS_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _head(status: int, headers: dict[str, str], length: int) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"content-length: {length}\r\n\r\n")
    return "\r\n".join(lines).encode()


class Connection(asyncio.Protocol):
    """One client connection. Requests are handled in turn; a handler is cancelled when the client goes."""

    def __init__(self, handler: Handler, open_connections: set[Connection]) -> None:
        self._handler = handler
        self._open = open_connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream transport, but uvloop's is no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._open.discard(self)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.send(_head(400, {"connection": "close"}, 0))
            self.close()

    # What httptools calls.

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        if name.lower() == b"expect":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        exchange = Exchange(self, method, self._target.decode("latin-1"), self._headers, b"".join(self._body))
        self._reset()
        self._waiting.append(exchange)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        while self._waiting:
            await self._handler(self._waiting.popleft())
        self._task = None

    # What the handler needs.

    def send(self, data: bytes) -> None:
        """Write bytes, unless the connection is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close after what was written has left; the handler is not cancelled by its own closing."""
        if self._transport is not None:
            self._task = None
            self._waiting.clear()
            self._transport.close()
