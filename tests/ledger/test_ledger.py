"""The ledger on a real database: numbering, conflicts, fences, the feed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from retinue.database import Database
from retinue.kernel import Conflict, Scope, Services
from retinue.ledger import (
    Event,
    Feed,
    Projection,
    Recorded,
    UnknownEvent,
    append,
    decode,
    event,
    read_stream,
    stream_version,
    upcaster,
)
from tests.support.scopes import ledger_services, scope_of


@event("test.counted")
class Counted(Event, frozen=True, kw_only=True):
    number: int
    label: str = ""


@pytest.fixture
async def services(database: Database) -> AsyncIterator[Services]:
    found = ledger_services(database)
    await found.get(Feed).open()
    yield found
    await found.get(Feed).close()


async def record(services: Services, tenant: UUID, stream: str, expected: int, *numbers: int) -> None:
    async with scope_of(services, tenant) as scope:
        await append(scope, stream, expected, [Counted(number=number) for number in numbers])


async def test_positions_are_gapless_and_versions_follow_the_stream(services: Services) -> None:
    tenant = uuid4()
    await record(services, tenant, "test:a", 0, 1, 2)
    await record(services, tenant, "test:b", 0, 3)
    await record(services, tenant, "test:a", 2, 4)
    events = await services.get(Feed).read(tenant, 0)
    assert [one.position for one in events] == [1, 2, 3, 4]
    assert [(one.stream, one.version) for one in events] == [("test:a", 1), ("test:a", 2), ("test:b", 1), ("test:a", 3)]
    async with scope_of(services, tenant) as scope:
        numbers = [one.event.number for one in await read_stream(scope, "test:a") if isinstance(one.event, Counted)]
        assert numbers == [1, 2, 4]
        assert await stream_version(scope, "test:a") == 3
        assert await stream_version(scope, "test:missing") == 0


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_wrong_expected_version_writes_nothing(services: Services, expected: int) -> None:
    tenant = uuid4()
    await record(services, tenant, "test:a", 0, 1, 2)

    async def clash() -> None:
        async with scope_of(services, tenant) as scope:
            await append(scope, "test:fine", 0, [Counted(number=9)])
            await append(scope, "test:a", expected, [Counted(number=3)])

    with pytest.raises(Conflict, match="test:a"):
        await clash()
    assert await services.get(Feed).position(tenant) == 2


async def test_of_many_writers_of_one_version_one_wins(services: Services) -> None:
    tenant = uuid4()
    results = await asyncio.gather(
        *(record(services, tenant, "test:race", 0, number) for number in range(20)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert all(result is None or isinstance(result, Conflict) for result in results)


async def test_another_tenant_sees_and_changes_nothing(services: Services, database: Database) -> None:
    mine, theirs = uuid4(), uuid4()
    await record(services, mine, "test:a", 0, 1)
    async with scope_of(services, theirs) as scope:
        assert await read_stream(scope, "test:a") == []
        assert await scope.queries.fetchval("SELECT count(*) FROM events") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.transaction(theirs) as uow:
            await uow.queries.execute("INSERT INTO heads VALUES ($1, 1)", mine)
    for statement in ("UPDATE events SET data = ''", "DELETE FROM events", "TRUNCATE events"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.transaction(mine) as uow:
                await uow.queries.execute(statement)
    async with database.routing() as queries:
        assert await queries.fetchval("SELECT count(*) FROM events") == 0


async def test_a_projection_sees_the_event_in_the_same_transaction(database: Database) -> None:
    seen: list[int] = []

    async def on_counted(scope: Scope, recorded: Recorded[Counted]) -> None:
        seen.append(recorded.event.number)
        if recorded.event.number == 13:
            raise RuntimeError("planted")

    services = ledger_services(database, [Projection({Counted: on_counted})])
    tenant = uuid4()
    await record(services, tenant, "test:a", 0, 1)
    with pytest.raises(RuntimeError, match="planted"):
        await record(services, tenant, "test:a", 1, 13)
    assert seen == [1, 13]
    assert await services.get(Feed).position(tenant) == 1


async def test_the_feed_delivers_everything_once_in_order(services: Services) -> None:
    tenant, feed = uuid4(), services.get(Feed)
    subscription = await feed.subscribe(tenant, after=0)
    seen: list[int] = []

    async def follow() -> None:
        async for batch in subscription:
            seen.extend(one.position for one in batch)
            if len(seen) >= 200:
                return

    reader = asyncio.create_task(follow())
    await asyncio.gather(*(record(services, tenant, f"test:{n}", 0, *range(5)) for n in range(40)))
    await asyncio.wait_for(reader, 10)
    assert seen == list(range(1, 201))


async def test_the_feed_hears_of_another_process(services: Services, database: Database) -> None:
    tenant, feed = uuid4(), services.get(Feed)
    subscription = await feed.subscribe(tenant, after=0)
    elsewhere = ledger_services(database)
    await elsewhere.get(Feed).open()
    await record(elsewhere, tenant, "test:far", 0, 7)
    batch = await subscription.next(timeout=5)
    await elsewhere.get(Feed).close()
    assert [one.position for one in batch] == [1]


async def test_a_reader_that_resumes_far_back_gets_the_rest_from_the_table(services: Services) -> None:
    tenant, feed = uuid4(), services.get(Feed)
    await record(services, tenant, "test:a", 0, *range(1200))
    late = await feed.subscribe(tenant, after=3)
    seen: list[int] = []
    while len(seen) < 1197:
        seen.extend(one.position for one in await late.next(timeout=5))
    assert seen == list(range(4, 1201))


def test_old_shapes_are_read_through_upcasters_and_unknown_types_are_kept() -> None:
    @event("test.renamed", schema=2)
    class Renamed(Event, frozen=True, kw_only=True):
        fresh: str

    upcaster("test.renamed", 1)(lambda data: {"fresh": data["stale"]})
    assert decode("test.renamed", 1, '{"stale":"x"}') == Renamed(fresh="x")
    assert decode("test.gone", 1, '{"a":1}') == UnknownEvent(raw='{"a":1}')
    with pytest.raises(ValueError, match="schema 3"):
        decode("test.renamed", 3, "{}")


def test_a_type_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):

        @event("test.counted")
        class Other(Event, frozen=True, kw_only=True):
            pass
