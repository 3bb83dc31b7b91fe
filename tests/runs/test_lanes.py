"""The emergency stop and lanes that are made while it comes or goes: nothing starts in a tenant that is stopped."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from retinue import tenancy
from retinue.database import Database
from retinue.kernel import Scope, Services
from retinue.runs import lanes
from retinue.tenancy import commands
from retinue.tenancy.room import ROOM
from tests.support.scopes import ledger_services, scope_of


@pytest.fixture
async def services(database: Database, monkeypatch: pytest.MonkeyPatch) -> Services:
    """What the stop needs; of its consequences only that for lanes."""
    monkeypatch.setattr(commands, "stop_hooks", [lanes.set_stopped])
    return ledger_services(database, ROOM.projections)


@pytest.fixture
async def tenant(services: Services) -> UUID:
    tenant_id = uuid4()
    async with scope_of(services, tenant_id, user_id=uuid4()) as scope:
        await tenancy.found(scope, "office", personal=False)
    return tenant_id


async def _stop(services: Services, tenant: UUID) -> None:
    async with scope_of(services, tenant) as scope:
        await commands.stop(scope, "a test")


async def _enter(services: Services, tenant: UUID, agent: UUID) -> bool:
    async with scope_of(services, tenant) as scope:
        return await lanes.enter(scope, agent, concurrency=1, queue=10)


async def test_an_agent_that_was_paused_while_the_tenant_is_stopped_starts_nothing(
    services: Services, tenant: UUID
) -> None:
    agent = uuid4()
    await _stop(services, tenant)
    for paused in (True, False):
        async with scope_of(services, tenant) as scope:
            await lanes.set_paused(scope, agent, paused)
    assert await _enter(services, tenant, agent) is False


async def _beside(services: Services, scope: Scope, agent: UUID) -> asyncio.Task[bool]:
    """Have an agent asked for the first time in another transaction, which goes as far as it gets."""
    entering = asyncio.create_task(_enter(services, scope.tenant_id, agent))
    mine = await scope.queries.fetchval("SELECT pg_backend_pid()")
    async with asyncio.timeout(60):
        while not entering.done():
            if await scope.queries.fetchval(
                "SELECT count(*) FROM pg_locks WHERE $1 = ANY(pg_blocking_pids(pid))", mine
            ):
                break
            await asyncio.sleep(0.01)
    return entering


@pytest.mark.fault
async def test_an_agent_that_is_first_asked_while_the_stop_comes_starts_nothing(
    services: Services, tenant: UUID
) -> None:
    agent = uuid4()
    async with scope_of(services, tenant) as scope:
        await commands.stop(scope, "a test")
        entering = await _beside(services, scope, agent)
    assert await entering is False


@pytest.mark.fault
async def test_an_agent_that_is_first_asked_while_the_stop_ends_is_not_stopped_for_ever(
    services: Services, tenant: UUID
) -> None:
    agent = uuid4()
    await _stop(services, tenant)
    async with scope_of(services, tenant) as scope:
        await commands.resume(scope)
        entering = await _beside(services, scope, agent)
    assert await entering is True
