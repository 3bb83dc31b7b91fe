"""A bare HTTP/1.1 client for the load programs: it must cost little beside the server it measures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

# Servers close a connection after some seconds without a request (uvicorn: five); a request sent then is lost.
_IDLE_SECONDS = 2.0


class ConnectionLost(Exception):
    """The server closed the connection before the answer was whole."""


class Connection(asyncio.Protocol):
    """A keep-alive connection to 127.0.0.1: one request at a time, answered whole or piece by piece."""

    def __init__(self, on_body: Callable[[bytes], None] | None = None) -> None:
        self._on_body = on_body
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._started: asyncio.Future[int] | None = None
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._used = time.monotonic()
        self.lost = asyncio.Event()

    @classmethod
    async def open(cls, port: int, on_body: Callable[[bytes], None] | None = None) -> Connection:
        """Connect; `on_body` gets each piece of a body as it comes, and the answer then has an empty one."""
        _, connection = await asyncio.get_running_loop().create_connection(lambda: cls(on_body), "127.0.0.1", port)
        return connection

    @classmethod
    async def open_unix(cls, path: str) -> Connection:
        """Connect to a unix socket."""
        _, connection = await asyncio.get_running_loop().create_unix_connection(cls, path)
        return connection

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send a request and return status and body. Raises ConnectionLost."""
        self._answer = asyncio.get_running_loop().create_future()
        self._send(method, path, body, headers)
        return await self._answer

    async def start(self, path: str, headers: dict[str, str] | None = None) -> int:
        """Send a GET for a stream and return the status; pieces go to `on_body`. Raises ConnectionLost."""
        self._started = asyncio.get_running_loop().create_future()
        self._send("GET", path, b"", headers)
        return await self._started

    def is_stale(self) -> bool:
        """Whether the server has closed the connection, or may be about to because nothing came for a while."""
        return self.lost.is_set() or time.monotonic() - self._used > _IDLE_SECONDS

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str] | None) -> None:
        if self._transport is None:
            raise ConnectionLost
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body or method != "GET":
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
        self._used = time.monotonic()
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def pause(self) -> None:
        """Stop reading: the slow client."""
        if self._transport is not None:
            self._transport.pause_reading()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream transport, but uvloop's is no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.lost.set()
        for waiting in (self._answer, self._started):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConnectionLost())

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._body = []

    def on_headers_complete(self) -> None:
        if self._started is not None and not self._started.done():
            self._started.set_result(self._parser.get_status_code())

    def on_body(self, body: bytes) -> None:
        if self._on_body is None:
            self._body.append(body)
        else:
            self._on_body(body)

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._body)))


class Events:
    """Cuts a stream of server-sent events into (event, data) pairs; comments and ids are dropped."""

    def __init__(self, on_event: Callable[[bytes, bytes], None]) -> None:
        self._on_event = on_event
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes and report every event that is whole."""
        *whole, self._rest = (self._rest + piece).split(b"\n\n")
        for block in whole:
            name, data = b"", b""
            for line in block.split(b"\n"):
                if line.startswith(b"data: "):
                    data = line[6:]
                elif line.startswith(b"event: "):
                    name = line[7:]
            if data:
                self._on_event(name, data)
