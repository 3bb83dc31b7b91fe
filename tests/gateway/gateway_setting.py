"""A gateway on a real database, a scripted provider behind it, and real clients before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
from anthropic import AsyncAnthropic
from google import genai
from google.genai import types
from openai import AsyncOpenAI

from retinue import metering
from retinue.database import Database
from retinue.gateway import Caller, Line, Rules, listen
from retinue.kernel import Clock, Scope, Services, Settings, SystemClock
from retinue.metering import commands, views
from retinue.metering.rules import Budget
from retinue.providers import Providers
from retinue.vault import Vault
from tests.providers.stub import KEY, settings_for
from tests.support.model_server import ModelServer
from tests.support.scopes import ledger_services, scope_of

__all__ = ["DOLLAR", "KEY", "Setting", "genai", "metering", "open_setting", "types"]

DOLLAR = 1_000_000_000


@dataclass
class Setting:
    """A tenant with a user and an agent, and what its calls meet."""

    services: Services
    server: ModelServer
    folder: Path
    tenant: UUID = field(default_factory=uuid4)
    user: UUID = field(default_factory=uuid4)
    agent: UUID = field(default_factory=uuid4)
    run: UUID = field(default_factory=uuid4)
    others: list[Providers] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "gateway.sock"

    def caller(self, **changes: Any) -> Caller:
        return Caller(
            **{"tenant_id": self.tenant, "user_id": self.user, "agent_id": self.agent, "run_id": self.run} | changes
        )

    @asynccontextmanager
    async def line(self, rules: Rules | None = None, **more: Any) -> AsyncIterator[Line]:
        async with listen(self.services, self.path, self.caller(), rules or Rules(), **more) as line:
            yield line

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client on the socket."""
        transport = httpx2.AsyncHTTPTransport(uds=str(self.path))
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway", timeout=20) as client:
            yield client

    @asynccontextmanager
    async def openai(self, **options: Any) -> AsyncIterator[AsyncOpenAI]:
        async with self.http() as http:
            given: dict[str, Any] = {"base_url": "http://gateway/v1", "api_key": "none", "max_retries": 0}
            yield AsyncOpenAI(http_client=http, **given | options)

    @asynccontextmanager
    async def anthropic(self, **options: Any) -> AsyncIterator[AsyncAnthropic]:
        async with self.http() as http:
            given: dict[str, Any] = {"base_url": "http://gateway", "api_key": "none", "max_retries": 0}
            yield AsyncAnthropic(http_client=http, **given | options)

    @asynccontextmanager
    async def gemini(self) -> AsyncIterator[genai.Client]:
        async with self.http() as http:
            options = types.HttpOptions(base_url="http://gateway", httpx_async_client=http)
            yield genai.Client(api_key="none", http_options=options)

    def point_at(self, url: str) -> None:
        """Let another provider stand behind the gateway."""
        settings = self.services.get(Settings)
        settings.openai_base_url = f"{url}/v1"
        settings.anthropic_base_url = settings.gemini_base_url = url
        self.others.append(self.services.add(Providers, Providers(settings)))

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[Scope]:
        async with scope_of(self.services, self.tenant, user_id=self.user) as scope:
            yield scope

    async def set_budget(self, subject: UUID, limit: int) -> None:
        async with self.scope() as scope:
            await commands.set_budget(scope, subject, limit, "total")

    async def budget(self, subject: UUID) -> Budget:
        async with self.scope() as scope:
            found = await views.budget_for(scope, subject)
        assert found is not None
        return found

    async def rows(self) -> list[tuple[Any, ...]]:
        """Model, calls, tokens read and written, cost and unpriced calls, as they are metered."""
        async with self.scope() as scope:
            found = await scope.queries.fetch(
                "SELECT model, calls, input_tokens, output_tokens, cost, unpriced FROM usage_daily ORDER BY model"
            )
        return [tuple(row) for row in found]  # type: ignore[arg-type]  # a driver's row is iterable


@asynccontextmanager
async def open_setting(database: Database, data_folder: Path, folder: Path, **settings: Any) -> AsyncIterator[Setting]:
    """Open everything."""
    async with ModelServer() as server:
        services = ledger_services(database, [views.PROJECTION])
        given = services.add(Settings, settings_for(server, data=data_folder, **settings))
        services.add(Clock, SystemClock())  # type: ignore[type-abstract]  # services are found by their protocol
        services.add(Vault, await Vault.open(given, database))
        providers = services.add(Providers, Providers(given))
        setting = Setting(services, server, folder)
        try:
            yield setting
        finally:
            for one in (providers, *setting.others):
                await one.close()
