"""Tables of workflows, triggers and callbacks: their projection and the queries that read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from retinue.kernel import NotFound, Row, Scope
from retinue.ledger import Projection, Recorded
from retinue.workflows.document import Workflow
from retinue.workflows.events import (
    CallbackDeadLettered,
    CallbackDelivered,
    CallbackFailed,
    CallbackQueued,
    CallbackRequeued,
    WorkflowApplied,
    WorkflowDeleted,
    WorkflowTriggered,
    WorkflowTriggerFailed,
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A workflow as it is now.

    Attributes:
        number: of its version; also the ETag.
        revision: the version of its stream.
        content: the document.
        text: the YAML it came from.
    """

    workflow_id: UUID
    owner_id: UUID
    name: str
    number: int
    revision: int
    description: str
    created_at: datetime
    changed_at: datetime
    content: dict[str, Any]
    text: str

    @property
    def workflow(self) -> Workflow:
        """The document, read."""
        return Workflow.model_validate(self.content)


@dataclass(frozen=True, slots=True)
class StoredTrigger:
    """A trigger and what became of it last."""

    key: UUID
    workflow_id: UUID
    id: str
    kind: str
    event: str | None
    next_at: datetime | None
    last_at: datetime | None
    last_plan_id: UUID | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Callback:
    """A report of a plan's end to somebody outside."""

    callback_id: UUID
    plan_id: UUID
    workflow_id: UUID
    owner_id: UUID
    status: str
    attempts: int
    revision: int
    url: str
    body: str
    reason: str | None
    due_at: datetime
    leased_until: datetime | None
    created_at: datetime
    ended_at: datetime | None


# Projection


async def _on_applied(scope: Scope, recorded: Recorded[WorkflowApplied]) -> None:
    fact, at = recorded.event, recorded.recorded_at
    await scope.queries.execute(
        "INSERT INTO workflows (tenant_id, workflow_id, owner_id, name, number, revision, description, created_at, "
        "changed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) ON CONFLICT (tenant_id, workflow_id) DO UPDATE "
        "SET owner_id = $3, number = $5, revision = $6, description = $7, changed_at = $8",
        scope.tenant_id,
        fact.workflow_id,
        fact.owner_id,
        fact.name,
        fact.number,
        recorded.version,
        str(fact.content.get("description", "")),
        at,
    )
    await scope.queries.execute(
        "INSERT INTO workflow_versions (tenant_id, workflow_id, number, content, source, applied_by, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        scope.tenant_id,
        fact.workflow_id,
        fact.number,
        json.dumps(fact.content),
        fact.text,
        recorded.meta.actor,
        at,
    )
    await scope.queries.execute(
        "DELETE FROM workflow_triggers WHERE workflow_id = $1 AND trigger_key <> ALL($2)",
        fact.workflow_id,
        [one.key for one in fact.triggers],
    )
    for one in fact.triggers:
        await scope.queries.execute(
            "INSERT INTO workflow_triggers (tenant_id, trigger_key, workflow_id, trigger_id, kind, event, next_at) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant_id, trigger_key) DO NOTHING",
            scope.tenant_id,
            one.key,
            fact.workflow_id,
            one.id,
            one.kind,
            one.event,
            one.next_at,
        )


async def _on_deleted(scope: Scope, recorded: Recorded[WorkflowDeleted]) -> None:
    workflow_id = recorded.event.workflow_id
    await scope.queries.execute(
        "UPDATE workflows SET deleted_at = $2, revision = $3 WHERE workflow_id = $1",
        workflow_id,
        recorded.recorded_at,
        recorded.version,
    )
    await scope.queries.execute("DELETE FROM workflow_triggers WHERE workflow_id = $1", workflow_id)


async def _on_triggered(scope: Scope, recorded: Recorded[WorkflowTriggered | WorkflowTriggerFailed]) -> None:
    fact = recorded.event
    failed = isinstance(fact, WorkflowTriggerFailed)
    await scope.queries.execute(
        "UPDATE workflow_triggers SET next_at = coalesce($2, next_at), last_at = $3, last_error = $4, "
        "last_plan_id = coalesce($5, last_plan_id) WHERE trigger_key = $1",
        fact.key,
        fact.next_at,
        recorded.recorded_at,
        fact.detail if isinstance(fact, WorkflowTriggerFailed) else None,
        None if failed else getattr(fact, "plan_id", None),
    )
    await scope.queries.execute(
        "UPDATE workflows SET revision = $2 WHERE workflow_id = $1", fact.workflow_id, recorded.version
    )


