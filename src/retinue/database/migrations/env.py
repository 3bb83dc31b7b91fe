"""Runs the revisions on the driver that the program itself uses, one transaction for all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from retinue.database.roles import APPLICATION

_MIGRATION_LOCK = 0x52455449  # "RETI": any constant that nothing else in the database uses


def _upgrade(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        context.run_migrations()
        # A server without the owner's password looks here whether the schema is the one it needs.
        connection.execute(text(f"GRANT SELECT ON alembic_version TO {APPLICATION}"))


async def _run(dsn: str) -> None:
    async def connect() -> Any:
        return await asyncpg.connect(dsn, timeout=10)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_upgrade)
        await connection.commit()
    await engine.dispose()


asyncio.run(_run(context.config.attributes["dsn"]))
