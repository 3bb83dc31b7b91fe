"""The tables ``plans`` and ``plan_waits``: what lists read, and which tasks wait for an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from retinue.kernel import NotFound, Row, Scope
from retinue.ledger import Event, Recorded, StreamProjection
from retinue.planning.events import (
    PlanApprovalRequested,
    PlanCancelled,
    PlanCompleted,
    PlanDeadLettered,
    PlanDecided,
    PlanDrafted,
    PlanFailed,
    PlanRequeued,
    PlanStarted,
    TaskCompleted,
    TaskFailed,
    TaskRetried,
    TaskSkipped,
    TaskStarted,
)
from retinue.planning.state import PLAN_ENDED, PlanStatus, dead_letter_text
from retinue.runs import Parent

_STATUS_OF: dict[type[Event], PlanStatus] = {
    PlanDrafted: PlanStatus.DRAFTED,
    PlanApprovalRequested: PlanStatus.WAITING,
    PlanStarted: PlanStatus.RUNNING,
    TaskRetried: PlanStatus.RUNNING,
    PlanCompleted: PlanStatus.COMPLETED,
    PlanFailed: PlanStatus.FAILED,
    PlanCancelled: PlanStatus.CANCELLED,
    PlanDeadLettered: PlanStatus.DEAD_LETTERED,
}


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One plan as lists show it.

    Attributes:
        tasks: how many it has at the top; ``completed`` and ``failed`` count those and the ones in bodies.
        cost: nano-dollars of its runs.
    """

    plan_id: UUID
    owner_id: UUID
    session_id: UUID
    workflow_id: UUID | None
    approval_id: UUID | None
    status: PlanStatus
    title: str
    origin: str
    version: int
    tasks: int
    completed: int
    failed: int
    tokens: int
    cost: int
    error: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    parent: Parent | None


_COLUMNS = (
    "plan_id, owner_id, session_id, workflow_id, approval_id, status, title, origin, version, tasks, completed, "
    "failed, tokens, cost, error, created_at, started_at, ended_at, parent_kind, parent_id, parent_key"
)


def _plan(row: Row) -> PlanRow:
    values: list[Any] = [row[n] for n in range(18)]
    values[5] = PlanStatus(values[5])
    values[14] = json.loads(values[14]) if values[14] else None
    values.append(Parent(kind=row[18], id=row[19], key=row[20] or "") if row[18] else None)
    return PlanRow(*values)


# Projection


class _Changes:
    """What a batch of events changes in a plan's row."""

    def __init__(self, batch: Sequence[Recorded[Event]]) -> None:
        self.version = batch[-1].version
        self.status: PlanStatus | None = None
        self.tasks = self.completed = self.failed = self.tokens = self.cost = 0
        self.dropped: int | None = None  # the number of tasks, when a person edited them
        self.approval_id: UUID | None = None
        self.error: str | None = None
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None
        for one in batch:
            self._take(one.event, one.recorded_at)

    def _take(self, fact: Event, at: datetime) -> None:
        self.status = _STATUS_OF.get(type(fact), self.status)
        if isinstance(fact, PlanApprovalRequested):
            self.approval_id = fact.approval_id
        elif isinstance(fact, PlanDecided) and fact.tasks is not None:
            self.dropped = len(fact.tasks)
        elif isinstance(fact, PlanStarted):
            self.started_at = at
        elif isinstance(fact, TaskCompleted | TaskFailed):
            self.tokens += fact.tokens
            self.cost += fact.cost
            self.completed += isinstance(fact, TaskCompleted)
            self.failed += isinstance(fact, TaskFailed) and fact.again_at is None
        elif isinstance(fact, TaskRetried):
            self.failed -= len(fact.task_ids)
            self.ended_at = self.error = None
        elif isinstance(fact, PlanRequeued):
            self.status = PlanStatus.WAITING if fact.waits else PlanStatus.RUNNING
            self.ended_at = self.error = None
        elif isinstance(fact, PlanCompleted | PlanFailed | PlanCancelled | PlanDeadLettered):
            self.ended_at, self.error = at, _error_of(fact)


def _error_of(fact: Event) -> str | None:
    if isinstance(fact, PlanFailed):
        return msgspec.json.encode({"kind": fact.kind, "detail": fact.detail}).decode()
    if isinstance(fact, PlanDeadLettered):
        return msgspec.json.encode({"kind": "dead_letter", "detail": dead_letter_text(fact)}).decode()
    return None


async def project_plan(scope: Scope, batch: Sequence[Recorded[Event]]) -> None:
    """Bring a plan's row up to date with what was just recorded on its stream."""
    plan_id = UUID(batch[0].stream.partition(":")[2])
    first = batch[0].event
    changes = _Changes(batch)
    if isinstance(first, PlanDrafted):
        await _insert(scope, plan_id, first, batch[0].recorded_at)
    if not isinstance(first, PlanDrafted) or len(batch) > 1:
        await _update(scope, plan_id, changes)
    await _project_waits(scope, plan_id, batch)


async def _update(scope: Scope, plan_id: UUID, changes: _Changes) -> None:
    await scope.queries.execute(
        "UPDATE plans SET version = $2, status = coalesce($3, status), tasks = coalesce($4, tasks), "
        "completed = completed + $5, failed = failed + $6, tokens = tokens + $7, cost = cost + $8, "
        "approval_id = coalesce($9, approval_id), started_at = coalesce(started_at, $10), "
        "ended_at = CASE WHEN $3 IS NULL THEN ended_at ELSE $11 END, "
        "error = CASE WHEN $3 IS NULL THEN error ELSE $12 END WHERE plan_id = $1",
        plan_id,
        changes.version,
        changes.status,
        changes.dropped,
        changes.completed,
        changes.failed,
        changes.tokens,
        changes.cost,
        changes.approval_id,
        changes.started_at,
        changes.ended_at,
        changes.error,
    )


