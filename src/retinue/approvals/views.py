"""Tables ``approvals`` and ``approval_rules``: their projection and the queries that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from retinue.approvals.events import ApprovalDecided, ApprovalRequested, Resume, RuleLearnt, RuleRemoved
from retinue.approvals.rules import STATUS_OF, Approval, Status
from retinue.kernel import Row, Scope
from retinue.ledger import Projection, Recorded

_COLUMNS = (
    "approval_id, kind, owner_id, run_id, session_id, agent_id, plan_id, task_id, assignees, tool, arguments, "
    "parameters, effect, reason, tainted_by, question, options, status, created_at, expires_at, decided_at, "
    "decided_by, comment, edited_arguments, answer, resume_kind, resume_subject, revision"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A tool that an agent need not ask for."""

    rule_id: UUID
    owner_id: UUID
    agent_id: UUID
    tool: str
    decision: str
    approval_id: UUID
    created_at: datetime


# Projection


async def _on_requested(scope: Scope, recorded: Recorded[ApprovalRequested]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "INSERT INTO approvals (tenant_id, approval_id, kind, owner_id, run_id, session_id, agent_id, tool, "
        "arguments, parameters, effect, reason, tainted_by, question, options, status, created_at, expires_at, "
        "resume_kind, resume_subject, revision, plan_id, task_id, assignees) VALUES "
        "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 'pending', $16, $17, $18, $19, $20, "
        "$21, $22, $23)",
        scope.tenant_id,
        fact.approval_id,
        fact.kind,
        fact.owner_id,
        fact.run_id,
        fact.session_id,
        fact.agent_id,
        fact.tool,
        _json(fact.arguments),
        _json(fact.parameters),
        fact.effect,
        fact.reason,
        fact.tainted_by,
        fact.question,
        list(fact.options),
        fact.created_at,
        fact.expires_at,
        fact.resume.kind,
        fact.resume.subject_id,
        recorded.version,
        fact.plan_id,
        fact.task_id,
        list(fact.assignees),
    )


async def _on_decided(scope: Scope, recorded: Recorded[ApprovalDecided]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "UPDATE approvals SET status = $2, decided_at = $3, decided_by = $4, comment = $5, edited_arguments = $6, "
        "answer = $7, revision = $8 WHERE approval_id = $1",
        fact.approval_id,
        STATUS_OF[fact.decision],
        recorded.recorded_at,
        fact.by,
        fact.comment,
        _json(fact.edited_arguments),
        fact.answer,
        recorded.version,
    )


async def _on_learnt(scope: Scope, recorded: Recorded[RuleLearnt]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "INSERT INTO approval_rules "
        "(tenant_id, rule_id, owner_id, agent_id, tool, decision, approval_id, created_at, revision) "
        # Two approvals at once may teach the same; the first one stands.
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant_id, agent_id, tool) DO NOTHING",
        scope.tenant_id,
        fact.rule_id,
        fact.owner_id,
        fact.agent_id,
        fact.tool,
        fact.decision,
        fact.approval_id,
        recorded.recorded_at,
        recorded.version,
    )


async def _on_removed(scope: Scope, recorded: Recorded[RuleRemoved]) -> None:
    await scope.queries.execute("DELETE FROM approval_rules WHERE rule_id = $1", recorded.event.rule_id)


projection = Projection(
    {
        ApprovalRequested: _on_requested,
        ApprovalDecided: _on_decided,
        RuleLearnt: _on_learnt,
        RuleRemoved: _on_removed,
    }
)


# Queries


async def by_id(scope: Scope, approval_id: UUID) -> Approval | None:
    """Return an approval of the tenant."""
    row = await scope.queries.fetchrow(f"SELECT {_COLUMNS} FROM approvals WHERE approval_id = $1", approval_id)
    return _approval(row) if row else None


async def locked(scope: Scope, approval_id: UUID) -> Approval | None:
    """Return an approval that nobody else can decide before this transaction ends."""
    row = await scope.queries.fetchrow(
        f"SELECT {_COLUMNS} FROM approvals WHERE approval_id = $1 FOR UPDATE", approval_id
    )
    return _approval(row) if row else None


