"""What a tenant or a user spent, summed by user, agent, application or day, from all that was counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, get_args
from uuid import UUID

from retinue.kernel import Row, Scope

By = Literal["user", "agent", "application", "day"]
GROUPINGS: tuple[By, ...] = get_args(By)

_KEYS: dict[By, str] = {
    "user": "user_id::text",
    "agent": "coalesce(agent_id::text, '')",
    "application": "application",
    "day": "day::text",
}

_SUMS = """
    coalesce(sum(quantity) FILTER (WHERE kind = 'cpu'), 0) AS cpu,
    coalesce(sum(cost) FILTER (WHERE kind = 'cpu'), 0)::bigint AS cpu_cost,
    coalesce(sum(quantity) FILTER (WHERE kind = 'memory'), 0) AS memory,
    coalesce(sum(cost) FILTER (WHERE kind = 'memory'), 0)::bigint AS memory_cost,
    coalesce(sum(quantity) FILTER (WHERE kind = 'storage'), 0) AS storage,
    coalesce(sum(cost) FILTER (WHERE kind = 'storage'), 0)::bigint AS storage_cost,
    coalesce(sum(quantity) FILTER (WHERE kind = 'model'), 0)::bigint AS calls,
    coalesce(sum(cost) FILTER (WHERE kind = 'model'), 0)::bigint AS calls_cost,
    coalesce(sum(unpriced), 0)::bigint AS unpriced
"""


@dataclass(frozen=True, slots=True)
class Span:
    """Which costs are meant.

    Attributes:
        first, last: days in UTC, both included.
        user_id: whose; None for everybody's.
    """

    first: date
    last: date
    user_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used and what it cost. Costs are in nano-dollars.

    Attributes:
        key: the user's or agent's id, the application's name, or the day; empty for no agent, no application, or all.
        cpu: seconds of CPU time.
        memory, storage: byte-seconds.
        calls: model calls, of which ``unpriced`` have no known price and are not in ``calls_cost``.
    """

    key: str
    cpu: Decimal
    cpu_cost: int
    memory: Decimal
    memory_cost: int
    storage: Decimal
    storage_cost: int
    calls: int
    calls_cost: int
    unpriced: int

    @property
    def cost(self) -> int:
        """All of it."""
        return self.cpu_cost + self.memory_cost + self.storage_cost + self.calls_cost


async def spent_by(scope: Scope, by: By, span: Span, after: str | None, limit: int) -> Sequence[Spent]:
    """Return at most ``limit`` sums, in the order of their keys, from after a key on."""
    rows = await scope.queries.fetch(
        f"SELECT key, {_SUMS} FROM ({_lines(_KEYS[by])}) AS lines "
        'WHERE $4::text IS NULL OR key > $4 COLLATE "C" GROUP BY key ORDER BY key LIMIT $5',
        span.first,
        span.last,
        span.user_id,
        after,
        limit,
    )
    return [_spent(row) for row in rows]


async def spent_in_all(scope: Scope, span: Span) -> Spent:
    """Return the sum of everything."""
    rows = await scope.queries.fetch(
        f"SELECT '' AS key, {_SUMS} FROM ({_lines(_KEYS['day'])}) AS lines", span.first, span.last, span.user_id
    )
    return _spent(rows[0])


def _lines(key: str) -> str:
    """Return the query for everything that was counted: charges, and the model calls of a day."""
    when = "WHERE day BETWEEN $1 AND $2 AND ($3::uuid IS NULL OR user_id = $3)"
    return (
        f'SELECT ({key}) COLLATE "C" AS key, kind, quantity, cost, 0 AS unpriced FROM charges {when} UNION ALL '
        f"SELECT ({key}) COLLATE \"C\", 'model', calls, cost + call_cost, unpriced FROM usage_daily {when}"
    )


def _spent(row: Row) -> Spent:
    return Spent(*row[0:10])
