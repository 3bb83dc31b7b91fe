"""One embedded PostgreSQL for a test run; each worker gets its own database, cloned from a migrated template."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg

from retinue.database import EmbeddedPostgres, migrate
from retinue.database.roles import OWNER, quoted

TEMPLATE = "retinue_template"


class Cluster:
    """The run's PostgreSQL server, and databases made on it."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server

    def dsn(self, database: str, role: str = "retinue_app") -> str:
        return self.server.dsn(role, database)

    async def clone(self, template: str = TEMPLATE) -> str:
        """Make a database from the template and return its name."""
        name = f"test_{uuid4().hex[:12]}"
        connection = await asyncpg.connect(self.server.dsn("postgres", "postgres"))
        try:
            await connection.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(template)} OWNER {OWNER}")
            await connection.execute(f"GRANT CONNECT ON DATABASE {quoted(name)} TO retinue_app")
        finally:
            await connection.close()
        return name

    async def drop(self, name: str) -> None:
        connection = await asyncpg.connect(self.server.dsn("postgres", "postgres"))
        try:
            await connection.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
        finally:
            await connection.close()


@contextmanager
def cluster(run_id: str) -> Iterator[Cluster]:
    """Join the run's server; whoever comes first makes it and migrates the template, the last one removes it."""
    folder = Path(tempfile.gettempdir()) / f"retinue-tests-{run_id}"
    folder.mkdir(parents=True, exist_ok=True)
    server = EmbeddedPostgres(folder)
    with _locked(folder / "lock"):
        asyncio.run(_prepare(server))
        users = _count(folder, +1)
    try:
        yield Cluster(server)
    finally:
        with _locked(folder / "lock"):
            users = _count(folder, -1)
            asyncio.run(server.stop())
            if users == 0:
                shutil.rmtree(folder, ignore_errors=True)


async def _prepare(server: EmbeddedPostgres) -> None:
    await server.start()
    connection = await asyncpg.connect(server.dsn("postgres", "postgres"))
    try:
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", TEMPLATE):
            return
        # Tests need no durability but where they say so; the faults suite starts servers of its own.
        await connection.execute("ALTER SYSTEM SET fsync = off")
        await connection.execute("ALTER SYSTEM SET full_page_writes = off")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute(f"CREATE DATABASE {TEMPLATE} OWNER {OWNER}")
    finally:
        await connection.close()
    await migrate(server.dsn(OWNER, TEMPLATE))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _count(folder: Path, change: int) -> int:
    path = folder / "users"
    users = (int(path.read_text()) if path.exists() else 0) + change
    path.write_text(str(users))
    return users


def run_id() -> str:
    """Return a name that all workers of this test run share."""
    return os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid4().hex
