"""A client of the event stream on a bare socket, so that a test decides when it reads."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

STREAM = "/v1/my/events/stream"


@dataclass
class Heard:
    """One block of a stream."""

    id: int | None
    event: str
    data: dict[str, Any]
    comment: str = ""

    @property
    def payload(self) -> dict[str, Any]:
        found: dict[str, Any] = self.data["payload"]
        return found


class Listener:
    """An open stream. Attributes: status, headers: of the response; last_id: where to resume."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.last_id: int | None = None
        self._text = b""
        self.ended = False

    async def begin(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)

    async def _chunk(self) -> bytes:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        data = await self._reader.readexactly(size + 2)
        return data[:-2]

    async def block(self, seconds: float = 30) -> Heard | None:
        """Return the next block, comments and bare ids too; None at the end of the stream."""
        async with asyncio.timeout(seconds):
            while b"\n\n" not in self._text:
                try:
                    chunk = await self._chunk()
                except (asyncio.IncompleteReadError, ConnectionError):
                    self.ended = True
                    return None
                if not chunk:
                    self.ended = True
                    return None
                self._text += chunk
        raw, _, self._text = self._text.partition(b"\n\n")
        fields: dict[str, str] = {}
        for line in raw.decode().split("\n"):
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        if "id" in fields:
            self.last_id = int(fields["id"])
        data = json.loads(fields["data"]) if "data" in fields else {}
        number = int(fields["id"]) if "id" in fields else None
        return Heard(number, fields.get("event", ""), data, fields.get("", "") if "" in fields else "")

    async def next(self, seconds: float = 30) -> Heard:
        """Return the next event or frame."""
        while True:
            found = await self.block(seconds)
            assert found is not None, "the stream ended"
            if found.event:
                return found

    async def several(self, count: int, seconds: float = 30) -> list[Heard]:
        async with asyncio.timeout(seconds):
            return [await self.next(seconds) for _ in range(count)]

    async def rest(self, seconds: float = 30) -> list[Heard]:
        """Return everything up to the end of the stream."""
        found = []
        async with asyncio.timeout(seconds):
            while (block := await self.block(seconds)) is not None:
                if block.event:
                    found.append(block)
        return found

    async def body(self) -> dict[str, Any]:
        """Return the document of a response that is no stream."""
        data = await self._reader.readexactly(int(self.headers["content-length"]))
        found: dict[str, Any] = json.loads(data)
        return found

    def hang_up(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def listening(
    url: str, headers: dict[str, str], *, receive_buffer: int | None = None, path: str = STREAM, **query: Any
) -> AsyncIterator[Listener]:
    """Open a stream; ``receive_buffer`` keeps the kernel from reading ahead for a client that does not read."""
    where = urlsplit(url)
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (where.hostname, where.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 2**16)
    lines = [f"GET {path}?{urlencode(query)} HTTP/1.1", f"Host: {where.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    listener = Listener(reader, writer)
    try:
        async with asyncio.timeout(30):
            await listener.begin()
            if listener.status == 200:
                opening = await listener.block()
                assert opening is not None
                assert opening.id is not None
        yield listener
    finally:
        listener.hang_up()
