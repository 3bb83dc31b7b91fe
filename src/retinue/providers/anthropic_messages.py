"""Anthropic's messages API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import httpx2
from anthropic import AsyncAnthropic
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider

from retinue.providers.backend import Beat, Endpoint, OnDelta, Reply
from retinue.providers.messages import ModelRequest
from retinue.providers.reading import KEPT_MODELS, asked, read_events, translated_failures

# Said here, because the client would otherwise take an address from the environment, with whosever key it is.
_PUBLIC = "https://api.anthropic.com"


class AnthropicMessages:
    """The models of one Anthropic endpoint."""

    def __init__(self, endpoint: Endpoint, http: httpx2.AsyncClient) -> None:
        self._client = AsyncAnthropic(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url or _PUBLIC,
            http_client=http,
            timeout=http.timeout,
            max_retries=0,
        )
        provider = AnthropicProvider(anthropic_client=self._client)
        self._model = lru_cache(maxsize=KEPT_MODELS)(partial(AnthropicModel, provider=provider))

    async def ask(self, model: str, request: ModelRequest, on_delta: OnDelta, beat: Beat) -> Reply:
        """Ask a model once; see :class:`~retinue.providers.backend.Backend`."""
        with translated_failures():
            async with asked(self._model(model), request) as stream:
                return await read_events(stream, on_delta, beat)

    async def list_models(self) -> Sequence[str]:
        """Return what the endpoint says it serves."""
        with translated_failures():
            return [model.id async for model in self._client.models.list()]
