"""Statements that are units of work by themselves, sent together: one transaction, one flush, one round trip."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from retinue.kernel import Alone

log = logging.getLogger(__name__)

_MOST = 64  # statements in one transaction


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    alone: Alone
    done: asyncio.Future[None]


class Together:
    """Sends what came while the last transaction was on its way as the next one; there is no timer.

    A transaction that the database refuses, because of one statement in it, has written nothing: each of its
    statements is sent again by itself, and only the one at fault fails.
    """

    def __init__(self, pool: Callable[[], asyncpg.Pool[asyncpg.Record]], acquire_seconds: float) -> None:
        self._pool = pool
        self._acquire_seconds = acquire_seconds
        self._queue: deque[_Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._singles: set[asyncio.Task[None]] = set()

    async def send(self, alone: Alone) -> None:
        """Send a statement; return when it is committed, and ``alone.committed`` was called.

        Raises:
            Exception: the driver's error. Whoever is cancelled meanwhile does not know whether it was committed.
        """
        waiting = _Waiting(alone, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name="database-together")
        await waiting.done

    async def _send_all(self) -> None:
        while self._queue:
            group = [self._queue.popleft() for _ in range(min(_MOST, len(self._queue)))]
            group = [one for one in group if not one.done.done()]  # the others were cancelled before they were sent
            try:
                await self._transact(group)
            except Exception as error:
                if len(group) > 1 and _refused(error):
                    for one in group:
                        self._send_singly(one)
                else:
                    _fail(group, error)

    def _send_singly(self, one: _Waiting) -> None:
        async def send() -> None:
            try:
                await self._transact([one])
            except Exception as error:
                _fail([one], error)

        task = asyncio.create_task(send(), name="database-single")
        self._singles.add(task)
        task.add_done_callback(self._singles.discard)

    async def _transact(self, group: Sequence[_Waiting]) -> None:
        """Send statements in one transaction."""
        if not group:
            return
        # In one order everywhere, so that two processes do not lock each other out.
        group = sorted(group, key=lambda one: one.alone.tenant_id.int)
        company = len(group) > 1
        async with self._pool().acquire(timeout=self._acquire_seconds) as connection:
            found: list[Any] = await connection.fetchmany(
                group[0].alone.query, [(*one.alone.arguments, company) for one in group]
            )
        for one, row in zip(group, found, strict=True):
            try:
                one.alone.committed(row[0])
            except Exception:
                log.exception("a step after a commit failed")
            if not one.done.done():
                one.done.set_result(None)


def _refused(error: Exception) -> bool:
    """Tell whether nothing was written for sure: the database said no, or the driver before it sent anything.

    An error that ended the connection may have come after the commit.
    """
    if isinstance(error, asyncpg.PostgresError):
        return error.severity_en == "ERROR"
    return isinstance(error, asyncpg.DataError)


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    for one in group:
        if not one.done.done():
            one.done.set_exception(error)
