"""Two roles: ``retinue_owner`` owns the schema and migrates it; ``retinue_app`` serves, bound by row-level security.

Neither is a superuser and neither bypasses row-level security.
"""

from __future__ import annotations

import asyncpg

OWNER = "retinue_owner"
APPLICATION = "retinue_app"


async def prepare_database(
    superuser_dsn: str, database: str, *, owner_password: str, application_password: str
) -> None:
    """Create the roles and the database where they are missing, and set the roles' passwords. Safe to repeat."""
    connection = await asyncpg.connect(superuser_dsn, timeout=10)
    try:
        for role, password in ((OWNER, owner_password), (APPLICATION, application_password)):
            await _ensure_role(connection, role, password)
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
            await connection.execute(f"CREATE DATABASE {quoted(database)} OWNER {OWNER}")
        await connection.execute(f"REVOKE ALL ON DATABASE {quoted(database)} FROM PUBLIC")
        await connection.execute(f"GRANT CONNECT ON DATABASE {quoted(database)} TO {APPLICATION}")
    finally:
        await connection.close()


async def _ensure_role(connection: asyncpg.Connection[asyncpg.Record], role: str, password: str) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f"CREATE ROLE {role}")
    # ALTER ROLE takes no bound parameters; format() quotes the literal on the server.
    statement = await connection.fetchval(
        "SELECT format('ALTER ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD %L', "
        "$1::text, $2::text)",
        role,
        password,
    )
    await connection.execute(statement)


def quoted(identifier: str) -> str:
    """Quote an SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'
