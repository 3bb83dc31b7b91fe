"""What the runs of agents are doing, for the agents' status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from retinue.agents import Activity
from retinue.kernel import Scope


async def look(scope: Scope, agent_ids: Sequence[UUID]) -> Mapping[UUID, Activity]:
    """Return how many runs each agent has, and whether its newest ended one failed."""
    rows = await scope.queries.fetch(
        "SELECT a.agent_id, coalesce(l.running, 0) AS running, coalesce(l.queued, 0) AS queued, "
        "       (SELECT r.status FROM runs r WHERE r.agent_id = a.agent_id AND r.ended_at IS NOT NULL "
        "        ORDER BY r.run_id DESC LIMIT 1) IN ('failed', 'timed_out', 'dead_lettered') AS failed "
        "FROM unnest($1::uuid[]) AS a (agent_id) LEFT JOIN lanes l ON l.agent_id = a.agent_id",
        list(agent_ids),
    )
    return {
        row["agent_id"]: Activity(running=row["running"], queued=row["queued"], last_failed=bool(row["failed"]))
        for row in rows
    }