async def _on_queued(scope: Scope, recorded: Recorded[CallbackQueued]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "INSERT INTO workflow_callbacks (tenant_id, callback_id, plan_id, workflow_id, owner_id, status, attempts, "
        "revision, url, body, due_at, created_at) VALUES ($1, $2, $3, $4, $5, 'pending', 0, $6, $7, $8, $9, $9)",
        scope.tenant_id,
        fact.callback_id,
        fact.plan_id,
        fact.workflow_id,
        recorded.meta.owner,
        recorded.version,
        fact.url,
        fact.body,
        recorded.recorded_at,
    )


async def _on_callback(
    scope: Scope,
    recorded: Recorded[CallbackFailed | CallbackDelivered | CallbackDeadLettered | CallbackRequeued],
) -> None:
    fact, at = recorded.event, recorded.recorded_at
    status, attempts, reason, due_at, ended_at = "pending", 0, None, at, None
    if isinstance(fact, CallbackFailed):
        attempts, reason, due_at = fact.attempt, fact.reason, fact.again_at
    elif isinstance(fact, CallbackDelivered):
        status, attempts, ended_at = "delivered", fact.attempt, at
    elif isinstance(fact, CallbackDeadLettered):
        status, attempts, reason, ended_at = "dead", fact.attempt, fact.reason, at
    await scope.queries.execute(
        "UPDATE workflow_callbacks SET status = $2, attempts = $3, reason = $4, due_at = $5, ended_at = $6, "
        "revision = $7, leased_until = NULL WHERE callback_id = $1",
        fact.callback_id,
        status,
        attempts,
        reason,
        due_at,
        ended_at,
        recorded.version,
    )


projection = Projection(
    {
        WorkflowApplied: _on_applied,
        WorkflowDeleted: _on_deleted,
        WorkflowTriggered: _on_triggered,
        WorkflowTriggerFailed: _on_triggered,
        CallbackQueued: _on_queued,
        CallbackFailed: _on_callback,
        CallbackDelivered: _on_callback,
        CallbackDeadLettered: _on_callback,
        CallbackRequeued: _on_callback,
    }
)


# Queries: workflows

_STORED = (
    "SELECT w.workflow_id, w.owner_id, w.name, w.number, w.revision, w.description, w.created_at, w.changed_at, "
    "v.content, v.source FROM workflows w JOIN workflow_versions v USING (tenant_id, workflow_id, number) "
)


def _stored(row: Row) -> Stored:
    values: list[Any] = [row[at] for at in range(10)]
    values[8] = json.loads(values[8])
    return Stored(*values)


async def by_name(scope: Scope, name: str, *, lock: bool = False) -> Stored | None:
    """Return the tenant's workflow of a name; with ``lock``, nobody changes it before this transaction ends."""
    row = await scope.queries.fetchrow(
        f"{_STORED} WHERE w.name = $1 AND w.deleted_at IS NULL {'FOR UPDATE OF w' if lock else ''}", name
    )
    return _stored(row) if row is not None else None


async def by_id(scope: Scope, workflow_id: UUID, *, lock: bool = False) -> Stored | None:
    """Return a workflow that is not deleted."""
    row = await scope.queries.fetchrow(
        f"{_STORED} WHERE w.workflow_id = $1 AND w.deleted_at IS NULL {'FOR UPDATE OF w' if lock else ''}", workflow_id
    )
    return _stored(row) if row is not None else None


async def claim_name(scope: Scope, name: str) -> None:
    """Let one at a time make a workflow of a name; the others wait for this transaction's end."""
    await scope.queries.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 14))", f"workflow:{scope.tenant_id}:{name}"
    )


async def list_stored(scope: Scope, after: str | None, limit: int) -> Sequence[Stored]:
    """Return the tenant's workflows by name, from after one on."""
    rows = await scope.queries.fetch(
        f"{_STORED} WHERE w.deleted_at IS NULL AND ($1::text IS NULL OR w.name > $1) ORDER BY w.name LIMIT $2",
        after,
        limit,
    )
    return [_stored(row) for row in rows]


async def versions(
    scope: Scope, workflow_id: UUID, before: int | None, limit: int
) -> Sequence[tuple[int, dict[str, Any], str, str, datetime]]:
    """Return versions, newest first, from before one on: number, document, YAML, who applied it, and when."""
    rows = await scope.queries.fetch(
        "SELECT number, content, source, applied_by, created_at FROM workflow_versions "
        "WHERE workflow_id = $1 AND ($2::integer IS NULL OR number < $2) ORDER BY number DESC LIMIT $3",
        workflow_id,
        before,
        limit,
    )
    return [(row[0], json.loads(row[1]), row[2], row[3], row[4]) for row in rows]


