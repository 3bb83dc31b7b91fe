"""Dispatchers on a database of their own: the queue and the list of workers know no tenants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from retinue.database import Database
from retinue.dispatch import Activation, Dispatcher, wake
from retinue.kernel import Services, Settings
from tests.support.scopes import ledger_services, scope_of

KIND = "test.work"

Deed = Callable[[UUID, UUID], Awaitable[None]]


async def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    """Wait until ``condition()``, or what it awaits, is true.

    Raises:
        TimeoutError: it did not become true in time.
    """
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.02)


@dataclass
class Plant:
    """One database with dispatchers on it, which stand for processes."""

    database: Database
    tenant: UUID = field(default_factory=uuid4)

    @asynccontextmanager
    async def dispatcher(
        self, deed: Deed | None = None, *, work: bool = True, close: bool = True, **settings: Any
    ) -> AsyncIterator[Dispatcher]:
        """Open a dispatcher that does ``deed`` for every wake-up of ``KIND``."""
        chosen = Settings(**({"beat_seconds": 0.1, "dead_after_seconds": 5.0} | settings))
        services = ledger_services(self.database)
        dispatcher = services.add(Dispatcher, Dispatcher(self.database, chosen, services))
        if deed is not None:

            async def do(_services: Services, tenant_id: UUID, subject_id: UUID) -> None:
                await deed(tenant_id, subject_id)

            dispatcher.register(KIND, do)
        await dispatcher.open(work=work)
        try:
            yield dispatcher
        finally:
            if close:
                await dispatcher.close(0.5)

    async def wake(self, subject_id: UUID, *, at: datetime | None = None, priority: int = 0) -> None:
        async with scope_of(ledger_services(self.database), self.tenant) as scope:
            await wake(scope, KIND, subject_id, at=at, priority=priority)

    async def hold(self, dispatcher: Dispatcher, subject_id: UUID) -> bool:
        async with scope_of(ledger_services(self.database), self.tenant) as scope:
            return await dispatcher.hold(scope, KIND, subject_id)

    async def let_go(self, dispatcher: Dispatcher, subject_id: UUID) -> None:
        async with scope_of(ledger_services(self.database), self.tenant) as scope:
            await dispatcher.let_go(scope, KIND, subject_id)

    async def ask_to_stop(self, dispatcher: Dispatcher, subject_id: UUID, reason: str) -> None:
        async with scope_of(ledger_services(self.database), self.tenant) as scope:
            await dispatcher.ask_to_stop(scope, KIND, subject_id, reason)

    async def advance(
        self, dispatcher: Dispatcher, subject_id: UUID, deed: Callable[[Activation], Awaitable[None]]
    ) -> Activation:
        """Hold a subject and advance it with ``deed``; return its activation once it is under way."""
        assert await self.hold(dispatcher, subject_id)
        began: asyncio.Future[Activation] = asyncio.get_running_loop().create_future()

        async def run(activation: Activation) -> None:
            began.set_result(activation)
            await deed(activation)

        dispatcher.spawn(KIND, self.tenant, subject_id, run)
        return await began

    async def workers(self) -> set[UUID]:
        return {row[0] for row in await self._rows("SELECT worker_id FROM dispatch.workers")}

    async def holders(self, subject_id: UUID) -> list[UUID]:
        """Who holds a subject: one worker or none."""
        rows = await self._rows("SELECT worker_id FROM dispatch.activations WHERE subject_id = $1", subject_id)
        return [row[0] for row in rows]

    async def queued(self, subject_id: UUID) -> int:
        """How many wake-ups wait for a subject, or are being done."""
        rows = await self._rows("SELECT payload FROM dispatch.pgqueuer")
        return sum(str(subject_id).encode() in row[0] for row in rows)

    async def _rows(self, sql: str, *args: object) -> Any:
        async with self.database.routing() as queries:
            return await queries.fetch(sql, *args)


class Doings:
    """A deed that notes what it was called for."""

    def __init__(self, failures: int = 0, error: Exception | None = None) -> None:
        self.done: list[UUID] = []
        self.failed: list[UUID] = []
        self._failures = failures
        self._error = error or RuntimeError("planted")

    async def __call__(self, _tenant_id: UUID, subject_id: UUID) -> None:
        if len(self.failed) < self._failures:
            self.failed.append(subject_id)
            raise self._error
        self.done.append(subject_id)


async def endless(activation: Activation) -> None:
    """Work that ends only when it must leave at once."""
    await activation.unless_stopped(asyncio.sleep(3600))


async def polite(activation: Activation) -> None:
    """Work in short steps that ends after one of them when it is asked to pause."""
    await until(lambda: activation.stop is not None, 60)
