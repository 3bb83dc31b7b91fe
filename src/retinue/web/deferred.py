"""Answers that wait for something: for what can only happen after the commit, or for the first bytes of a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send


class Deferred(Response):
    """Says "accepted" to the idempotency store and waits for the real answer once the scope has committed.

    ``?wait=true`` needs it: the run it waits for starts with the commit. A repetition with the same idempotency key
    gets the accepted answer, with the URL of what is going on.

    Args:
        accepted: the answer when nobody waits.
        finish: waits, without holding the scope, and returns the response; faults become problems.
        status_code: of the accepted answer.
    """

    media_type = "application/json"

    def __init__(
        self,
        accepted: BaseModel | Mapping[str, Any],
        finish: Callable[[], Awaitable[Response | None]],
        *,
        status_code: int = 202,
    ) -> None:
        content = accepted.model_dump_json() if isinstance(accepted, BaseModel) else orjson.dumps(accepted)
        super().__init__(content, status_code)
        self._finish = finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait, then send the real answer; the accepted one when the waiting was in vain."""
        response = await self._finish()
        if response is None:
            await super().__call__(scope, receive, send)
        else:
            await response(scope, receive, send)


class Flowing(StreamingResponse):
    """A stream of bytes whose first piece is there before the answer begins.

    So a fault at its start becomes a problem, and not an answer that is cut. The stream is closed at the end, also when
    the client goes away.
    """

    def __init__(self, pieces: AsyncGenerator[Any], *, status_code: int, headers: Mapping[str, str]) -> None:
        self._pieces = pieces
        super().__init__(pieces, status_code, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the first piece, then send all of them."""
        async with aclosing(self._pieces):
            try:
                first = await anext(self._pieces)
            except StopAsyncIteration:
                first = b""
            self.body_iterator = self._all(first)
            await super().__call__(scope, receive, send)

    async def _all(self, first: Any) -> AsyncIterator[Any]:
        yield first
        async for piece in self._pieces:
            yield piece