async def locked_of_run(scope: Scope, run_id: UUID) -> Sequence[Approval]:
    """Return a run's pending approvals, which nobody else can decide before this transaction ends."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM approvals WHERE run_id = $1 AND status = 'pending' ORDER BY approval_id FOR UPDATE",
        run_id,
    )
    return [_approval(row) for row in rows]


async def many(scope: Scope, approval_ids: Sequence[UUID], *, lock: bool = False) -> Sequence[Approval]:
    """Return the approvals with these ids; with ``lock``, nobody else decides them before this transaction ends."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM approvals WHERE approval_id = ANY ($1) ORDER BY approval_id"
        + (" FOR UPDATE" if lock else ""),
        list(approval_ids),
    )
    return [_approval(row) for row in rows]


async def inbox(
    scope: Scope,
    owner_id: UUID | None,
    status: Status | None,
    run_id: UUID | None,
    before: UUID | None,
    limit: int,
    *,
    plan_id: UUID | None = None,
    named: Sequence[str] = (),
) -> Sequence[Approval]:
    """Return approvals, newest first, from before an id on; None leaves a condition out.

    Args:
        owner_id: those of this owner, and those that name one of ``named`` as who is to decide.
    """
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM approvals WHERE ($1::uuid IS NULL OR owner_id = $1 OR assignees && $6) "
        "AND ($2::text IS NULL OR status = $2) AND ($3::uuid IS NULL OR run_id = $3) "
        "AND ($4::uuid IS NULL OR approval_id < $4) AND ($7::uuid IS NULL OR plan_id = $7) "
        "ORDER BY approval_id DESC LIMIT $5",
        owner_id,
        status,
        run_id,
        before,
        limit,
        list(named),
        plan_id,
    )
    return [_approval(row) for row in rows]


async def decided(scope: Scope, owner_id: UUID, kind: str, limit: int) -> Sequence[Approval]:
    """Return the owner's newest decided approvals of a kind."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM approvals WHERE owner_id = $1 AND kind = $2 AND status <> 'pending' "
        "ORDER BY approval_id DESC LIMIT $3",
        owner_id,
        kind,
        limit,
    )
    return [_approval(row) for row in rows]


async def rule_for(scope: Scope, agent_id: UUID, tool: str) -> str | None:
    """Return what was learnt for a tool of an agent."""
    found: str | None = await scope.queries.fetchval(
        "SELECT decision FROM approval_rules WHERE agent_id = $1 AND tool = $2", agent_id, tool
    )
    return found


async def learnt(scope: Scope, owner_id: UUID, before: UUID | None, limit: int) -> Sequence[Rule]:
    """Return an owner's rules, newest first, from before an id on."""
    rows = await scope.queries.fetch(
        "SELECT rule_id, owner_id, agent_id, tool, decision, approval_id, created_at FROM approval_rules "
        "WHERE owner_id = $1 AND ($2::uuid IS NULL OR rule_id < $2) ORDER BY rule_id DESC LIMIT $3",
        owner_id,
        before,
        limit,
    )
    return [
        Rule(
            rule_id=row["rule_id"],
            owner_id=row["owner_id"],
            agent_id=row["agent_id"],
            tool=row["tool"],
            decision=row["decision"],
            approval_id=row["approval_id"],
            created_at=row["created_at"],
        )
        for row in rows
    ]


async def locked_rule(scope: Scope, owner_id: UUID, rule_id: UUID) -> int | None:
    """Return the revision of an owner's rule, which nobody else removes before this transaction ends."""
    found: int | None = await scope.queries.fetchval(
        "SELECT revision FROM approval_rules WHERE rule_id = $1 AND owner_id = $2 FOR UPDATE", rule_id, owner_id
    )
    return found


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _value(text: str | None) -> dict[str, Any] | None:
    return None if text is None else msgspec.json.decode(text, type=dict[str, Any])


def _approval(row: Row) -> Approval:
    return Approval(
        approval_id=row["approval_id"],
        kind=row["kind"],
        owner_id=row["owner_id"],
        run_id=row["run_id"],
        session_id=row["session_id"],
        agent_id=row["agent_id"],
        plan_id=row["plan_id"],
        task_id=row["task_id"],
        assignees=tuple(row["assignees"]),
        tool=row["tool"],
        arguments=_value(row["arguments"]),
        parameters=_value(row["parameters"]),
        effect=row["effect"],
        reason=row["reason"],
        tainted_by=row["tainted_by"],
        question=row["question"],
        options=tuple(row["options"]),
        status=row["status"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        decided_at=row["decided_at"],
        decided_by=row["decided_by"],
        comment=row["comment"],
        edited_arguments=_value(row["edited_arguments"]),
        answer=row["answer"],
        resume=Resume(kind=row["resume_kind"], subject_id=row["resume_subject"]),
        revision=row["revision"],
    )
