"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from retinue.database import Database


async def looks(seconds: float) -> AsyncIterator[None]:
    """Yield once for each look at something in another process, until the time is up.

    The looks are close together at first; later they leave the machine to those who are waited for.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    pause = 0.01
    while True:
        yield
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.2, 0.05)


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 60) -> None:
    """Return once the condition holds.

    Raises:
        TimeoutError: it does not come to hold.
    """
    async with asyncio.timeout(seconds + 1):
        async for _ in looks(seconds):
            if await condition():
                return
    raise TimeoutError


async def until_blocked_or_done(database: Database, task: asyncio.Task[Any], *, seconds: float = 60) -> None:
    """Return once ``task`` has ended or one of the database's own connections waits for a lock."""

    async def blocked() -> bool:
        async with database.routing() as queries:
            waiting = await queries.fetchval(
                "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                "WHERE NOT l.granted AND a.datname = current_database()"
            )
        return task.done() or bool(waiting)

    await until(blocked, seconds=seconds)


async def holds(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Return once a condition that can be looked at without waiting holds.

    Raises:
        TimeoutError: it does not come to hold.
    """

    async def look() -> bool:
        return condition()

    await until(look, seconds=seconds)
