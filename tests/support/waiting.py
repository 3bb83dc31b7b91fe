"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from retinue.database import Database


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 20) -> None:
    """Return once the condition holds.

    Raises:
        TimeoutError: it does not come to hold.
    """
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.01)


async def until_blocked_or_done(database: Database, task: asyncio.Task[Any], *, seconds: float = 20) -> None:
    """Return once ``task`` has ended or one of the database's own connections waits for a lock."""

    async def blocked() -> bool:
        async with database.routing() as queries:
            waiting = await queries.fetchval(
                "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                "WHERE NOT l.granted AND a.datname = current_database()"
            )
        return task.done() or bool(waiting)

    await until(blocked, seconds=seconds)


async def holds(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Return once a condition that can be looked at without waiting holds.

    Raises:
        TimeoutError: it does not come to hold.
    """

    async def look() -> bool:
        return condition()

    await until(look, seconds=seconds)