async def _insert(scope: Scope, plan_id: UUID, first: PlanDrafted, at: datetime) -> None:
    plan, parent = first.plan, first.parent
    await scope.queries.execute(
        "INSERT INTO plans (tenant_id, plan_id, owner_id, session_id, workflow_id, created_at, version, tasks, "
        "status, origin, title, parent_kind, parent_id, parent_key) "
        "VALUES ($1, $2, $3, $4, $5, $6, 1, $7, 'drafted', $8, $9, $10, $11, $12)",
        scope.tenant_id,
        plan_id,
        first.owner_id,
        first.session_id,
        plan.origin.workflow_id,
        at,
        len(plan.tasks),
        plan.origin.kind,
        plan.title,
        parent.kind if parent else None,
        parent.id if parent else None,
        parent.key if parent else None,
    )


async def _project_waits(scope: Scope, plan_id: UUID, batch: Sequence[Recorded[Event]]) -> None:
    for one in batch:
        fact = one.event
        if isinstance(fact, TaskStarted) and fact.event is not None:
            await scope.queries.execute(
                "INSERT INTO plan_waits (tenant_id, plan_id, task_id, event, since) VALUES ($1, $2, $3, $4, $5) "
                "ON CONFLICT (tenant_id, plan_id, task_id) DO UPDATE SET event = $4, since = $5",
                scope.tenant_id,
                plan_id,
                fact.task_id,
                fact.event,
                one.recorded_at,
            )
    over = [one.event.task_id for one in batch if isinstance(one.event, TaskCompleted | TaskFailed | TaskSkipped)]
    ended = _STATUS_OF.get(type(batch[-1].event)) in PLAN_ENDED
    if over or ended:
        # A task that is skipped takes what is below it along.
        await scope.queries.execute(
            "DELETE FROM plan_waits WHERE plan_id = $1 AND ($2 OR task_id = ANY($3) "
            "OR EXISTS (SELECT FROM unnest($3::text[]) AS o (id) WHERE starts_with(task_id, o.id || '[')))",
            plan_id,
            ended,
            over,
        )


PROJECTIONS = (StreamProjection("plan", project_plan),)


# Queries


async def find_plan(scope: Scope, plan_id: UUID, *, lock: bool = False) -> PlanRow:
    """Return a plan of the tenant, with its row locked if it is to be changed.

    Raises:
        NotFound: there is none.
    """
    row = await scope.queries.fetchrow(
        f"SELECT {_COLUMNS} FROM plans WHERE plan_id = $1 {'FOR UPDATE' if lock else ''}", plan_id
    )
    if row is None:
        raise NotFound("plan")
    return _plan(row)


async def lock_plan(scope: Scope, plan_id: UUID) -> PlanRow:
    """Return a plan that nobody else changes before this transaction ends.

    Raises:
        NotFound: there is none.
    """
    return await find_plan(scope, plan_id, lock=True)


async def list_plans(
    scope: Scope,
    owner_id: UUID | None,
    *,
    before: UUID | None,
    limit: int,
    status: str | None = None,
    session_id: UUID | None = None,
    workflow_id: UUID | None = None,
) -> list[PlanRow]:
    """Return plans, newest first, older than the plan ``before``; None leaves a condition out."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM plans WHERE ($1::uuid IS NULL OR owner_id = $1) "
        "AND ($2::uuid IS NULL OR plan_id < $2) AND ($3::text IS NULL OR status = $3) "
        "AND ($4::uuid IS NULL OR session_id = $4) AND ($5::uuid IS NULL OR workflow_id = $5) "
        "ORDER BY plan_id DESC LIMIT $6",
        owner_id,
        before,
        status,
        session_id,
        workflow_id,
        limit,
    )
    return [_plan(row) for row in rows]


@dataclass(frozen=True, slots=True)
class WantedEvent:
    """A task that waits for an event; its plan, as it was when it was looked for."""

    plan_id: UUID
    task_id: str
    owner_id: UUID
    version: int


async def waits_for(scope: Scope, event: str, at: datetime, after: WantedEvent | None, limit: int) -> list[WantedEvent]:
    """Return tasks of the tenant that waited for events of a type at a time, from after one on."""
    rows = await scope.queries.fetch(
        "SELECT w.plan_id, w.task_id, p.owner_id, p.version FROM plan_waits w JOIN plans p USING (tenant_id, plan_id) "
        "WHERE w.event = $1 AND w.since <= $2 AND ($3::uuid IS NULL OR (w.plan_id, w.task_id) > ($3, $4)) "
        "ORDER BY w.plan_id, w.task_id LIMIT $5",
        event,
        at,
        after.plan_id if after else None,
        after.task_id if after else None,
        limit,
    )
    return [WantedEvent(row[0], row[1], row[2], row[3]) for row in rows]


async def events_waited_for(scope: Scope) -> frozenset[str]:
    """Return the types of events that tasks of the tenant wait for."""
    return frozenset(row[0] for row in await scope.queries.fetch("SELECT DISTINCT event FROM plan_waits"))


async def count_waits(scope: Scope, most: int) -> int:
    """Return how many tasks of the tenant wait for events; no more than ``most`` are counted."""
    found: int = await scope.queries.fetchval("SELECT count(*) FROM (SELECT FROM plan_waits LIMIT $1) AS counted", most)
    return found
