"""The tables of budgets and usage: the projection of budgets, and the queries that read both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from retinue.kernel import Row, Scope, Settings, nanos
from retinue.ledger import Projection, Recorded
from retinue.metering.events import BudgetChanged, BudgetRemoved, BudgetUsedUp, BudgetWarned
from retinue.metering.rules import Budget, start_of

_COLUMNS = "subject, limit_nanos, spent, reserved, unpriced, revision, period_start, warned, exhausted, period"


@dataclass(frozen=True, slots=True)
class Used:
    """What model calls used. ``cost`` is in nano-dollars and leaves out the ``unpriced`` calls."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: int
    unpriced: int


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """What one agent used of one model on one day (UTC)."""

    day: date
    agent_id: UUID
    model: str
    used: Used


def assumed_price(scope: Scope) -> int:
    """Return what a call of unknown price counts for in budgets, in nano-dollars."""
    return nanos(scope.service(Settings).unpriced_call_cost)


# Budgets


def budget_of(row: Row) -> Budget:
    """Read a row of ``budgets`` whose limit is set, in the order of a function that returns rows of it."""
    return Budget(
        subject=row["subject"],
        limit=row["limit_nanos"],
        spent=row["spent"],
        reserved=row["reserved"],
        unpriced=row["unpriced"],
        revision=row["revision"],
        period_start=row["period_start"],
        warned=row["warned"],
        exhausted=row["exhausted"],
        period=row["period"],
    )


async def in_force(scope: Scope, agent_id: UUID) -> list[Budget]:
    """Return the budgets that limit an agent, the tenant's and its own, as they are now."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM budgets WHERE subject IN ($1, $2) AND limit_nanos IS NOT NULL",
        scope.tenant_id,
        agent_id,
    )
    return [budget_of(row).as_of(scope.clock.now()) for row in rows] if rows else []


async def budget_for(scope: Scope, subject: UUID) -> Budget | None:
    """Return the budget of the tenant or of one agent, as it is now; None when nothing limits it."""
    row = await scope.queries.fetchrow(
        f"SELECT {_COLUMNS} FROM budgets WHERE subject = $1 AND limit_nanos IS NOT NULL", subject
    )
    return budget_of(row).as_of(scope.clock.now()) if row else None


async def locked(scope: Scope, subject: UUID) -> Budget | None:
    """Return :func:`budget_for`, which nobody changes before this transaction ends."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM metering_locked($1, $2, $3)", scope.tenant_id, subject, scope.clock.now()
    )
    return next((budget_of(row) for row in rows if row["subject"] == subject), None)


async def revision(scope: Scope, subject: UUID) -> int:
    """Return the version of a subject's stream; 0 when it never had a budget."""
    found: int | None = await scope.queries.fetchval("SELECT revision FROM budgets WHERE subject = $1", subject)
    return found or 0


async def _on_changed(scope: Scope, recorded: Recorded[BudgetChanged]) -> None:
    """Write the limit. A budget that begins now, or counts from another day, starts with what was used since then."""
    fact = recorded.event
    start = start_of(fact.period, recorded.recorded_at)
    used = await used_since(scope, fact.subject, start)
    await scope.queries.execute(
        "INSERT INTO budgets AS b (tenant_id, subject, limit_nanos, period, period_start, spent, unpriced, reserved, "
        "warned, exhausted, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, false, false, $8) "
        "ON CONFLICT (tenant_id, subject) DO UPDATE SET limit_nanos = excluded.limit_nanos, "
        "period = excluded.period, period_start = excluded.period_start, revision = excluded.revision, "
        "warned = false, exhausted = false, "
        "spent = CASE WHEN b.limit_nanos IS NOT NULL AND b.period = excluded.period THEN b.spent "
        "ELSE excluded.spent END, "
        "unpriced = CASE WHEN b.limit_nanos IS NOT NULL AND b.period = excluded.period THEN b.unpriced "
        "ELSE excluded.unpriced END",
        scope.tenant_id,
        fact.subject,
        fact.limit,
        fact.period,
        start,
        used.cost + used.unpriced * assumed_price(scope),
        used.unpriced,
        recorded.version,
    )


