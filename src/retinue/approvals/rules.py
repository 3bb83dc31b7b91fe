"""Decisions about approvals, without a database: who may decide, what a ruling leads to, what counts as too late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from retinue.approvals.events import ApprovalDecided, Decision, Kind, Resume
from retinue.kernel import Actor, ActorKind, BadInput, Conflict, Forbidden
from retinue.tools import ArgumentCheck

Status = Literal["pending", "approved", "rejected", "expired", "cancelled"]

COMMENT_LENGTH = 10_000
ANSWER_LENGTH = 50_000

STATUS_OF: Mapping[Decision, Status] = {
    "approve": "approved",
    "reject": "rejected",
    "expired": "expired",
    "cancelled": "cancelled",
}

# Whoever has one of these roles may decide for others, too. The permission table says whether a role decides at all.
_DECIDE_FOR_OTHERS = frozenset({"manager", "admin"})

# A question to a role may be answered by the roles above it.
_ROLES = ("viewer", "member", "manager", "admin")


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval as it is now; the fields are those of its events.

    Attributes:
        revision: the version of its stream in the ledger; what a command appends after.
    """

    approval_id: UUID
    kind: Kind
    owner_id: UUID
    run_id: UUID | None
    session_id: UUID | None
    agent_id: UUID | None
    plan_id: UUID | None
    task_id: str | None
    assignees: tuple[str, ...]
    tool: str | None
    arguments: dict[str, Any] | None
    parameters: dict[str, Any] | None
    effect: str | None
    reason: str
    tainted_by: str | None
    question: str | None
    options: tuple[str, ...]
    status: Status
    created_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    comment: str | None
    edited_arguments: dict[str, Any] | None
    answer: str | None
    resume: Resume
    revision: int


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a person says to an approval.

    Attributes:
        comment: for the agent and for the record.
        edited_arguments: make the call with these instead.
        answer: to a question.
        remember: let the agent use the tool without asking from now on, as long as its run has read nothing untrusted.
    """

    decision: Literal["approve", "reject"]
    comment: str | None = None
    edited_arguments: dict[str, Any] | None = None
    answer: str | None = None
    remember: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an approval.

    Attributes:
        arguments: what the call is to be made with, if it is approved; the approval holds for exactly these, once.
        edited: whether a person changed them.
        answer: to a question, if it was answered.
    """

    approval_id: UUID
    status: Status
    arguments: dict[str, Any] | None
    edited: bool
    answer: str | None
    comment: str | None
    decided_by: str | None
    decided_at: datetime | None


def outcome(approval: Approval) -> Outcome:
    """Return what a run needs to know of an approval."""
    edited = approval.edited_arguments
    return Outcome(
        approval_id=approval.approval_id,
        status=approval.status,
        arguments=approval.arguments if edited is None else edited,
        edited=edited is not None,
        answer=approval.answer,
        comment=approval.comment,
        decided_by=approval.decided_by,
        decided_at=approval.decided_at,
    )


def sees_everybodys(role: str | None) -> bool:
    """Return whether the role sees, and decides, what other members' runs ask."""
    return role in _DECIDE_FOR_OTHERS


def may_see(approval: Approval, user_id: UUID, role: str | None) -> bool:
    """Return whether a user sees an approval: the owner's, those they are to decide, and of any for some roles."""
    return approval.owner_id == user_id or sees_everybodys(role) or is_assigned(approval, user_id, role)


def is_assigned(approval: Approval, user_id: UUID, role: str | None) -> bool:
    """Return whether a user is among those whom the approval names."""
    return not {str(user_id), *roles_of(role)}.isdisjoint(approval.assignees)


def roles_of(role: str | None) -> tuple[str, ...]:
    """Return the roles whose questions a role may answer: its own and those below it."""
    return _ROLES[: _ROLES.index(role) + 1] if role in _ROLES else ()


def check_assigned(approval: Approval, user_id: UUID, role: str | None) -> None:
    """Refuse whoever is not asked, where somebody is named; an admin always may.

    Raises:
        Forbidden: others are to decide.
    """
    if approval.assignees and role != "admin" and not is_assigned(approval, user_id, role):
        raise Forbidden("Somebody else is to decide this: see its assignees.")


def check_decider(actor: Actor) -> None:
    """Refuse whoever is no person: an agent must never widen its own rights.

    Raises:
        Forbidden: an agent or the system decides.
    """
    if actor.kind not in (ActorKind.USER, ActorKind.API_KEY):
        raise Forbidden("Only a person can decide an approval.")


