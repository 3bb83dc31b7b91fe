"""A provider that answers with exactly the bytes it is given, for answers that no honest provider sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[[bytes], Sequence[bytes]]


@dataclass
class RawProvider:
    """What it is told, and what it saw.

    Attributes:
        answer: makes the pieces of an answer, head included, from the request's bytes.
        requests: the heads and bodies that came, whole.
        written: bytes that went out.
        left: set once the other side has closed a connection early.
    """

    answer: Answer
    requests: list[bytes] = field(default_factory=list)
    written: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            request = head + await reader.readexactly(length)
            self.requests.append(request)
            for piece in self.answer(request):
                writer.write(piece)
                await writer.drain()
                self.written += len(piece)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def raw_provider(answer: Answer) -> AsyncIterator[RawProvider]:
    """Serve on loopback; every connection gets one answer."""
    provider = RawProvider(answer)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, limit=2**26)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()


def whole(body: bytes, *, status: str = "200 OK", kind: str = "application/json", **headers: str) -> list[bytes]:
    """Return an answer in one piece."""
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n" + body]


def events(*pieces: bytes) -> list[bytes]:
    """Return a stream of events, cut where the pieces are; it ends with the connection."""
    return [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n", *pieces]
