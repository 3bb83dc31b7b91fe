"""The floor of a wake-up: PgQueuer alone, from before the enqueue to the first line of the handler."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.queries import Queries


async def start_latencies(dsn: str, jobs: int) -> list[float]:
    """Enqueue jobs one after the other on an idle queue; return each wait in milliseconds."""
    async with asyncpg.create_pool(dsn, min_size=4, max_size=8) as pool:
        worker = PgQueuer.from_asyncpg_pool(pool)
        queries = Queries(worker.connection)
        await queries.install()
        started: asyncio.Queue[float] = asyncio.Queue()

        @worker.entrypoint("measured")
        async def measured(_job: Job) -> None:
            started.put_nowait(time.monotonic())

        task = asyncio.create_task(worker.run(dequeue_timeout=timedelta(seconds=5)))
        try:
            return [await _one(queries, started) for _ in range(jobs + 3)][3:]
        finally:
            worker.shutdown.set()
            await task


async def _one(queries: Queries, started: asyncio.Queue[float]) -> float:
    before = time.monotonic()
    await queries.enqueue("measured", b"{}")
    begun = await asyncio.wait_for(started.get(), 10)
    return (begun - before) * 1000
