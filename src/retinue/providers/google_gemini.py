"""Google's Gemini API (generateContent)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import httpx2
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.providers.google import GoogleProvider

from retinue.providers.backend import Beat, Endpoint, OnDelta, Reply
from retinue.providers.messages import ModelRequest
from retinue.providers.reading import KEPT_MODELS, asked, read_events, translated_failures

# Said here, because the client would otherwise take an address from the environment, with whosever key it is.
_PUBLIC = "https://generativelanguage.googleapis.com"


class GoogleGemini:
    """The models of one Gemini endpoint."""

    def __init__(self, endpoint: Endpoint, http: httpx2.AsyncClient) -> None:
        self._provider = GoogleProvider(
            api_key=endpoint.api_key, base_url=endpoint.base_url or _PUBLIC, http_client=http
        )
        self._model = lru_cache(maxsize=KEPT_MODELS)(partial(GoogleModel, provider=self._provider))

    async def ask(self, model: str, request: ModelRequest, on_delta: OnDelta, beat: Beat) -> Reply:
        """Ask a model once; see :class:`~retinue.providers.backend.Backend`."""
        with translated_failures():
            async with asked(self._model(model), request) as stream:
                return await read_events(stream, on_delta, beat)

    async def list_models(self) -> Sequence[str]:
        """Return what the endpoint says it serves."""
        with translated_failures():
            listed = await self._provider.client.aio.models.list()
            names = [model.name or "" async for model in listed]
        return [name.removeprefix("models/") for name in names if name]
