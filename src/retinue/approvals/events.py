"""Facts about approvals (streams ``approval:<id>``) and about the rules learnt from them (``approval-rule:<id>``)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from retinue.ledger import Event, event

Kind = Literal["tool", "question", "plan", "plan_step"]
Decision = Literal["approve", "reject", "expired", "cancelled"]


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the outcome wakes: the kind of the wake-up and its subject."""

    kind: str
    subject_id: UUID


@event("approval.requested", personal=("arguments", "reason", "tainted_by", "question", "options"))
class ApprovalRequested(Event, frozen=True, kw_only=True):
    """A run or a plan waits for a person: may this call be made, may this plan begin or go on, what is the answer?

    Attributes:
        owner_id: whose run or plan it is.
        plan_id: the plan that asks; for a step of it, ``task_id`` says which.
        assignees: who is to decide: user ids and roles; nobody: the owner.
        arguments: of the call, exactly as they would be used.
        parameters: the JSON schema that edited arguments must fit.
        effect: what the call can cause: read, fetch, write or egress.
        reason: why a person is asked.
        tainted_by: what untrusted text the run has read; None: none.
        options: suggested answers to the question.
        created_at: when it was asked.
        expires_at: from then on it counts as declined.
        resume: whom the outcome wakes.
    """

    approval_id: UUID
    kind: Kind
    owner_id: UUID
    run_id: UUID | None = None
    session_id: UUID | None = None
    agent_id: UUID | None = None
    plan_id: UUID | None = None
    task_id: str | None = None
    assignees: tuple[str, ...] = ()
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    effect: str | None = None
    reason: str = ""
    tainted_by: str | None = None
    question: str | None = None
    options: tuple[str, ...] = ()
    created_at: datetime
    expires_at: datetime
    resume: Resume


@event("approval.decided", personal=("comment", "edited_arguments", "answer"))
class ApprovalDecided(Event, frozen=True, kw_only=True):
    """The one outcome of an approval.

    Attributes:
        by: who decided, such as ``user:0190…``.
        edited_arguments: what the call is made with instead; None: exactly what was asked for.
        answer: to a question.
    """

    approval_id: UUID
    decision: Decision
    by: str
    comment: str | None = None
    edited_arguments: dict[str, Any] | None = None
    answer: str | None = None


@event("rule.learnt")
class RuleLearnt(Event, frozen=True, kw_only=True):
    """A person said that an agent need not ask for a tool again, while its run has read nothing untrusted."""

    rule_id: UUID
    owner_id: UUID
    agent_id: UUID
    tool: str
    approval_id: UUID
    decision: Literal["allow"] = "allow"


@event("rule.removed")
class RuleRemoved(Event, frozen=True, kw_only=True):
    """The agent asks again."""

    rule_id: UUID
