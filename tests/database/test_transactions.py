"""A unit of work: all or nothing, one tenant, and a connection that tells the next user nothing."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from retinue.database import Database
from retinue.kernel import Conflict, Queries, Unavailable
from tests.support.databases import Cluster


@pytest.fixture
async def small(postgres: Cluster, database_name: str) -> AsyncIterator[Database]:
    """A pool of one connection, so that every use follows every other on it."""
    found = Database(postgres.dsn(database_name), size=1, acquire_seconds=0.3)
    await found.open()
    yield found
    await found.close()


async def put(queries: Queries, tenant: UUID) -> None:
    await queries.execute("INSERT INTO heads VALUES ($1, 1)", tenant)


async def positions(database: Database, tenant: UUID) -> list[int]:
    async with database.transaction(tenant) as uow:
        return [row[0] for row in await uow.queries.fetch("SELECT position FROM heads")]


async def seen_without_a_tenant(database: Database) -> tuple[str, int]:
    async with database.routing() as queries:
        tenant: str | None = await queries.fetchval("SELECT current_setting('app.tenant_id', true)")
        count: int = await queries.fetchval("SELECT count(*) FROM heads")
        return tenant or "", count


async def test_a_block_that_ends_well_is_kept(small: Database) -> None:
    tenant = uuid4()
    async with small.transaction(tenant) as uow:
        await put(uow.queries, tenant)
    assert await positions(small, tenant) == [1]


@pytest.mark.parametrize("error", [LookupError("planted"), Conflict("planted"), asyncio.CancelledError()], ids=repr)
async def test_a_block_that_raises_leaves_nothing(small: Database, error: BaseException) -> None:
    tenant, after = uuid4(), list[str]()

    async def fail() -> None:
        async with small.transaction(tenant) as uow:
            uow.after_commit(lambda: after.append("ran"))
            await put(uow.queries, tenant)
            raise error

    with pytest.raises(type(error)):
        await fail()
    assert await positions(small, tenant) == []
    assert after == []


async def test_what_comes_before_and_after_the_commit_keeps_its_order(small: Database) -> None:
    tenant, order = uuid4(), list[str]()

    async def before(name: str) -> None:
        order.append(name)

    async with small.transaction(tenant) as uow:
        uow.after_commit(lambda: order.append("third"))
        uow.before_commit(lambda: before("first"))
        uow.before_commit(lambda: before("second"))
        uow.after_commit(lambda: order.append("fourth"))
        order.append("block")
    assert order == ["block", "first", "second", "third", "fourth"]


async def test_a_step_before_the_commit_that_raises_undoes_everything(small: Database) -> None:
    tenant, after = uuid4(), list[str]()

    async def refuse() -> None:
        raise LookupError("planted")

    async def fail() -> None:
        async with small.transaction(tenant) as uow:
            uow.before_commit(refuse)
            uow.after_commit(lambda: after.append("ran"))
            await put(uow.queries, tenant)

    with pytest.raises(LookupError, match="planted"):
        await fail()
    assert (await positions(small, tenant), after) == ([], [])


async def test_a_step_after_the_commit_that_raises_stops_no_other(
    small: Database, caplog: pytest.LogCaptureFixture
) -> None:
    tenant, after = uuid4(), list[str]()

    def stumble() -> None:
        raise LookupError("planted")

    async with small.transaction(tenant) as uow:
        uow.after_commit(stumble)
        uow.after_commit(lambda: after.append("ran"))
        await put(uow.queries, tenant)
    assert after == ["ran"]
    assert await positions(small, tenant) == [1]
    assert any(record.exc_info for record in caplog.records)


async def test_one_object_of_a_kind_a_transaction(small: Database) -> None:
    async with small.transaction(uuid4()) as uow:
        first = uow.attach(list, list)
        assert uow.attach(list, list) is first
        assert uow.attach(dict, dict) == {}
    async with small.transaction(uuid4()) as uow:
        assert uow.attach(list, list) is not first


async def test_tenants_follow_each_other_on_a_connection_and_see_only_their_own(small: Database) -> None:
    tenants = [uuid4() for _ in range(5)]
    for tenant in tenants:
        async with small.transaction(tenant) as uow:
            await put(uow.queries, tenant)
    for tenant in tenants:
        assert await positions(small, tenant) == [1]
        assert await seen_without_a_tenant(small) == ("", 0)


async def test_work_across_tenants_is_a_transaction_when_it_is_to_be_one(small: Database) -> None:
    worker = uuid4()

    async def fail(transaction: bool) -> None:
        async with small.routing(transaction=transaction) as queries:
            await queries.execute(
                "INSERT INTO dispatch.workers (worker_id, machine, pid, pid_started, works) "
                "VALUES ($1, '', 1, 1, true)",
                worker,
            )
            raise LookupError("planted")

    async def count() -> int:
        async with small.routing() as queries:
            found: int = await queries.fetchval("SELECT count(*) FROM dispatch.workers WHERE worker_id = $1", worker)
            return found

    with pytest.raises(LookupError):
        await fail(True)
    assert await count() == 0
    with pytest.raises(LookupError):
        await fail(False)
    assert await count() == 1


async def test_nobody_waits_for_a_connection_for_ever(small: Database) -> None:
    async with small.transaction(uuid4()) as uow:
        await uow.queries.fetchval("SELECT 1")
        with pytest.raises(Unavailable):
            await positions(small, uuid4())
        with pytest.raises(Unavailable):
            await seen_without_a_tenant(small)
        assert small.in_use() == 1
    assert small.in_use() == 0


async def test_a_block_that_asks_nothing_takes_no_connection(small: Database) -> None:
    async with small.transaction(uuid4()) as uow:
        queries = uow.queries
        assert small.in_use() == 0
        await queries.fetchval("SELECT 1")
        assert small.in_use() == 1
    assert small.in_use() == 0
    for ended in (queries, uow.queries):
        with pytest.raises(LookupError, match="has ended"):
            await ended.fetchval("SELECT 1")
    assert small.in_use() == 0


async def test_every_way_to_ask_first_begins_with_the_tenant(small: Database) -> None:
    tenant = uuid4()
    async with small.transaction(tenant) as uow:
        await uow.queries.executemany("INSERT INTO heads VALUES ($1, $2)", [(tenant, 1)])
    async with small.transaction(tenant) as uow:
        assert [row[0] for row in await uow.queries.fetch("SELECT position FROM heads")] == [1]
    async with small.transaction(tenant) as uow:
        row = await uow.queries.fetchrow("SELECT position FROM heads")
        assert row is not None
        assert row[0] == 1
    async with small.transaction(tenant) as uow:
        assert await uow.queries.fetchval("SELECT position FROM heads") == 1
    async with small.transaction(tenant) as uow:
        assert await uow.queries.execute("SELECT position FROM heads") == "SELECT 1"


@pytest.mark.fault
async def test_cancelling_anywhere_leaves_the_connection_fit_and_without_a_tenant(small: Database) -> None:
    """A client that goes away cancels its request at any moment, in the middle of `BEGIN` or `COMMIT` as well."""
    chance = random.Random(3)
    kept = 0
    for _ in range(150):
        tenant = uuid4()

        async def work(tenant: UUID = tenant) -> None:
            async with small.transaction(tenant) as uow:
                await put(uow.queries, tenant)
                await uow.queries.execute("SELECT pg_sleep(0.0005)")

        task = asyncio.create_task(work())
        await asyncio.sleep(chance.random() * 0.004)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await seen_without_a_tenant(small) == ("", 0)
        found = await positions(small, tenant)
        assert found in ([], [1])
        if task.cancelled():
            continue
        assert found == [1]
        kept += 1
    assert small.in_use() == 0
    assert kept < 150


@pytest.mark.fault
@pytest.mark.parametrize("moment", ["block", "commit"])
async def test_a_connection_that_is_cut_is_a_fault_that_passes(
    database: Database, small: Database, moment: str
) -> None:
    tenant = uuid4()

    async def cut(pid: int) -> None:
        async with database.routing() as queries:
            await queries.execute("SELECT pg_terminate_backend($1, 5000)", pid)

    async def fail() -> None:
        async with small.transaction(tenant) as uow:
            await put(uow.queries, tenant)
            pid: int = await uow.queries.fetchval("SELECT pg_backend_pid()")
            if moment == "commit":
                uow.before_commit(lambda: cut(pid))
                return
            await cut(pid)
            await uow.queries.fetchval("SELECT 1")

    with pytest.raises(Unavailable):
        await fail()
    assert await positions(small, tenant) == []


SICK: list[tuple[str, type[Exception]]] = [
    ("SET LOCAL statement_timeout = '20ms'; SELECT pg_sleep(10)", Unavailable),
    ("DO $$ BEGIN RAISE EXCEPTION 'a:1: expected version 2, found 3' USING ERRCODE = 'RT409'; END $$", Conflict),
    ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$", Unavailable),
    ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$", Unavailable),
    ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53300'; END $$", Unavailable),
]


@pytest.mark.parametrize("sql, fault", SICK, ids=[fault.__name__ for _, fault in SICK])
async def test_an_error_of_the_database_leaves_as_a_fault(small: Database, sql: str, fault: type[Exception]) -> None:
    async def fail() -> None:
        async with small.transaction(uuid4()) as uow:
            await uow.queries.execute(sql)

    with pytest.raises(fault):
        await fail()
    assert await seen_without_a_tenant(small) == ("", 0)


async def test_two_transactions_that_lock_each_other_out_are_told_to_try_again(database: Database) -> None:
    tenant = uuid4()
    locks = [asyncio.Event(), asyncio.Event()]

    async def lock(first: int, second: int) -> None:
        async with database.transaction(tenant) as uow:
            await uow.queries.execute("SELECT pg_advisory_xact_lock(71, $1)", first)
            locks[first].set()
            await locks[second].wait()
            await uow.queries.execute("SELECT pg_advisory_xact_lock(71, $1)", second)

    results = await asyncio.gather(lock(0, 1), lock(1, 0), return_exceptions=True)
    assert [type(one) for one in results if one is not None] == [Unavailable]


async def test_a_mistake_in_sql_stays_what_it_is(small: Database, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        async with small.transaction(uuid4()) as uow:
            await uow.queries.execute("SELECT nonsense")

    with caplog.at_level(logging.ERROR), pytest.raises(Exception, match="nonsense") as raised:
        await fail()
    assert type(raised.value).__name__ == "UndefinedColumnError"


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    away = Database("postgresql://nobody:x@127.0.0.1:9/none", size=1)
    with pytest.raises(Unavailable):
        await away.open()
    with pytest.raises(LookupError, match="not open"):
        away.in_use()
    await away.close()


async def test_closing_cuts_what_is_still_busy(postgres: Cluster, database_name: str) -> None:
    database = Database(postgres.dsn(database_name), size=2)
    await database.open()
    began = asyncio.Event()

    async def dawdle() -> None:
        async with database.transaction(uuid4()) as uow:
            began.set()
            await uow.queries.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(dawdle())
    await began.wait()
    async with asyncio.timeout(9):
        await database.close()
        with pytest.raises(Unavailable):
            await task
