"""One transaction of one tenant: begin with the first statement, work, flush the ledger, commit."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar, cast
from uuid import UUID

import asyncpg

from retinue.database.faults import translated
from retinue.database.together import Together
from retinue.kernel import Alone, Queries, Row

T = TypeVar("T")
log = logging.getLogger(__name__)


class Transaction:
    """A unit of work (:class:`retinue.kernel.UnitOfWork`) on a pooled connection.

    Used as ``async with database.transaction(tenant_id) as uow``. It takes a connection and begins with its first
    statement. Errors of the driver leave it as faults: ``Unavailable`` when the outcome is unknown or nothing was
    written, ``Conflict`` when a stream moved on.
    """

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], together: Together, tenant_id: UUID, acquire_seconds: float
    ) -> None:
        self._pool = pool
        self._together = together
        self._tenant_id = tenant_id
        self._acquire_seconds = acquire_seconds
        self._connection: Any = None
        self._ended = False
        self._attached: dict[type[Any], object] = {}
        self._before: list[Callable[[], Awaitable[None]]] = []
        self._alone: Callable[[], Alone | None] | None = None
        self._after: list[Callable[[], None]] = []

    @property
    def queries(self) -> Queries:
        """The connection, with the tenant set for this transaction only."""
        return _ToBegin(self.begin) if self._connection is None else cast(Queries, self._connection)

    def attach(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return the transaction's one object of ``kind``, made on first use."""
        found = self._attached.get(kind)
        if found is None:
            found = self._attached[kind] = make()
        return cast(T, found)

    def before_commit(
        self, step: Callable[[], Awaitable[None]], *, alone: Callable[[], Alone | None] | None = None
    ) -> None:
        """Run ``step`` as the last thing inside the transaction; or ``alone`` in its place, if it is the only thing."""
        self._before.append(step)
        self._alone = alone

    def after_commit(self, step: Callable[[], None]) -> None:
        """Run ``step`` once the commit is durable."""
        self._after.append(step)

    async def begin(self) -> Queries:
        """Take a connection and begin, if that has not happened yet.

        Raises:
            Unavailable: no connection is free in time, or the database does not answer.
        """
        if self._ended:
            raise LookupError("this unit of work has ended")
        if self._connection is None:
            try:
                self._connection = await self._pool.acquire(timeout=self._acquire_seconds)
                # One round trip: the simple protocol takes both statements. A UUID's text holds only hex and dashes.
                await self._connection.execute(
                    f"BEGIN; SELECT set_config('app.tenant_id', '{UUID(int=self._tenant_id.int)}', true)"
                )
            except BaseException as error:
                await self._roll_back()
                await self._give_back()
                self._raise_as_fault(error)
                raise
        return cast(Queries, self._connection)

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._commit()
            else:
                await self._roll_back()
        except BaseException as failure:
            await self._roll_back()
            self._raise_as_fault(failure)
            raise
        finally:
            self._ended = True
            await self._give_back()
        if error is not None:
            self._raise_as_fault(error)
            return
        for hook in self._after:
            try:
                hook()
            except Exception:
                log.exception("a step after a commit failed")

    async def _commit(self) -> None:
        if self._connection is None and self._alone is not None and len(self._before) == 1:
            alone = self._alone()
            if alone is not None:
                await self._together.send(alone)
            return
        for step in self._before:
            await step()
        if self._connection is not None:
            await self._connection.execute("COMMIT")

    async def _roll_back(self) -> None:
        """Undo; a connection that cannot even do that is thrown away, so its tenant never leaks to the next user."""
        connection = self._connection
        if connection is None:
            return
        try:
            if not connection.is_closed():
                await connection.execute("ROLLBACK", timeout=5)
        except BaseException:
            # A connection that broke may have left its pool already, and then answers nothing at all.
            with suppress(Exception):
                connection.terminate()

    async def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await self._pool.release(connection, timeout=5)
        except Exception:
            log.debug("a broken connection was dropped", exc_info=True)

    @staticmethod
    def _raise_as_fault(error: BaseException) -> None:
        fault = translated(error)
        if fault is not None:
            raise fault from error


class _ToBegin:
    """The queries of a transaction that has not begun: the first one begins it."""

    def __init__(self, begin: Callable[[], Awaitable[Queries]]) -> None:
        self._begin = begin

    async def fetch(self, query: str, *args: object) -> Sequence[Row]:
        return await (await self._begin()).fetch(query, *args)

    async def fetchrow(self, query: str, *args: object) -> Row | None:
        return await (await self._begin()).fetchrow(query, *args)

    async def fetchval(self, query: str, *args: object) -> Any:
        return await (await self._begin()).fetchval(query, *args)

    async def execute(self, query: str, *args: object) -> str:
        return await (await self._begin()).execute(query, *args)

    async def executemany(self, query: str, args: Sequence[Sequence[object]]) -> None:
        await (await self._begin()).executemany(query, args)
