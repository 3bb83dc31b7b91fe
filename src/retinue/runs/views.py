"""The table of runs: what lists and status pages read, and the routing facts that lanes need."""

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
from retinue.runs.events import (
    ModelResponded,
    Parent,
    RunActivated,
    RunCancelled,
    RunCompleted,
    RunDeadLettered,
    RunDropped,
    RunFailed,
    RunQueued,
    RunRequested,
    RunRetried,
    RunTimedOut,
    RunWaiting,
    ToolCompleted,
    ToolDecided,
    ToolDelegated,
    ToolReconciled,
)
from retinue.runs.rules import ENDED, RunState, Status, apply

_STATUS_OF: dict[type[Event], Status] = {
    RunRequested: Status.QUEUED,
    RunQueued: Status.QUEUED,
    RunRetried: Status.QUEUED,
    RunActivated: Status.RUNNING,
    RunWaiting: Status.WAITING,
    RunCompleted: Status.COMPLETED,
    RunFailed: Status.FAILED,
    RunCancelled: Status.CANCELLED,
    RunDropped: Status.CANCELLED,
    RunTimedOut: Status.TIMED_OUT,
    RunDeadLettered: Status.DEAD_LETTERED,
}
# A run of these has no slot of its lane and may not be given one.
_LEAVES = ENDED | {Status.WAITING}
_ENDS = (RunCompleted, RunFailed, RunCancelled, RunDropped, RunTimedOut, RunDeadLettered)
# A recorded step shows that the run is no poison.
_PROGRESS = (ModelResponded, ToolCompleted, ToolDecided, ToolDelegated)
_ANY_NUMBER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as lists show it. ``cost`` is in nano-dollars and leaves out ``unpriced`` calls."""

    run_id: UUID
    session_id: UUID
    agent_id: UUID
    agent_version: int
    owner_id: UUID
    reply_id: UUID
    status: Status
    version: int
    priority: int
    epoch: int
    attempts: int
    has_slot: bool
    ready: bool
    model_calls: int
    tool_calls: int
    input_tokens: int
    output_tokens: int
    cost: int
    unpriced: int
    demo: bool
    tainted: bool
    waiting_on: list[dict[str, Any]]
    error: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    parent: Parent | None

    @property
    def waits_for_stop(self) -> bool:
        """Whether it waits for the end of an emergency stop or of its agent's pause."""
        return self.status is Status.WAITING and any(wait["kind"] == "stop" for wait in self.waiting_on)


_COLUMNS = (
    "run_id, session_id, agent_id, agent_version, owner_id, reply_id, status, version, priority, epoch, attempts, "
    "has_slot, ready, model_calls, tool_calls, input_tokens, output_tokens, cost, unpriced, demo, tainted, "
    "waiting_on, error, created_at, started_at, ended_at, parent_kind, parent_id, parent_key"
)


def _run(row: Row) -> RunRow:
    values: list[Any] = [row[n] for n in range(26)]
    values[6] = Status(values[6])
    values[21] = json.loads(values[21]) if values[21] else []
    values[22] = json.loads(values[22]) if values[22] else None
    values.append(Parent(kind=row[26], id=row[27], key=row[28]) if row[26] else None)
    return RunRow(*values)


class _Changes:
    """What a batch of events changes in a run's row."""

    def __init__(self, batch: Sequence[Recorded[Event]]) -> None:
        self.version = batch[-1].version
        self.status: Status | None = None
        self.epoch: int | None = None
        self.models = self.tools = self.read = self.written = self.cost = self.unpriced = 0
        # As in the fold: the attempts become min(what they were + added, most), whatever the order of the events.
        self.attempts_added, self.attempts_most = 0, _ANY_NUMBER
        self.demo = self.tainted = self.reopened = False
        self.waiting_on: str | None = None
        self.error: str | None = None
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.reply_id: UUID | None = None
        for one in batch:
            self._take(one.event, one.recorded_at)

    def _take(self, fact: Event, at: datetime) -> None:
        self.status = _STATUS_OF.get(type(fact), self.status)
        if isinstance(fact, RunActivated):
            self.epoch, self.started_at = fact.epoch, at
            self.attempts_added += 1
            self.attempts_most = min(self.attempts_most + 1, _ANY_NUMBER)
        elif isinstance(fact, ModelResponded):
            self._answer(fact)
        elif isinstance(fact, ToolCompleted):
            self.tools += 1
            self.tainted |= fact.untrusted
        elif isinstance(fact, ToolReconciled):
            self.tools += fact.outcome != "again"
        elif isinstance(fact, RunWaiting):
            self.waiting_on = msgspec.json.encode(fact.on).decode()
        elif isinstance(fact, RunRetried):
            self.reopened = True
            self.reply_id = fact.reply_id
        self._count_attempts(fact)
        if isinstance(fact, _ENDS):
            self.ended_at = at
            self.error = _error_of(fact, at)

    def _count_attempts(self, fact: Event) -> None:
        if isinstance(fact, _PROGRESS):
            self.attempts_most = min(self.attempts_most, 1)
        elif isinstance(fact, RunWaiting | RunQueued | RunRetried):
            self.attempts_added = self.attempts_most = 0

    def _answer(self, fact: ModelResponded) -> None:
        answer = fact.answer
        self.models += 1
        self.demo |= answer.demo
        if not fact.from_cache:
            self.read += answer.input_tokens
            self.written += answer.output_tokens
            self.cost += answer.cost or 0
            self.unpriced += answer.cost is None


