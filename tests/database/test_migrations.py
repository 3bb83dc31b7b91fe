"""Migrations: one chain, safe to repeat and to run at once, and all or nothing."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator

import asyncpg
import pytest

from retinue.database import current_revision, expected_revision, migrate
from retinue.database.migrate import HERE
from retinue.database.roles import OWNER, quoted
from tests.support.databases import Cluster


@pytest.fixture
async def empty(postgres: Cluster) -> AsyncIterator[str]:
    """A database that belongs to the owner and has nothing in it."""
    name = await postgres.clone("template1")
    yield name
    await postgres.drop(name)


async def tables(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT c.oid::regclass::text FROM pg_class c WHERE relkind = 'r' AND oid > 16384"
        )
        return {row[0] for row in rows}
    finally:
        await connection.close()


def test_the_revisions_are_one_chain_in_the_order_of_their_names() -> None:
    chain: dict[str | None, str] = {}
    for file in (HERE / "versions").glob("[0-9]*.py"):
        text = file.read_text(encoding="utf-8")
        name = re.findall(r'^revision = "([^"]+)"', text, re.M)[0]
        before = re.findall(r'^down_revision = (?:"([^"]+)"|None)', text, re.M)[0] or None
        assert name == file.stem
        assert before not in chain, f"{name} and {chain[before]} both follow {before}"
        chain[before] = name
    order, last = [], chain.get(None)
    while last is not None:
        order.append(last)
        last = chain.get(last)
    assert order == sorted(chain.values())
    assert order[-1] == expected_revision()


async def test_an_empty_database_is_brought_up_to_date_once(postgres: Cluster, empty: str) -> None:
    dsn = postgres.dsn(empty, OWNER)
    assert await current_revision(dsn) is None
    await migrate(dsn)
    assert await current_revision(dsn) == expected_revision()
    before = await tables(dsn)
    await migrate(dsn)
    assert await tables(dsn) == before
    assert {"events", "heads", "dispatch.pgqueuer"} <= before


async def test_processes_that_migrate_at_once_take_turns(postgres: Cluster, empty: str) -> None:
    dsn = postgres.dsn(empty, OWNER)
    program = "import asyncio, sys\nfrom retinue.database import migrate\nasyncio.run(migrate(sys.argv[1]))\n"
    command = [sys.executable, "-W", "ignore", "-c", program, dsn]
    processes = [await asyncio.create_subprocess_exec(*command, stderr=PIPE) for _ in range(3)]
    for process in processes:
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
    assert await current_revision(dsn) == expected_revision()


async def test_a_migration_that_fails_leaves_the_database_as_it_was(postgres: Cluster, empty: str) -> None:
    dsn = postgres.dsn(empty, OWNER)
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE runs (in_the_way integer)")
    with pytest.raises(Exception, match="runs"):
        await migrate(dsn)
    assert await current_revision(dsn) is None
    assert await tables(dsn) == {"runs"}
    await connection.execute("DROP TABLE runs")
    await connection.close()
    await migrate(dsn)
    assert await current_revision(dsn) == expected_revision()


async def test_the_application_cannot_migrate(postgres: Cluster, empty: str) -> None:
    with pytest.raises(Exception, match="permission denied"):
        await migrate(postgres.dsn(empty))
    assert await current_revision(postgres.dsn(empty, OWNER)) is None


@pytest.mark.parametrize(
    "sql", ["CREATE TABLE mine (x integer)", "DROP TABLE events", "ALTER TABLE runs DISABLE ROW LEVEL SECURITY"]
)
async def test_the_application_cannot_change_the_schema(postgres: Cluster, database_name: str, sql: str) -> None:
    connection = await asyncpg.connect(postgres.dsn(database_name))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(sql)
    await connection.close()


@pytest.mark.parametrize("name", ["plain", 'quo"ted', "Großer Name", "; DROP TABLE x"])
def test_identifiers_are_quoted(name: str) -> None:
    assert quoted(name)[1:-1].replace('""', '"') == name
