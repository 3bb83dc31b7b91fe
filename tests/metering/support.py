"""Metering on a real database: services, calls that reserve and settle, and what the tables say."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from prometheus_client import REGISTRY
from prometheus_client.openmetrics.exposition import generate_latest

from retinue import metering
from retinue.database import Database
from retinue.kernel import Clock, Scope, Services, Settings
from retinue.metering import commands, pricing, quotas, views
from retinue.metering.events import Period
from retinue.metering.rules import BEGINNING, Budget
from tests.support.numbers import number
from tests.support.running import RETINUE, RunningServer
from tests.support.scopes import ledger_services, scope_of

DOLLAR = 1_000_000_000


def metering_services(database: Database) -> Services:
    """The ledger with metering's projections, and settings."""
    services = ledger_services(database, [views.PROJECTION, pricing.PROJECTION, quotas.PROJECTION])
    services.add(Settings, Settings())
    return services


def total(name: str, **labels: str) -> float:
    """Return a number of /metrics of this process."""
    text: bytes = generate_latest(REGISTRY)  # type: ignore[no-untyped-call]  # the library leaves it unannotated
    try:
        return number(text.decode(), name, **labels)
    except LookupError:
        return 0.0


def operator(server: RunningServer, *arguments: str) -> tuple[int, str, str]:
    """Run a command as whoever runs the server does: with its settings, on its machine."""
    command = [str(RETINUE), *arguments]
    ended = subprocess.run(command, env=server.environment(), capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@dataclass
class Spender:
    """A tenant with one user and one agent, whose calls are metered."""

    services: Services
    clock: Clock | None = None
    tenant: UUID = field(default_factory=uuid4)
    user: UUID = field(default_factory=uuid4)
    agent: UUID = field(default_factory=uuid4)

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[Scope]:
        async with scope_of(self.services, self.tenant, user_id=self.user, clock=self.clock) as scope:
            yield scope

    async def set(self, subject: UUID, limit: int, period: Period = "total") -> Budget:
        async with self.scope() as scope:
            return await commands.set_budget(scope, subject, limit, period)

    async def remove(self, subject: UUID) -> None:
        async with self.scope() as scope:
            await commands.remove_budget(scope, subject)

    async def check(self) -> bool:
        async with self.scope() as scope:
            return await metering.check(scope, self.agent)

    async def reserve(self, run: UUID, amount: int | None, step: int = 1) -> None:
        async with self.scope() as scope:
            await metering.reserve(scope, agent_id=self.agent, run_id=run, step=step, amount=amount)

    async def settle(self, run: UUID, cost: int | None, step: int = 1, model: str = "openai:gpt-5-mini") -> None:
        async with self.scope() as scope:
            await self.settle_in(scope, run, cost, step, model)

    async def settle_in(
        self, scope: Scope, run: UUID, cost: int | None, step: int = 1, model: str = "openai:gpt-5-mini"
    ) -> None:
        await metering.settle(
            scope,
            agent_id=self.agent,
            user_id=self.user,
            run_id=run,
            step=step,
            model=model,
            input_tokens=100,
            output_tokens=10,
            cost=cost,
        )

    async def release(self, run: UUID) -> None:
        async with self.scope() as scope:
            await metering.release_run(scope, run)

    async def budget(self, subject: UUID) -> Budget | None:
        async with self.scope() as scope:
            return await views.budget_for(scope, subject)

    async def used(self) -> views.Used:
        async with self.scope() as scope:
            return await views.used_since(scope, self.tenant, BEGINNING)

    async def held(self) -> int:
        """How many reservations the tenant has, settled ones included."""
        async with self.scope() as scope:
            count: int = await scope.queries.fetchval("SELECT count(*) FROM reservations")
            return count
