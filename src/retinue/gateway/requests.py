"""Reading what a caller sends: bounded in size and time, and understood in one way only.

What goes on to the provider is written anew from what was read and checked here. So there is nothing in it that was
seen in two ways, such as a name that is given twice: of those the last one counts, here and there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_SECONDS = 60.0
"""How long a caller may take to send a body."""


class Refused(Exception):
    """A call is not let through.

    Attributes:
        status: the HTTP status.
        code: a stable word for programs.
    """

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


class Gone(Exception):
    """The caller has closed the connection."""


async def read_body(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """Read a body.

    Raises:
        Refused: it is too large, or too slow.
        Gone: the caller left.
    """
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    if headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "Send the body as it is, without a content encoding.", "content_encoding")
    pieces: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                piece = message.get("body", b"")
                total += len(piece)
                if total > limit:
                    raise _too_large(limit)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        raise Refused(408, f"The body did not come within {BODY_SECONDS:g} s.", "too_slow") from None


def _too_large(limit: int) -> Refused:
    return Refused(413, f"The body may have up to {limit:,} bytes.", "too_large")


def parse(raw: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        Refused: it is none.
    """
    try:
        document = _decoded(raw)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not JSON.", "invalid_json") from None
    if not isinstance(document, dict):
        raise Refused(400, "The body is not a JSON object.", "invalid_json")
    if not isinstance(document.get("stream"), bool | None):
        raise Refused(400, "stream: true or false.", "invalid_request")
    return document


def _decoded(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        # Programs that cut texts send halves of surrogate pairs, which only this reader takes.
        return json.loads(raw)


def written(document: dict[str, Any]) -> bytes:
    """Return a document as it goes on."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return json.dumps(document).encode()


async def unless_gone(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work as long as the caller is there; the body must have been read.

    Raises:
        Gone: the caller closed the connection; the work was cancelled and has ended.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait({task, gone})
        for one in (task, gone):
            if not one.cancelled():
                one.exception()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
