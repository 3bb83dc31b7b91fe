"""The providers that come with Retinue pass the suite that plugins pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from retinue.providers import Providers
from retinue.providers.conformance import KEY, ProviderSuite
from tests.providers.stub import settings_for
from tests.support.model_server import ModelServer, Step, ToolCall


class Scripted:
    """A stage on the scripted model server."""

    def __init__(self, server: ModelServer, providers: Providers, model: str) -> None:
        self.server = server
        self.providers = providers
        self.model = model

    def says(self, text: str, *, deltas: int = 1) -> None:
        self.server.script(Step(text=text, deltas=deltas))

    def calls(self, name: str, arguments: dict[str, Any]) -> None:
        self.server.script(Step(tool_calls=(ToolCall(name, arguments),)))

    def gives(self, value: Any) -> None:
        self.server.script(Step(value=value))

    def fails(self, status: int) -> None:
        self.server.script(Step(status=status, message=f"no: your key is {KEY}"))

    def hangs(self) -> None:
        self.server.script(Step(hang=True))

    def breaks_off(self, after: int) -> None:
        self.server.script(Step(text="a b c d e f g h", deltas=8, gap=0.01, cut_after=after))

    async def until_asked(self) -> None:
        await self.server.wait_for_requests(1)

    async def until_left(self, seconds: float) -> None:
        await self.server.wait_for_requests(1, state="cut_by_client", timeout=seconds)


WIRES = ("openai:gpt-5-mini", "openai:some-local-model", "anthropic:claude-haiku-4-5", "google:gemini-2.5-flash")


class TestProviders(ProviderSuite):
    """Each wire format; a local model's name takes another way through Pydantic AI than one of OpenAI's."""

    @pytest.fixture(params=WIRES)
    async def stage(self, request: pytest.FixtureRequest) -> AsyncIterator[Scripted]:
        """A fresh server and fresh clients for each test."""
        async with ModelServer() as server:
            providers = Providers(settings_for(server, key=KEY, model_attempts=1))
            yield Scripted(server, providers, request.param)
            await providers.close()
