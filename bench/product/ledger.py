"""The ledger as the rooms use it: a database, a feed, and scopes for appends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

from retinue.database import Database, EmbeddedPostgres, migrate
from retinue.kernel import Actor, ActorKind, Scope, Services, SystemClock
from retinue.ledger import Event, Feed, Projections, append, event


@event("bench.noted")
class Noted(Event, frozen=True, kw_only=True):
    """An event of the usual size. `at` is the wall clock before its append, in nanoseconds."""

    at: int
    content: str = "x" * 200


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Start the product's own embedded PostgreSQL in a folder, with the ledger's tables."""
    postgres = EmbeddedPostgres(folder)
    await postgres.start()
    try:
        await migrate(postgres.dsn("retinue_owner"), "0001_ledger")
        yield postgres
    finally:
        await postgres.stop()


class Ledger:
    """One process's use of the ledger."""

    def __init__(self, dsn: str, *, connections: int) -> None:
        self.database = Database(dsn, size=connections)
        self.feed = Feed(self.database)
        self._services = Services()
        self._services.add(Feed, self.feed)
        self._services.add(Projections, Projections([]))
        self._clock = SystemClock()

    async def open(self) -> None:
        """Connect and start the feed."""
        await self.database.open()
        await self.feed.open()

    async def close(self) -> None:
        """Stop the feed and disconnect."""
        await self.feed.close()
        await self.database.close()

    async def append(self, tenant_id: UUID, stream: str, version: int, events: list[Event]) -> None:
        """Append to a stream in a transaction of its own; `version` is the stream's version so far."""
        async with self.database.transaction(tenant_id) as uow:
            scope = Scope(tenant_id, Actor(ActorKind.SYSTEM), uow, self._clock, self._services)
            await append(scope, stream, version, events)


class Writer:
    """Appends single events to a stream of its own."""

    def __init__(self, ledger: Ledger, tenant_id: UUID) -> None:
        self._ledger = ledger
        self._tenant_id = tenant_id
        self._stream = f"bench:{uuid4()}"
        self._version = 0

    async def write(self) -> float:
        """Append one event; return how long that took, in milliseconds."""
        started = time.perf_counter()
        await self._ledger.append(self._tenant_id, self._stream, self._version, [Noted(at=time.time_ns())])
        self._version += 1
        return (time.perf_counter() - started) * 1000
