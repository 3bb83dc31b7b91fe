"""Lanes: at most so many runs of an agent at once, so many waiting; exact on any number of machines.

The counts are kept under the lock of the lane's row, in the transaction of the events that change them. A slot that
becomes free is handed to the next run in the same transaction, so nobody overtakes it.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from retinue.kernel import Scope, TooManyRequests
from retinue.tenancy import is_stopped


async def enter(scope: Scope, agent_id: UUID, *, concurrency: int, queue: int) -> bool:
    """Take a slot, or else a place in the queue; return whether it was a slot.

    Raises:
        TooManyRequests: all slots and all places are taken.
    """
    row = await _enter(scope, agent_id, concurrency, queue)
    if row is None:
        await _make(scope, agent_id)
        row = await _enter(scope, agent_id, concurrency, queue)
    assert row is not None
    started, queued = row
    if not started and queued >= queue:
        raise TooManyRequests(
            f"The agent has {queue} runs waiting, the most it may have. Try again later.", retry_after=5
        )
    return started


async def _enter(scope: Scope, agent_id: UUID, concurrency: int, queue: int) -> tuple[bool, int] | None:
    row = await scope.queries.fetchrow(
        "WITH lane AS (SELECT running, queued, running < least($2, most) AND NOT paused AND NOT stopped AS free "
        "              FROM lanes WHERE agent_id = $1 FOR UPDATE) "
        "UPDATE lanes SET running = lanes.running + CASE WHEN lane.free THEN 1 ELSE 0 END, "
        "                 queued = lanes.queued + CASE WHEN lane.free OR lane.queued >= $3 THEN 0 ELSE 1 END "
        "FROM lane WHERE agent_id = $1 RETURNING lane.free, lane.queued",
        agent_id,
        concurrency,
        queue,
    )
    return (row[0], row[1]) if row is not None else None


async def lock(scope: Scope, agent_ids: Collection[UUID]) -> None:
    """Lock several lanes in one order, for a transaction that enters or leaves more than one."""
    await scope.queries.execute(
        "SELECT FROM lanes WHERE agent_id = ANY($1) ORDER BY agent_id FOR UPDATE", sorted(agent_ids)
    )


async def wait(scope: Scope, agent_id: UUID) -> None:
    """Take a place in the queue without asking for a slot (the run is blocked, or comes back after a wait)."""
    await scope.queries.execute("UPDATE lanes SET queued = queued + 1 WHERE agent_id = $1", agent_id)


async def _make(scope: Scope, agent_id: UUID) -> None:
    """Make the lane, closed if the tenant is stopped. A stop or its end that comes meanwhile finds the lane there."""
    await scope.queries.execute(
        "INSERT INTO lanes (tenant_id, agent_id, stopped) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        scope.tenant_id,
        agent_id,
        await is_stopped(scope),
    )


async def leave(scope: Scope, agent_id: UUID, *, failed: bool | None = None) -> UUID | None:
    """Give a slot back; return the run that got it instead, if one was waiting for it.

    ``failed`` says how the run that leaves ended; None: it goes on later.
    """
    somebody_waits = await scope.queries.fetchval(
        "UPDATE lanes SET running = greatest(running - 1, 0), last_failed = coalesce($2, last_failed) "
        "WHERE agent_id = $1 "
        "RETURNING queued > 0 AND (most IS NULL OR running < most) AND NOT paused AND NOT stopped",
        agent_id,
        failed,
    )
    successor = await _next_in_line(scope, agent_id) if somebody_waits else None
    if successor is not None:
        await scope.queries.execute("UPDATE lanes SET running = running + 1 WHERE agent_id = $1", agent_id)
    return successor


async def leave_queue(scope: Scope, agent_id: UUID) -> None:
    """Give a place in the queue back."""
    await scope.queries.execute("UPDATE lanes SET queued = greatest(queued - 1, 0) WHERE agent_id = $1", agent_id)


async def fill(scope: Scope, agent_id: UUID, concurrency: int) -> list[UUID]:
    """Give free slots to waiting runs; return those that got one."""
    started: list[UUID] = []
    while True:
        free = await scope.queries.fetchval(
            "SELECT running < least($2, most) AND queued > 0 AND NOT paused AND NOT stopped FROM lanes "
            "WHERE agent_id = $1 FOR UPDATE",
            agent_id,
            concurrency,
        )
        successor = await _next_in_line(scope, agent_id) if free else None
        if successor is None:
            return started
        await scope.queries.execute("UPDATE lanes SET running = running + 1 WHERE agent_id = $1", agent_id)
        started.append(successor)


async def _next_in_line(scope: Scope, agent_id: UUID) -> UUID | None:
    """Move the waiting run that is due (highest priority, then oldest) from the queue to a slot."""
    run_id: UUID | None = await scope.queries.fetchval(
        "UPDATE runs SET has_slot = true WHERE run_id = ("
        "  SELECT run_id FROM runs WHERE agent_id = $1 AND status = 'queued' AND ready AND NOT has_slot "
        "  ORDER BY priority DESC, run_id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING run_id",
        agent_id,
    )
    if run_id is not None:
        await leave_queue(scope, agent_id)
    return run_id


async def is_closed(scope: Scope, agent_id: UUID) -> bool:
    """Whether the agent is paused or its tenant is stopped."""
    return bool(await scope.queries.fetchval("SELECT paused OR stopped FROM lanes WHERE agent_id = $1", agent_id))


async def set_paused(scope: Scope, agent_id: UUID, paused: bool) -> None:
    """Open or close one agent's lane."""
    await scope.queries.execute(
        "INSERT INTO lanes (tenant_id, agent_id, paused, stopped) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (tenant_id, agent_id) DO UPDATE SET paused = $3",
        scope.tenant_id,
        agent_id,
        paused,
        await is_stopped(scope),
    )


async def set_most(scope: Scope, agent_id: UUID, most: int) -> None:
    """Bound one agent's lane from now on, whatever the definitions of the runs that wait in it say."""
    await scope.queries.execute(
        "INSERT INTO lanes (tenant_id, agent_id, most, stopped) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (tenant_id, agent_id) DO UPDATE SET most = $3",
        scope.tenant_id,
        agent_id,
        most,
        await is_stopped(scope),
    )


async def set_stopped(scope: Scope, stopped: bool) -> None:
    """Open or close all lanes of the tenant; locks them in the order in which others do that need several."""
    await scope.queries.execute("SELECT FROM lanes ORDER BY agent_id FOR UPDATE")
    await scope.queries.execute("UPDATE lanes SET stopped = $1", stopped)
