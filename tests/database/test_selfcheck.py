"""The start-up check, each of its findings planted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from retinue.database import Database
from retinue.database.roles import quoted
from retinue.database.selfcheck import GLOBAL_TABLES, self_check
from tests.support.databases import Cluster

_TABLE = """
CREATE TABLE notes (
    tenant_id uuid NOT NULL, note_id uuid NOT NULL, parent uuid, text text, PRIMARY KEY (tenant_id, note_id)
);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON notes
    USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
"""


@pytest.fixture
async def name(postgres: Cluster) -> AsyncIterator[str]:
    """A database to spoil."""
    found = await postgres.clone()
    yield found
    await postgres.drop(found)


async def change(postgres: Cluster, name: str, sql: str, role: str = "retinue_owner") -> None:
    connection = await asyncpg.connect(postgres.dsn(name, role))
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def found(postgres: Cluster, name: str, role: str = "retinue_app") -> list[str]:
    database = Database(postgres.dsn(name, role), size=2)
    await database.open()
    try:
        async with database.routing() as queries:
            return await self_check(queries)
    finally:
        await database.close()


async def test_the_migrated_database_is_sound(postgres: Cluster, name: str) -> None:
    assert await found(postgres, name) == []


async def test_a_well_fenced_new_table_is_sound(postgres: Cluster, name: str) -> None:
    await change(postgres, name, _TABLE)
    assert await found(postgres, name) == []


@pytest.mark.parametrize(
    "bug, finding",
    [
        ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", "table notes: row-level security is off"),
        ("ALTER TABLE notes NO FORCE ROW LEVEL SECURITY", "table notes: its owner is not bound"),
        ("DROP POLICY tenant_rows ON notes", "table notes: no policy fences its tenants"),
        ("ALTER POLICY tenant_rows ON notes TO retinue_owner", "table notes: no policy fences its tenants"),
        (
            "ALTER POLICY tenant_rows ON notes USING (true)",
            "table notes: the policy tenant_rows lets this role see more",
        ),
        (
            "ALTER POLICY tenant_rows ON notes WITH CHECK (true)",
            "table notes: the policy tenant_rows lets this role see more",
        ),
        (
            "ALTER POLICY tenant_rows ON notes "
            "USING (tenant_id = current_setting('app.tenant_id', true)::uuid OR text = 'shared')",
            "table notes: the policy tenant_rows lets this role see more",
        ),
        (
            "CREATE POLICY more ON notes FOR SELECT TO retinue_app USING (text = 'shared')",
            "table notes: the policy more lets this role see more",
        ),
        (
            "CREATE POLICY more ON notes FOR SELECT TO retinue_owner USING (true)",
            "table notes: the policy more lets another role past",
        ),
        (
            "CREATE POLICY more ON api_keys FOR UPDATE TO retinue_owner USING (true)",
            "table api_keys: the policy more lets another role past",
        ),
        ("CREATE UNIQUE INDEX by_text ON notes (text)", "table notes: the unique key by_text"),
        ("CREATE UNIQUE INDEX by_text ON notes (lower(text), tenant_id)", "table notes: the unique key by_text"),
        ("ALTER TABLE notes ADD CONSTRAINT once UNIQUE (note_id, tenant_id)", "table notes: the unique key once"),
        (
            "ALTER TABLE notes ADD CONSTRAINT once UNIQUE (tenant_id, text);"
            "CREATE TABLE labels (label text PRIMARY KEY);"
            "ALTER TABLE notes ADD CONSTRAINT labelled FOREIGN KEY (text) REFERENCES labels",
            "table notes: the foreign key labelled",
        ),
        (
            "ALTER TABLE notes ADD CONSTRAINT child FOREIGN KEY (parent, tenant_id) "
            "REFERENCES notes (note_id, tenant_id)",
            "table notes: the foreign key child does not start with tenant_id",
        ),
        ("CREATE TABLE labels (label text PRIMARY KEY)", "table labels: has no tenant_id"),
        ("CREATE SCHEMA other; CREATE TABLE other.labels (label text)", "table other.labels: has no tenant_id"),
        ("CREATE VIEW all_notes AS SELECT * FROM notes", "view all_notes: reads with its owner's rights"),
        ("CREATE MATERIALIZED VIEW kept AS SELECT * FROM notes", "view kept: is stored"),
        (
            "CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM notes';"
            "REVOKE ALL ON FUNCTION peek() FROM PUBLIC",
            "function peek(): runs with its owner's rights and its caller's search_path",
        ),
        (
            "CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp "
            "AS 'SELECT count(*) FROM notes'",
            "function peek(): runs with its owner's rights for everybody",
        ),
    ],
)
async def test_a_gap_is_found(postgres: Cluster, name: str, bug: str, finding: str) -> None:
    await change(postgres, name, _TABLE)
    await change(postgres, name, bug)
    assert [line for line in await found(postgres, name) if line.startswith(finding)]


async def test_views_with_the_caller_s_rights_are_sound(postgres: Cluster, name: str) -> None:
    await change(postgres, name, _TABLE)
    await change(postgres, name, "CREATE VIEW mine WITH (security_invoker = true) AS SELECT * FROM notes")
    assert await found(postgres, name) == []


@pytest.mark.parametrize(
    "role, finding",
    [("postgres", "role postgres: is a superuser"), ("retinue_owner", "role retinue_owner: owns ")],
)
async def test_a_connection_as_a_role_that_is_not_bound_is_found(
    postgres: Cluster, name: str, role: str, finding: str
) -> None:
    assert [line for line in await found(postgres, name, role) if line.startswith(finding)]


async def test_a_role_made_strong_is_found(postgres: Cluster, name: str) -> None:
    role = f"strong_{name}"
    await change(
        postgres,
        name,
        f"CREATE ROLE {quoted(role)} LOGIN BYPASSRLS PASSWORD 'x' IN ROLE retinue_owner;"
        f"GRANT CONNECT ON DATABASE {quoted(name)} TO {quoted(role)}",
        role="postgres",
    )
    dsn = postgres.dsn(name, "postgres")
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"SET ROLE {quoted(role)}")
        lines = await self_check(connection)
        assert any("has BYPASSRLS" in line for line in lines)
        assert any("belongs to its owner" in line for line in lines)
    finally:
        await connection.close()
        await change(postgres, name, f"DROP OWNED BY {quoted(role)}; DROP ROLE {quoted(role)}", role="postgres")


async def test_the_server_is_told_every_finding_at_once(postgres: Cluster, name: str) -> None:
    await change(postgres, name, _TABLE + "CREATE TABLE a (x int); CREATE TABLE b (x int);")
    assert [line.split(":")[0] for line in await found(postgres, name)] == ["table a", "table b"]


async def test_the_application_reads_no_user_and_no_login(postgres: Cluster, name: str) -> None:
    """The tables that belong to no tenant: closed to the application, but where they hold nothing about anybody."""
    open_to_all = {"alembic_version", "server_keys"}
    connection = await asyncpg.connect(postgres.dsn(name))
    try:
        for table in GLOBAL_TABLES - open_to_all:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT 1 FROM {table}")
    finally:
        await connection.close()
