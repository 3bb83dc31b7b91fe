"""Reading what a caller sends: bounded in size and time, and understood in one way only.

What goes on to the provider is written anew from what was read and checked here, so nothing in it can be read in two
ways. A name that is given twice is refused where the call is steered, at the top; deeper, the last one counts, here and
there.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NoReturn

import msgspec

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_SECONDS = 60.0
"""How long a caller may take to send a body."""


_JSON = "application/json"


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
    if headers.get("content-type", _JSON).partition(";")[0].strip().lower() != _JSON:
        raise Refused(415, "Send application/json.", "content_type")
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
        raise Refused(400, "The body is not JSON, or a name is given twice in it.", "invalid_json") from None
    if not isinstance(document, dict):
        raise Refused(400, "The body is not a JSON object.", "invalid_json")
    if not isinstance(document.get("stream"), bool | None):
        raise Refused(400, "stream: true or false.", "invalid_request")
    return document


def _decoded(raw: bytes) -> Any:
    """Read JSON (RFC 8259). Raises ValueError, and RecursionError where it is nested too deeply."""
    try:
        document = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        # Programs that cut texts send halves of surrogate pairs, which only the other reader takes.
        return _read_strictly(raw)
    # It reads many times faster, and says nothing of names that are given twice. Those are seen by what is missing
    # when the values that were kept are put together again.
    return document if _adds_up(raw) else _read_strictly(raw)


def _adds_up(raw: bytes) -> bool:
    """Whether every byte of an object, written without spaces, belongs to a name or value that is kept."""
    compact = msgspec.json.format(raw, indent=-1)
    try:
        values = msgspec.json.decode(compact, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return True  # no object, which its reader says
    kept = sum(len(msgspec.json.encode(name)) + len(bytes(value)) + 2 for name, value in values.items())
    return len(compact) == kept + 1 or not values


def _read_strictly(raw: bytes) -> Any:
    return json.loads(
        raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


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