def _error_of(fact: Event, at: datetime) -> str | None:
    state = RunState()
    apply(state, fact, at)
    return msgspec.json.encode(state.error).decode() if state.error else None


async def project_run(scope: Scope, batch: Sequence[Recorded[Event]]) -> None:
    """Bring a run's row up to date with what was just recorded on its stream."""
    run_id = UUID(batch[0].stream.partition(":")[2])
    first = batch[0].event
    changes = _Changes(batch)
    if isinstance(first, RunRequested):
        await _insert(scope, run_id, first, batch[0].recorded_at, changes)
        return
    await scope.queries.execute(
        "UPDATE runs SET version = $2, status = coalesce($3, status), epoch = coalesce($4, epoch), "
        "attempts = least(attempts + $6, $5), model_calls = model_calls + $7, "
        "tool_calls = tool_calls + $8, input_tokens = input_tokens + $9, output_tokens = output_tokens + $10, "
        "cost = cost + $11, unpriced = unpriced + $12, demo = demo OR $13, tainted = tainted OR $14, "
        "waiting_on = CASE WHEN $3 IS NULL THEN waiting_on ELSE $15 END, "
        "error = CASE WHEN $3 IS NULL THEN error ELSE $16 END, "
        "started_at = coalesce(started_at, $17), ended_at = CASE WHEN $19 THEN NULL ELSE coalesce($18, ended_at) END, "
        "ready = ready AND NOT $20, has_slot = has_slot AND NOT $20, reply_id = coalesce($21, reply_id) "
        "WHERE run_id = $1",
        run_id,
        changes.version,
        changes.status,
        changes.epoch,
        changes.attempts_most,
        changes.attempts_added,
        changes.models,
        changes.tools,
        changes.read,
        changes.written,
        changes.cost,
        changes.unpriced,
        changes.demo,
        changes.tainted,
        changes.waiting_on,
        changes.error,
        changes.started_at,
        changes.ended_at,
        changes.reopened,
        changes.status in _LEAVES,
        changes.reply_id,
    )


async def _insert(scope: Scope, run_id: UUID, first: RunRequested, at: datetime, changes: _Changes) -> None:
    await scope.queries.execute(
        "INSERT INTO runs (tenant_id, run_id, session_id, agent_id, agent_version, owner_id, reply_id, status, "
        "version, priority, epoch, attempts, created_at, started_at, ready, has_slot, tainted, "
        "parent_kind, parent_id, parent_key) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, $16, $17, $18, $19)",
        scope.tenant_id,
        run_id,
        first.session_id,
        first.agent_id,
        first.agent_version,
        first.owner_id,
        first.reply_id,
        changes.status,
        changes.version,
        first.priority,
        changes.epoch or 0,
        min(changes.attempts_added, changes.attempts_most),
        at,
        changes.started_at,
        changes.epoch is not None,
        bool(first.tainted_by),
        first.parent.kind if first.parent else None,
        first.parent.id if first.parent else None,
        first.parent.key if first.parent else None,
    )


PROJECTIONS = (StreamProjection("run", project_run),)


# Queries


async def find_run(scope: Scope, run_id: UUID, *, lock: bool = False) -> RunRow:
    """Return a run of the tenant, with its row locked if it is to be changed.

    Raises:
        NotFound: there is none.
    """
    row = await scope.queries.fetchrow(
        f"SELECT {_COLUMNS} FROM runs WHERE run_id = $1 {'FOR UPDATE' if lock else ''}", run_id
    )
    if row is None:
        raise NotFound("run")
    return _run(row)


async def ended_among(scope: Scope, run_ids: Sequence[UUID]) -> list[UUID]:
    """Return those of some runs that have ended."""
    rows = await scope.queries.fetch(
        "SELECT run_id FROM runs WHERE run_id = ANY($1) AND status = ANY($2) ORDER BY run_id",
        list(run_ids),
        list(ENDED),
    )
    return [row[0] for row in rows]


async def list_runs(
    scope: Scope,
    owner_id: UUID,
    *,
    before: UUID | None,
    limit: int,
    status: str | None = None,
    agent_id: UUID | None = None,
    session_id: UUID | None = None,
) -> list[RunRow]:
    """Return the owner's runs, newest first, older than the run ``before``."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM runs WHERE owner_id = $1 AND ($2::uuid IS NULL OR run_id < $2) "
        "AND ($3::text IS NULL OR status = $3) AND ($4::uuid IS NULL OR agent_id = $4) "
        "AND ($5::uuid IS NULL OR session_id = $5) ORDER BY run_id DESC LIMIT $6",
        owner_id,
        before,
        status,
        agent_id,
        session_id,
        limit,
    )
    return [_run(row) for row in rows]


async def open_runs(scope: Scope, agent_id: UUID | None, *statuses: Status, lock: bool = False) -> list[RunRow]:
    """Return the runs of an agent (of all agents when None) in any of ``statuses``, oldest first.

    Rows are locked in the order session, run, lane everywhere: lock runs only before their lanes are touched.
    """
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM runs WHERE ($1::uuid IS NULL OR agent_id = $1) AND status = ANY($2) "
        f"ORDER BY run_id {'FOR UPDATE' if lock else ''}",
        agent_id,
        list(statuses),
    )
    return [_run(row) for row in rows]


async def set_routing(scope: Scope, run_id: UUID, *, ready: bool, has_slot: bool) -> None:
    """Note whether a run may be given a slot, and whether it has one."""
    await scope.queries.execute("UPDATE runs SET ready = $2, has_slot = $3 WHERE run_id = $1", run_id, ready, has_slot)
