"""Passing a call on to a provider in the provider's own format: with our key, and nothing of the caller's but the body.

Nothing is tried again and no other model is asked: the caller's own client does what it does with such answers.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec

from retinue.providers import prices
from retinue.providers.backend import Endpoint
from retinue.providers.failures import SHORTEST_KEY, ModelFailed, clean
from retinue.providers.watch import count_passed
from retinue.providers.wires import Call, Tally, Wire

_LARGEST_ERROR = 65_536
_DEEPEST = 20
# What an answer tells besides its body. Anything else speaks of the account whose key it is.
_TOLD = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "request-id", "x-request-id")


class Upstream:
    """A provider's answer that is being received.

    Attributes:
        status: its HTTP status.
        headers: those that are passed on.
    """

    def __init__(self, response: httpx2.Response, wire: Wire, endpoint: Endpoint) -> None:
        self.status = response.status_code
        self.headers = {name: value for name in _TOLD if (value := response.headers.get(name)) is not None}
        self._response = response
        self._wire = wire
        self._key = endpoint.api_key if len(endpoint.api_key) >= SHORTEST_KEY else ""

    @property
    def streams(self) -> bool:
        """Whether the answer comes as server-sent events."""
        return self._response.headers.get("content-type", "").partition(";")[0].strip() == "text/event-stream"

    def pieces(self) -> AsyncIterator[bytes]:
        """Give what comes, as it comes; nothing is read before it is asked for.

        Raises:
            ModelFailed: ``unreachable``: the connection broke.
        """
        return _translated(self._response.aiter_bytes())

    async def body(self, limit: int) -> bytes:
        """Return the whole answer.

        Raises:
            ModelFailed: the connection broke, or the answer has more than ``limit`` bytes.
        """
        found = bytearray()
        async for piece in self.pieces():
            found += piece
            if len(found) > limit:
                raise ModelFailed("bad_answer", f"It has more than {limit:,} bytes.")
        return bytes(found)

    async def error(self) -> bytes:
        """Return the provider's error, in its own shape and without anything like a key."""
        try:
            document = msgspec.json.decode(await self.body(_LARGEST_ERROR))
        except (ModelFailed, msgspec.DecodeError, RecursionError):
            document = None
        if not isinstance(document, dict | list):
            document = self._wire.error(self.status, "The provider answered with an error and no words.", "provider")
        return msgspec.json.encode(_scrubbed(document, self._key, _DEEPEST))

    def without_key(self, piece: bytes) -> bytes:
        """Return a piece of an answer, without our key should the provider repeat it."""
        key = self._key.encode()
        return piece.replace(key, b"[removed]") if key and key in piece else piece


class Passage:
    """The way to one provider for the calls of one caller."""

    def __init__(self, wire: Wire, endpoint: Endpoint, http: httpx2.AsyncClient) -> None:
        self.wire = wire
        self._endpoint = endpoint
        self._http = http
        self._address = (endpoint.base_url or wire.address).rstrip("/")

    def most(self, model: str, size: int, written: int) -> tuple[int, int | None]:
        """Return what a call is unlikely to pass: its tokens, and its price in nano-dollars where that is known.

        Args:
            model: the provider's own name of it.
            size: bytes of the request.
            written: the most tokens of the answer.
        """
        read = prices.tokens_of(self._endpoint, model, size)
        return read + written, prices.price(self._endpoint, (model,), read, written)

    def price(self, model: str, tally: Tally) -> int | None:
        """Return what a call cost in nano-dollars; None when the price is not known."""
        names = (tally.served_by, model)
        tokens = (tally.input_tokens, tally.output_tokens, tally.cached_tokens, tally.cache_written)
        return prices.price(self._endpoint, names, *tokens)

    @asynccontextmanager
    async def send(
        self, call: Call, model: str, body: bytes, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> AsyncIterator[Upstream]:
        """Send a call; the block has its answer. Leaving the block, or cancelling it, ends the call.

        Args:
            call: what is called.
            model: the provider's own name of the model.
            body: as it goes out.
            headers, query: the caller's; the format's own are taken from them and nothing else.

        Raises:
            ModelFailed: ``unreachable``: no answer came.
        """
        url = self._address + call.path.format(model=quote(model, safe=""))
        if asked := self.wire.query(call, query):
            url += f"?{asked}"
        sent = {
            **self.wire.headers(self._endpoint.api_key, headers),
            "content-type": "application/json",
            "accept": "text/event-stream, application/json",
            "accept-encoding": "identity",  # what an answer used is read on the way
            "user-agent": "retinue",
        }
        began = time.perf_counter()
        outcome = "cancelled"
        try:
            request = self._http.build_request("POST", url, content=body, headers=sent)
            try:
                response = await self._http.send(request, stream=True)
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                outcome = "unreachable"
                raise ModelFailed("unreachable", f"({type(error).__name__})") from None
            try:
                outcome = "answered" if response.is_success else str(response.status_code)
                yield Upstream(response, self.wire, self._endpoint)
            finally:
                await response.aclose()
        finally:
            count_passed(self._endpoint.provider, outcome, time.perf_counter() - began)


async def _translated(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for piece in pieces:
            yield piece
    except (httpx2.TransportError, httpx2.DecodingError, httpx2.StreamError) as error:
        raise ModelFailed("unreachable", f"The connection broke ({type(error).__name__}).") from None


def _scrubbed(document: Any, key: str, depth: int) -> Any:
    if isinstance(document, str):
        return clean(document, key)
    if depth == 0:
        return None
    if isinstance(document, dict):
        return {clean(str(name), key): _scrubbed(value, key, depth - 1) for name, value in document.items()}
    if isinstance(document, list):
        return [_scrubbed(value, key, depth - 1) for value in document]
    return document
