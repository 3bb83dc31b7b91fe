"""The way back to a caller, in the format it speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from retinue.gateway.requests import Refused, Send
from retinue.providers import Wire


class Reply:
    """One answer. Sending waits while the caller does not read."""

    def __init__(self, send: Send, wire: Wire) -> None:
        self._send = send
        self._wire = wire
        self._begun = False
        self._ended = False

    async def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a stream."""
        self._begun = True
        await self._start(200, {**headers, "content-type": "text/event-stream; charset=utf-8"})

    async def piece(self, piece: bytes) -> None:
        """Send a piece of a stream."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        self._ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a JSON answer in one piece."""
        self._begun = self._ended = True
        await self._start(status, {**headers, "content-type": "application/json", "content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def document(self, status: int, document: Any, **headers: str) -> None:
        """Send a JSON document of our own."""
        await self.whole(status, headers, msgspec.json.encode(document))

    async def refuse(self, refused: Refused) -> None:
        """Say why there is no answer, or why it ends here. Nothing in it makes a client try again by itself."""
        if self._ended:
            return
        document = self._wire.error(refused.status, refused.message, refused.code)
        if self._begun:
            # The status is sent already. Every format has a way to say it within the stream.
            kind = b"event: error\n" if "type" in document else b""
            await self.piece(kind + b"data: " + msgspec.json.encode(document) + b"\n\n")
            await self.end()
            return
        # Clients that retry would go on until they are killed: neither a budget nor a rule changes by asking again.
        final = {} if refused.status >= 500 else {"x-should-retry": "false"}
        await self.document(refused.status, document, **final)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        raw.append((b"cache-control", b"no-store"))
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
