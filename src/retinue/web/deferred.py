"""An answer that waits for something that can only happen after the commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response
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
