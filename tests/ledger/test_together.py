"""Appends that are units of work by themselves: they share a transaction, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

import pytest

import retinue.database.together as together
from retinue.database import Database
from retinue.kernel import Conflict, Queries, Services, Unavailable
from retinue.ledger import Event, Feed, append, event
from retinue.ledger.append import _APPEND_ALONE
from tests.support.databases import Cluster
from tests.support.scopes import ledger_services, scope_of
from tests.support.waiting import until_blocked_or_done


@event("test.together")
class Noted(Event, frozen=True, kw_only=True):
    number: int


@pytest.fixture
async def services(database: Database) -> AsyncIterator[Services]:
    found = ledger_services(database)
    await found.get(Feed).open()
    yield found
    await found.get(Feed).close()


async def record(services: Services, tenant: UUID, stream: str = "test:a", expected: int = 0) -> None:
    async with scope_of(services, tenant) as scope:
        await append(scope, stream, expected, [Noted(number=expected + 1)])


async def all_at_once(services: Services, tenants: Sequence[UUID], **more: Any) -> list[BaseException | None]:
    return await asyncio.gather(*(record(services, tenant, **more) for tenant in tenants), return_exceptions=True)


async def numbers(services: Services, tenant: UUID) -> list[tuple[int, str, int]]:
    found = await services.get(Feed).read(tenant, 0)
    return [(one.position, one.stream, one.version) for one in found]


async def transactions(database: Database, tenants: Sequence[UUID]) -> set[int]:
    """Return the numbers of the transactions that wrote the tenants' events."""
    found: set[int] = set()
    for tenant in tenants:
        async with database.transaction(tenant) as uow:
            found |= {row[0] for row in await uow.queries.fetch("SELECT xmin::text::bigint FROM events")}
    return found


async def test_appends_of_several_tenants_share_a_transaction_and_keep_apart(
    services: Services, database: Database
) -> None:
    tenants = [uuid4() for _ in range(20)]
    assert await all_at_once(services, tenants) == [None] * 20
    assert len(await transactions(database, tenants)) == 1
    for tenant in tenants:
        assert await numbers(services, tenant) == [(1, "test:a", 1)]
    async with database.routing() as queries:
        assert await queries.fetchval("SELECT current_setting('app.tenant_id', true)") in (None, "")
        assert await queries.fetchval("SELECT current_setting('lock_timeout')") == "15s"
        assert await queries.fetchval("SELECT count(*) FROM events") == 0


async def test_appends_of_one_tenant_are_numbered_without_gaps(services: Services, database: Database) -> None:
    tenant = uuid4()
    results = await asyncio.gather(*(record(services, tenant, f"test:{number}") for number in range(150)))
    assert results == [None] * 150
    assert [position for position, _, _ in await numbers(services, tenant)] == list(range(1, 151))
    assert len(await transactions(database, [tenant])) == 3


async def test_a_conflict_fails_its_own_append_only(services: Services) -> None:
    good, bad = [uuid4() for _ in range(6)], [uuid4() for _ in range(3)]
    await all_at_once(services, bad)
    mixed = [*good[:3], bad[0], *good[3:], *bad[1:]]
    results = dict(zip(mixed, await all_at_once(services, mixed), strict=True))
    assert {tenant for tenant, result in results.items() if result is None} == set(good)
    assert {type(results[tenant]) for tenant in bad} == {Conflict}
    for tenant in mixed:
        assert await numbers(services, tenant) == [(1, "test:a", 1)]


