"""The pool of connections, as the application's role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import asyncpg

from retinue.database.faults import translated
from retinue.database.together import Together
from retinue.database.unit_of_work import Transaction
from retinue.kernel import Queries

_SETTINGS = {
    "application_name": "retinue",
    "jit": "off",
    "timezone": "UTC",
    "statement_timeout": "25s",
    "lock_timeout": "15s",
    "idle_in_transaction_session_timeout": "60s",
}


async def _keep_as_is(connection: object) -> None:
    """Stand in for the driver's reset at release, which costs a round trip.

    Nothing here survives a transaction: the tenant and every other setting are local to it, and LISTEN is used only
    on connections outside the pool.
    """


class Database:
    """Connections to one PostgreSQL database as ``retinue_app``, which row-level security binds."""

    def __init__(self, dsn: str, *, size: int = 16, acquire_seconds: float = 20.0) -> None:
        self.dsn = dsn
        self._size = size
        self._acquire_seconds = acquire_seconds
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._together = Together(lambda: self.pool, acquire_seconds)

    async def open(self) -> None:
        """Open the pool.

        Raises:
            Unavailable: the database cannot be reached.
        """
        try:
            self._pool = await asyncpg.create_pool(
                self.dsn,
                min_size=1,
                max_size=self._size,
                command_timeout=30,
                timeout=10,
                max_inactive_connection_lifetime=300,
                server_settings=_SETTINGS,
                reset=_keep_as_is,
            )
        except Exception as error:
            fault = translated(error)
            if fault is None:
                raise
            raise fault from error

    async def close(self) -> None:
        """Close every connection; those still busy are cut after five seconds."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), 5)
        except TimeoutError:
            pool.terminate()

    @property
    def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The driver's pool, for the hot paths of the ledger and for dispatch."""
        if self._pool is None:
            raise LookupError("the database is not open")
        return self._pool

    def transaction(self, tenant_id: UUID) -> Transaction:
        """Return a transaction that sees and writes the rows of ``tenant_id`` only."""
        return Transaction(self.pool, self._together, tenant_id, self._acquire_seconds)

    @asynccontextmanager
    async def routing(self, *, transaction: bool = False) -> AsyncIterator[Queries]:
        """Yield a connection with no tenant: row-level security shows it nothing.

        For dispatch (ids and routing) and for narrow functions that set the tenant themselves. Each statement is a
        transaction of its own, unless the whole block is to be one.
        """
        try:
            async with self.pool.acquire(timeout=self._acquire_seconds) as connection:
                if transaction:
                    async with connection.transaction():
                        yield cast(Queries, connection)
                else:
                    yield cast(Queries, connection)
        except Exception as error:
            fault = translated(error)
            if fault is None:
                raise
            raise fault from error

    async def dedicated(self) -> Any:
        """Open a connection outside the pool, for LISTEN; the caller closes it."""
        return await asyncpg.connect(self.dsn, timeout=10, command_timeout=30, server_settings=_SETTINGS)

    def in_use(self) -> int:
        """Return how many pooled connections are busy right now."""
        return self.pool.get_size() - self.pool.get_idle_size()