async def _on_removed(scope: Scope, recorded: Recorded[BudgetRemoved]) -> None:
    """Take the limit away, and what calls under way hold of it."""
    subject = recorded.event.subject
    await scope.queries.execute(
        "UPDATE budgets SET limit_nanos = NULL, reserved = 0, revision = $2 WHERE subject = $1",
        subject,
        recorded.version,
    )
    await scope.queries.execute(
        "UPDATE reservations SET by_tenant = by_tenant AND $1 <> tenant_id, by_agent = by_agent AND $1 <> agent_id "
        "WHERE $1 IN (tenant_id, agent_id)",  # tenant: explicit, the subject may be the tenant itself
        subject,
    )
    await scope.queries.execute(
        "DELETE FROM reservations r WHERE NOT EXISTS "
        "(SELECT FROM budgets b WHERE b.limit_nanos IS NOT NULL AND b.subject IN (r.tenant_id, r.agent_id))"
    )


async def _on_warned(scope: Scope, recorded: Recorded[BudgetWarned]) -> None:
    await scope.queries.execute(
        "UPDATE budgets SET warned = true, revision = $2 WHERE subject = $1", recorded.event.subject, recorded.version
    )


async def _on_used_up(scope: Scope, recorded: Recorded[BudgetUsedUp]) -> None:
    await scope.queries.execute(
        "UPDATE budgets SET exhausted = true, revision = $2 WHERE subject = $1",
        recorded.event.subject,
        recorded.version,
    )


PROJECTION = Projection(
    {
        BudgetChanged: _on_changed,
        BudgetRemoved: _on_removed,
        BudgetWarned: _on_warned,
        BudgetUsedUp: _on_used_up,
    }
)


# Usage

_SUMS = (
    "coalesce(sum(calls), 0)::bigint, coalesce(sum(input_tokens), 0)::bigint, "
    "coalesce(sum(output_tokens), 0)::bigint, coalesce(sum(cost), 0)::bigint, coalesce(sum(unpriced), 0)::bigint"
)


async def used_since(scope: Scope, subject: UUID, start: date) -> Used:
    """Return what the tenant, or one of its agents, used from a day on."""
    row = await scope.queries.fetchrow(
        f"SELECT {_SUMS} FROM usage_daily WHERE day >= $1 AND ($2::uuid IS NULL OR agent_id = $2)",
        start,
        None if subject == scope.tenant_id else subject,
    )
    return _used(row) if row else Used(0, 0, 0, 0, 0)


async def used_by(scope: Scope, user_id: UUID, first: date, last: date) -> Used:
    """Return what a user's runs used from one day to another, both included."""
    row = await scope.queries.fetchrow(
        f"SELECT {_SUMS} FROM usage_daily WHERE day BETWEEN $1 AND $2 AND user_id = $3", first, last, user_id
    )
    return _used(row) if row else Used(0, 0, 0, 0, 0)


async def days_of_use(
    scope: Scope, user_id: UUID, first: date, last: date, before: tuple[date, UUID, str] | None, limit: int
) -> Sequence[DayOfUse]:
    """Return what a user's runs used by day, agent and model, the newest first, from before a place on."""
    day, agent_id, model = before or (None, None, None)
    rows = await scope.queries.fetch(
        f"SELECT {_SUMS}, day, agent_id, model FROM usage_daily "
        "WHERE day BETWEEN $1 AND $2 AND user_id = $3 "
        'AND ($4::date IS NULL OR (day, agent_id, model) < ($4, $5::uuid, $6::text COLLATE "C")) '
        "GROUP BY day, agent_id, model ORDER BY day DESC, agent_id DESC, model DESC LIMIT $7",
        first,
        last,
        user_id,
        day,
        agent_id,
        model,
        limit,
    )
    return [DayOfUse(row["day"], row["agent_id"], row["model"], _used(row)) for row in rows]


def _used(row: Row) -> Used:
    return Used(row[0], row[1], row[2], row[3], row[4])