async def test_the_conflict_test_sees_a_group_that_fails_as_a_whole(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_refused", lambda error: False)
    with pytest.raises(AssertionError):
        await test_a_conflict_fails_its_own_append_only(services)


async def test_of_equal_appends_at_once_one_is_kept(services: Services) -> None:
    tenant = uuid4()
    results = await all_at_once(services, [tenant] * 10)
    assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 9 + ["NoneType"]
    assert await numbers(services, tenant) == [(1, "test:a", 1)]


async def test_what_the_database_cannot_store_fails_alone(services: Services) -> None:
    tenant, other = uuid4(), uuid4()
    results = await asyncio.gather(
        record(services, tenant), record(services, tenant, "test:\x00"), record(services, other), return_exceptions=True
    )
    assert [result is None for result in results] == [True, False, True]
    assert await numbers(services, tenant) == [(1, "test:a", 1)]


@contextlib.asynccontextmanager
async def holding(database: Database, tenant: UUID) -> AsyncIterator[Queries]:
    """Hold the lock on a tenant's head."""
    async with database.transaction(tenant) as uow:
        await uow.queries.execute("UPDATE heads SET position = position")
        yield uow.queries


@pytest.mark.fault
async def test_nobody_waits_for_another_tenants_head(services: Services, database: Database) -> None:
    stuck, others = uuid4(), [uuid4() for _ in range(5)]
    await record(services, stuck)
    async with holding(database, stuck):
        waiting = asyncio.create_task(record(services, stuck, expected=1))
        async with asyncio.timeout(2):
            assert await all_at_once(services, others) == [None] * 5
            assert await all_at_once(services, others, expected=1) == [None] * 5
        assert not waiting.done()
    await asyncio.wait_for(waiting, 5)
    assert [position for position, _, _ in await numbers(services, stuck)] == [1, 2]


@pytest.mark.fault
async def test_the_test_of_the_head_sees_a_group_that_waits(
    services: Services, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        import_module("retinue.ledger.append"), "_APPEND_ALONE", _APPEND_ALONE.replace("$17", "$17 AND false")
    )
    with pytest.raises(Unavailable):  # what the time-out becomes on its way out of a transaction
        await test_nobody_waits_for_another_tenants_head(services, database)


@pytest.fixture
async def small(postgres: Cluster, database_name: str) -> AsyncIterator[Database]:
    """A pool of one connection."""
    found = Database(postgres.dsn(database_name), size=1)
    await found.open()
    yield found
    await found.close()


@pytest.mark.fault
async def test_a_connection_that_is_cut_fails_all_that_were_on_it(
    services: Services, database: Database, small: Database
) -> None:
    """Whether they were committed is not known, so none is sent again."""
    tenant = uuid4()
    await record(services, tenant)
    async with small.routing() as queries:
        pid = await queries.fetchval("SELECT pg_backend_pid()")
    async with holding(database, tenant) as queries:
        writing = asyncio.create_task(all_at_once(ledger_services(small), [tenant] * 3, expected=1))
        await until_blocked_or_done(database, writing)
        await queries.fetchval("SELECT pg_terminate_backend($1)", pid)
        async with asyncio.timeout(5):
            assert {type(result) for result in await writing} == {Unavailable}
    assert len(await numbers(services, tenant)) == 1
    await record(ledger_services(small), tenant, expected=1)


@pytest.mark.fault
async def test_the_test_of_the_cut_sees_appends_that_are_sent_again(
    services: Services, database: Database, small: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_refused", lambda error: True)
    with pytest.raises(Unavailable):  # what the time-out becomes on its way out of a transaction
        await test_a_connection_that_is_cut_fails_all_that_were_on_it(services, database, small)


async def test_who_is_cancelled_before_it_is_sent_writes_nothing(services: Services) -> None:
    tenant, other = uuid4(), uuid4()
    first, second = (asyncio.create_task(record(services, one)) for one in (tenant, other))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert await numbers(services, tenant) == []


async def test_the_feed_shows_an_append_whose_writer_was_cancelled_too_late(
    services: Services, database: Database
) -> None:
    tenant, feed = uuid4(), services.get(Feed)
    feed.alone = True  # no poll would find it
    await record(services, tenant)
    subscription = await feed.subscribe(tenant)
    async with holding(database, tenant):
        writer = asyncio.create_task(record(services, tenant, expected=1))
        await until_blocked_or_done(database, writer)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        assert writer.cancelled()
    assert [one.position for one in await subscription.next(5)] == [2]