# Queries: triggers

_TRIGGER = (
    "SELECT t.trigger_key, t.workflow_id, t.trigger_id, t.kind, t.event, t.next_at, t.last_at, t.last_plan_id, "
    "t.last_error FROM workflow_triggers t "
)


def _trigger(row: Row) -> StoredTrigger:
    return StoredTrigger(*row[0:9])


async def triggers_of(scope: Scope, workflow_id: UUID) -> Sequence[StoredTrigger]:
    """Return a workflow's triggers."""
    rows = await scope.queries.fetch(f"{_TRIGGER} WHERE t.workflow_id = $1 ORDER BY t.trigger_id", workflow_id)
    return [_trigger(row) for row in rows]


async def trigger(scope: Scope, key: UUID, *, lock: bool = False) -> StoredTrigger | None:
    """Return a trigger; with ``lock``, nobody else sets it off before this transaction ends."""
    row = await scope.queries.fetchrow(f"{_TRIGGER} WHERE t.trigger_key = $1 {'FOR UPDATE' if lock else ''}", key)
    return _trigger(row) if row is not None else None


async def event_triggers(scope: Scope) -> Sequence[StoredTrigger]:
    """Return the tenant's triggers that listen to events."""
    rows = await scope.queries.fetch(f"{_TRIGGER} WHERE t.kind = 'event' ORDER BY t.trigger_key")
    return [_trigger(row) for row in rows]


async def take_message(scope: Scope, key: UUID, message_id: str, now: datetime, forget_before: datetime) -> bool:
    """Note a webhook's message; False when it came before. Messages older than ``forget_before`` are forgotten."""
    await scope.queries.execute(
        "DELETE FROM workflow_hook_messages WHERE trigger_key = $1 AND received_at < $2", key, forget_before
    )
    taken = await scope.queries.fetchval(
        "INSERT INTO workflow_hook_messages (tenant_id, trigger_key, message_id, received_at) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT DO NOTHING RETURNING true",
        scope.tenant_id,
        key,
        message_id,
        now,
    )
    return bool(taken)


async def listener(scope: Scope) -> tuple[int, bool] | None:
    """Return how far the tenant's events were looked at and whether somebody goes on; the row is locked."""
    row = await scope.queries.fetchrow("SELECT position, listening FROM workflow_listeners FOR UPDATE")
    return (row[0], row[1]) if row is not None else None


async def position(scope: Scope) -> int | None:
    """Return how far the tenant's events were looked at; None: nobody does."""
    found: int | None = await scope.queries.fetchval("SELECT position FROM workflow_listeners")
    return found


async def set_listener(scope: Scope, position: int, listening: bool) -> None:
    """Note how far the tenant's events were looked at."""
    await scope.queries.execute(
        "INSERT INTO workflow_listeners (tenant_id, position, listening) VALUES ($1, $2, $3) "
        "ON CONFLICT (tenant_id) DO UPDATE SET position = $2, listening = $3",
        scope.tenant_id,
        position,
        listening,
    )


# Queries: callbacks

_CALLBACK = (
    "SELECT callback_id, plan_id, workflow_id, owner_id, status, attempts, revision, url, body, reason, due_at, "
    "leased_until, created_at, ended_at FROM workflow_callbacks "
)


async def callback(scope: Scope, callback_id: UUID, *, lock: bool = True) -> Callback:
    """Return a callback; with ``lock``, nobody else changes it before this transaction ends.

    Raises:
        NotFound: there is none.
    """
    row = await scope.queries.fetchrow(
        f"{_CALLBACK} WHERE callback_id = $1 {'FOR UPDATE' if lock else ''}", callback_id
    )
    if row is None:
        raise NotFound("callback")
    return Callback(*row[0:14])


async def lease_callback(scope: Scope, callback_id: UUID, until: datetime) -> None:
    """Keep others from delivering a callback for a while."""
    await scope.queries.execute(
        "UPDATE workflow_callbacks SET leased_until = $2 WHERE callback_id = $1", callback_id, until
    )


async def list_callbacks(
    scope: Scope, owner_id: UUID | None, status: str | None, before: UUID | None, limit: int
) -> Sequence[Callback]:
    """Return callbacks, newest first; None leaves a condition out."""
    rows = await scope.queries.fetch(
        f"{_CALLBACK} WHERE ($1::uuid IS NULL OR owner_id = $1) AND ($2::text IS NULL OR status = $2) "
        "AND ($3::uuid IS NULL OR callback_id < $3) ORDER BY callback_id DESC LIMIT $4",
        owner_id,
        status,
        before,
        limit,
    )
    return [Callback(*row[0:14]) for row in rows]
