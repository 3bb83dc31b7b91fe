"""Reading bodies strictly: right type, within the limit, and JSON that every room can store (RFC 8259, RFC 7493).

A body that passes holds no NUL (PostgreSQL stores none), no lone surrogate, no NaN, no repeated name, no number a
64-bit column cannot hold, and is not nested deeper than :data:`MAX_DEPTH`. What fails names the field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator
from typing import Any, NoReturn

from fastapi import Request
from starlette.requests import ClientDisconnect

from retinue.kernel import BadInput, PayloadTooLarge, UnsupportedMediaType
from retinue.web.digests import BodyCheck
from retinue.web.problems import Malformed

MAX_DEPTH = 32
_MAX_INTEGER = 2**63 - 1
# What only the slow look at every value can judge: escapes (NUL, surrogates) and long numbers.
_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9]{19}")


def _refuse_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is no JSON. Use null, or leave the field out.")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadInput(f"The number {text[:20]} is too large.", field="body")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"The name {twice[:100]!r} is given twice in one object.", field=_printable(twice))
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)


def parse_json(raw: bytes) -> Any:
    """Read a JSON document.

    Raises:
        Malformed: it is not UTF-8, or not JSON; the position is named.
        BadInput: it is JSON that is refused; the field is named.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not UTF-8 (byte {error.start}).") from None
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None
    except RecursionError:
        raise BadInput(f"The body is nested deeper than {MAX_DEPTH} levels.", field="body") from None
    except ValueError:  # a number of thousands of digits, which Python refuses to convert
        raise BadInput("A number in the body is too long.", field="body") from None
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH or _SUSPICIOUS.search(raw):
        _look_at(value)
    return value


def _look_at(document: Any) -> None:
    """Check every value, without recursion; the path of the first bad one is in the fault."""
    left: list[tuple[str, int, Any]] = [("", 1, document)]
    while left:
        path, depth, value = left.pop()
        if isinstance(value, str):
            _check_text(value, path)
        elif isinstance(value, dict):
            _check_depth(depth, path)
            for name, inside in value.items():
                _check_text(name, path)
                left.append((f"{path}.{name}" if path else name, depth + 1, inside))
        elif isinstance(value, list):
            _check_depth(depth, path)
            left.extend((f"{path}.{n}" if path else str(n), depth + 1, inside) for n, inside in enumerate(value))
        elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
            raise BadInput(f"{_printable(path)}: the number does not fit 64 bits.", field=_printable(path))


def _check_depth(depth: int, path: str) -> None:
    if depth > MAX_DEPTH:
        raise BadInput(f"The body is nested deeper than {MAX_DEPTH} levels.", field=_printable(path))


def _check_text(text: str, path: str) -> None:
    if "\x00" in text:
        raise BadInput(f"{_printable(path)}: the character NUL is not allowed in text.", field=_printable(path))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        field = _printable(path)
        raise BadInput(f"{field}: half of a surrogate pair is no character.", field=field) from None


def _printable(path: str) -> str:
    """Return a path that can be put into a response: bounded, and every character encodable."""
    return path[:200].encode("utf-8", "replace").decode().replace("\x00", "?") or "body"


def is_json(content_type: str) -> bool:
    """Return whether a ``Content-Type`` means JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


class BodyCut(Malformed):
    """The client went away in the middle of a body."""


async def stream_body(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield a body that is no document piece by piece, up to a limit of its own.

    A signed body is known to be the right one only when this has ended.

    Raises:
        PayloadTooLarge: it is over ``limit`` bytes; announced or not.
        BodyCut: the client went away.
        Unauthenticated: at the end, when it is not the body that was signed.
    """
    assert isinstance(request, BoundedRequest)  # every route's request is one
    request.limit = limit
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect:
        raise BodyCut("The body ended too early.") from None


class BoundedRequest(Request):
    """A request whose body is limited in size, whoever reads it and however, and whose JSON is read strictly.

    A signed request's body is held against its digest while it is read. Whoever takes it in pieces must not act on
    them before the last one has come.
    """

    limit: int = 0
    check: BodyCheck | None = None
    parsed: Any = None

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body in pieces.

        Raises:
            PayloadTooLarge: it is over the limit; announced or not.
            Unauthenticated: at the end, when it is not the body that was signed.
        """
        if hasattr(self, "_body"):
            yield self._body
            yield b""
            return
        self._check_announced()
        total = 0
        async for chunk in super().stream():
            total += len(chunk)
            if total > self.limit:
                raise self._too_large()
            if self.check is not None:
                if chunk:
                    self.check.update(chunk)
                else:
                    self.check.finish()
            yield chunk

    def _check_announced(self) -> None:
        announced = self.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self.limit:
            raise self._too_large()

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body may have up to {self.limit:,} bytes.")

    async def json(self) -> Any:
        """Return the body as it was read by :meth:`read_json`."""
        return self.parsed

    async def read_json(self) -> bytes:
        """Read and check a JSON body; an empty one is left to the route's own validation.

        Raises:
            UnsupportedMediaType: there is a body, and it does not say that it is JSON.
            Malformed, BadInput, PayloadTooLarge: see :func:`parse_json` and :meth:`stream`.
        """
        self._check_announced()
        content_type = self.headers.get("content-type", "")
        if content_type and not is_json(content_type):
            raise UnsupportedMediaType("Send application/json.")
        try:
            raw = await self.body()
        except ClientDisconnect:
            raise Malformed("The body ended too early.") from None
        if raw:
            if not content_type:
                raise UnsupportedMediaType("Send the header Content-Type: application/json.")
            self.parsed = parse_json(raw)
        return raw
