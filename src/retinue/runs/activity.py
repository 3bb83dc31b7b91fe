"""What the runs of agents are doing, for the agents' status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from retinue.agents import Activity
from retinue.kernel import Scope

_NAMED = 20  # open runs of an agent that are named at most


async def look(scope: Scope, agent_ids: Sequence[UUID]) -> Mapping[UUID, Activity]:
    """Return what is open of each agent's runs, and whether the one that ended last failed."""
    rows = await scope.queries.fetch(
        "SELECT a.agent_id, coalesce(l.last_failed, false) AS failed, "
        "  count(r.run_id) FILTER (WHERE r.status IN ('running', 'waiting')) AS running, "
        "  count(r.run_id) FILTER (WHERE r.status = 'queued') AS queued, "
        "  (array_agg(r.run_id ORDER BY r.run_id DESC) FILTER (WHERE r.run_id IS NOT NULL))[1:$2] AS active "
        "FROM unnest($1::uuid[]) AS a (agent_id) LEFT JOIN lanes l ON l.agent_id = a.agent_id "
        "LEFT JOIN runs r ON r.agent_id = a.agent_id AND r.status IN ('queued', 'running', 'waiting') "
        "GROUP BY a.agent_id, l.last_failed",
        list(agent_ids),
        _NAMED,
    )
    return {
        row["agent_id"]: Activity(
            running=row["running"], queued=row["queued"], last_failed=row["failed"], active=row["active"] or ()
        )
        for row in rows
    }