def decide(approval: Approval, ruling: Ruling, actor: Actor, user_id: UUID, now: datetime) -> ApprovalDecided:
    """Turn a ruling into the approval's one outcome, which is ``expired`` when the ruling comes too late.

    Raises:
        Conflict: it has an outcome already, which is named.
        BadInput: the ruling does not fit the approval.
        Forbidden: somebody else than the run's owner wants a rule learnt.
    """
    check_pending(approval)
    if now >= approval.expires_at:
        return expired(approval)
    if approval.kind == "tool":
        _check_call(approval, ruling)
    elif approval.kind in ("plan", "plan_step"):
        _check_plan(approval, ruling)
    else:
        _check_question(ruling)
    if ruling.remember:
        _check_remember(approval, ruling, user_id)
    edited = ruling.edited_arguments
    return ApprovalDecided(
        approval_id=approval.approval_id,
        decision=ruling.decision,
        by=str(actor),
        comment=ruling.comment or None,
        edited_arguments=None if edited == approval.arguments else edited,
        answer=ruling.answer,
    )


def check_pending(approval: Approval) -> None:
    """Refuse what has an outcome.

    Raises:
        Conflict: it names the outcome.
    """
    if approval.status != "pending":
        raise already(approval)


def already(approval: Approval) -> Conflict:
    """Return the refusal of a decision that came second or too late; it names the outcome."""
    at = approval.decided_at.isoformat() if approval.decided_at else None
    hints = {
        "expired": " Nobody decided in time, so it was declined.",
        "cancelled": " The run was cancelled."
        if approval.plan_id is None
        else " The plan has ended or needs it no more.",
    }
    return Conflict(
        f"This approval is already {approval.status}.{hints.get(approval.status, '')}",
        extra={"outcome": approval.status, "decided_by": approval.decided_by, "decided_at": at},
    )


def expired(approval: Approval) -> ApprovalDecided:
    """Return the outcome of an approval that nobody decided in time."""
    return ApprovalDecided(approval_id=approval.approval_id, decision="expired", by=str(Actor(ActorKind.SYSTEM)))


def cancelled(approval: Approval, actor: Actor) -> ApprovalDecided:
    """Return the outcome of an approval whose run needs it no longer."""
    return ApprovalDecided(approval_id=approval.approval_id, decision="cancelled", by=str(actor))


def _check_call(approval: Approval, ruling: Ruling) -> None:
    if ruling.answer is not None:
        raise BadInput("answer: this approval is for a tool call, which takes no answer.", field="answer")
    if ruling.edited_arguments is None:
        return
    if ruling.decision != "approve":
        raise BadInput("edited_arguments: a call that is rejected takes no arguments.", field="edited_arguments")
    found = _complaint(approval.parameters, ruling.edited_arguments)
    if found:
        raise BadInput(f"edited_arguments: {found}", field="edited_arguments")


def _complaint(parameters: Mapping[str, Any] | None, arguments: dict[str, Any]) -> str | None:
    """Say what the tool will not take; None when nothing. So a mistake is found while the approval is still open."""
    if parameters is None:
        return "the tool's parameters are not known, so its arguments cannot be edited"
    try:
        return ArgumentCheck(parameters).complaint(arguments)
    except Exception:  # a schema from elsewhere can be wrong, or defeat the validator by recursion
        return "they cannot be checked against the tool's schema"


def _check_plan(approval: Approval, ruling: Ruling) -> None:
    """Check the form; whether an edited plan can be carried out is for the room that asks (see ``edit_checks``)."""
    if ruling.answer is not None:
        raise BadInput("answer: approve or reject; add a comment if you like.", field="answer")
    if ruling.edited_arguments is None:
        return
    if approval.kind != "plan":
        raise BadInput("edited_arguments: there is nothing to edit.", field="edited_arguments")
    if ruling.decision != "approve":
        raise BadInput("edited_arguments: a plan that is rejected is not edited.", field="edited_arguments")


def _check_question(ruling: Ruling) -> None:
    if ruling.edited_arguments is not None:
        raise BadInput("edited_arguments: a question has no arguments.", field="edited_arguments")
    if ruling.decision == "approve" and not (ruling.answer or "").strip():
        raise BadInput("answer: give an answer, or reject the question.", field="answer")
    if ruling.decision == "reject" and ruling.answer is not None:
        raise BadInput("answer: a question that is rejected takes no answer.", field="answer")


def _check_remember(approval: Approval, ruling: Ruling, user_id: UUID) -> None:
    if approval.kind != "tool" or ruling.decision != "approve":
        raise BadInput("remember: only the approval of a tool call can become a rule.", field="remember")
    if approval.tainted_by is not None:
        raise BadInput(
            "remember: this run has read untrusted text, so no rule can be learnt from it. Decide without it.",
            field="remember",
        )
    if user_id != approval.owner_id:
        raise Forbidden("Only the owner of the run can have a rule learnt from it.")
