"""The paths that are not a model's: the list of models, and those that steer the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import orjson

from tests.support.model_server.http import Exchange
from tests.support.model_server.script import Script

if TYPE_CHECKING:
    from tests.support.model_server.server import ModelServer

MODELS = ("stub-0ms", "stub-1s", "stub-0ms-20x50ms", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-flash")
_DEFAULT_WAIT = 10.0


class Control:
    """GET /v1/models, POST /_script, POST /_release, POST /_reset, GET /_log, GET /_counts, GET /_wait."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    async def handle(self, exchange: Exchange) -> None:
        """Answer a request to one of these paths; anything else is 404."""
        match exchange.method, exchange.path:
            case "GET", "/v1/models" | "/v1beta/models":
                exchange.answer(200, _models())
            case "POST", "/_script":
                self._script(exchange)
            case "POST", "/_release":
                self._server.release(orjson.loads(exchange.body)["hold"])
                exchange.answer(200, b"{}")
            case "POST", "/_reset":
                self._server.reset()
                exchange.answer(200, b"{}")
            case "GET", "/_log":
                after = int(exchange.query.get("after", 0))
                records = [record.as_json() for record in self._server.requests if record.number > after]
                exchange.answer(200, orjson.dumps(records))
            case "GET", "/_counts":
                exchange.answer(200, orjson.dumps(self._server.log.counts()))
            case "GET", "/_wait":
                await self._wait(exchange)
            case _:
                exchange.answer(404, b'{"error": {"message": "no such path"}}')

    def _script(self, exchange: Exchange) -> None:
        try:
            self._server.add_script(msgspec.json.decode(exchange.body, type=Script))
        except msgspec.ValidationError as error:
            exchange.answer(400, orjson.dumps({"error": {"message": str(error)}}))
            return
        exchange.answer(200, b"{}")

    async def _wait(self, exchange: Exchange) -> None:
        query, log = exchange.query, self._server.log
        state, contains, model = query.get("state"), query.get("contains"), query.get("model")
        count, timeout = int(query.get("count", 1)), float(query.get("timeout", _DEFAULT_WAIT))
        found = await log.wait(lambda: log.count(state, contains, model) >= count, timeout)
        exchange.answer(200 if found else 408, orjson.dumps({"found": found}))


def _models() -> bytes:
    """One document that OpenAI, Anthropic and Google clients can all read."""
    data = [
        {
            "id": name,
            "object": "model",
            "type": "model",
            "display_name": name,
            "created": 0,
            "created_at": "2026-01-01T00:00:00Z",
            "owned_by": "model-server",
        }
        for name in MODELS
    ]
    google = [{"name": f"models/{name}", "displayName": name} for name in MODELS]
    return orjson.dumps({"object": "list", "data": data, "has_more": False, "models": google})
