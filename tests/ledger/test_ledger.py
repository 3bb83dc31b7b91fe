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
from tests.support.databases import Cluster
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


async def start(services: Services, tenant: UUID, kind: str, which: UUID, *numbers: int, expected: int = 0) -> None:
    async with scope_of(services, tenant) as scope:
        facts = [Counted(number=number) for number in numbers]
        run = which if kind == "run" else uuid4()
        await append(scope, f"{kind}:{which}", expected, facts, session_id=which, run_id=run)


async def numbers_of(services: Services, tenant: UUID, stream: str) -> list[tuple[int, int]]:
    async with scope_of(services, tenant) as scope:
        found = await read_stream(scope, stream)
        assert await stream_version(scope, stream) == len(found)
        return [(one.version, one.event.number) for one in found if isinstance(one.event, Counted)]


@pytest.mark.parametrize("kind", ["run", "session"])
async def test_streams_of_runs_and_sessions_of_one_id_are_apart_in_every_tenant(services: Services, kind: str) -> None:
    mine, theirs, which = uuid4(), uuid4(), uuid4()
    await start(services, mine, "run", which, 1, 2)
    await start(services, mine, "session", which, 3)
    await start(services, theirs, kind, which, 4)
    assert await numbers_of(services, mine, f"run:{which}") == [(1, 1), (2, 2)]
    assert await numbers_of(services, mine, f"session:{which}") == [(1, 3)]
    assert await numbers_of(services, theirs, f"{kind}:{which}") == [(1, 4)]
    with pytest.raises(Conflict, match=f"{kind}:{which}"):
        await start(services, theirs, kind, which, 5)
    events = await services.get(Feed).read(mine, 0)
    assert [one.stream for one in events] == [f"run:{which}", f"run:{which}", f"session:{which}"]


@pytest.mark.parametrize("kind", ["run", "session"])
async def test_a_stream_that_was_begun_with_its_name_in_full_goes_on(
    services: Services, database: Database, kind: str
) -> None:
    """Rows of before the ids of runs and sessions were left out of the streams' names stay as they are."""
    tenant, which = uuid4(), uuid4()
    await start(services, tenant, kind, which, 1)
    async with database.transaction(tenant) as uow:
        await uow.queries.execute(
            "INSERT INTO events SELECT tenant_id, 2, recorded_at, 2, schema, owner_id, session_id, run_id, actor_id, "
            "trace_id, actor, stream || $1, type, cause, '{\"number\":2}' FROM events",
            str(which),
        )
        await uow.queries.execute("UPDATE heads SET position = 2")
    await start(services, tenant, kind, which, 3, expected=2)
    assert await numbers_of(services, tenant, f"{kind}:{which}") == [(1, 1), (2, 2), (3, 3)]
    assert {one.stream for one in await services.get(Feed).read(tenant, 0)} == {f"{kind}:{which}"}


@pytest.mark.parametrize("kind", ["run", "session", "test"])
@pytest.mark.parametrize("name", ["in full", "short"])
async def test_no_version_of_a_stream_is_written_twice_whatever_writes_it(
    services: Services, database: Database, kind: str, name: str
) -> None:
    tenant, which = uuid4(), uuid4()
    await start(services, tenant, kind, which, 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        async with database.transaction(tenant) as uow:
            await uow.queries.execute(
                "INSERT INTO events SELECT tenant_id, 2, recorded_at, version, schema, owner_id, session_id, run_id, "
                "actor_id, trace_id, actor, CASE WHEN $1 THEN ledger_stream(stream, session_id, run_id) "
                "ELSE stream END, type, cause, data FROM events",
                name == "in full",
            )


@pytest.mark.parametrize("stream", ["run:", "session:"])
async def test_an_event_that_does_not_name_the_run_or_session_of_its_stream_is_refused(
    services: Services, stream: str
) -> None:
    with pytest.raises(ValueError, match="is recorded with"):
        async with scope_of(services, uuid4()) as scope:
            await append(scope, f"{stream}{uuid4()}", 0, [Counted(number=1)], session_id=uuid4(), run_id=uuid4())


async def test_a_tenant_that_the_planner_has_not_met_reads_a_run_by_its_key(
    services: Services, database: Database, postgres: Cluster, database_name: str
) -> None:
    """With statistics of tenants, a new one would be taken for empty, and all of its events read for each run's."""
    for _ in range(2):
        await start(services, uuid4(), "run", uuid4(), *range(1000))
    owner = await asyncpg.connect(postgres.dsn(database_name, "retinue_owner"))
    try:
        await owner.execute("ANALYZE events")
    finally:
        await owner.close()
    tenant, run = uuid4(), uuid4()
    await start(services, tenant, "run", run, *range(1000))
    async with database.transaction(tenant) as uow:
        plan = await uow.queries.fetch(
            "EXPLAIN SELECT version FROM events WHERE tenant_id = $1 AND run_id = $2 AND starts_with(stream, 'run:') "
            "ORDER BY version DESC LIMIT 1",
            tenant,
            run,
        )
    assert any("using events_run on events" in row[0] for row in plan), plan


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
