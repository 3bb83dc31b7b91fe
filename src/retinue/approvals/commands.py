"""Asking people, and giving every approval exactly one outcome."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, cast
from uuid import UUID

import msgspec

from retinue.approvals import rules, views
from retinue.approvals.events import ApprovalDecided, ApprovalRequested, Kind, Resume, RuleLearnt, RuleRemoved
from retinue.approvals.rules import Approval, Outcome, Ruling
from retinue.dispatch import wake
from retinue.kernel import NotFound, Scope, new_id
from retinue.ledger import Event, append

EXPIRE = "approval.expire"
"""The wake-up that closes an approval which nobody decided in time."""

edit_checks: dict[str, Callable[[Scope, Approval, dict[str, Any]], Awaitable[None]]] = {}
"""By kind of approval: refuses edited arguments that the room which asked could not use.

Called in the transaction that decides, before anything is recorded; it raises ``BadInput`` that names what is wrong,
and the approval stays open.
"""

# What a model writes may hold what PostgreSQL or UTF-8 cannot: NUL and halves of surrogate pairs.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class ApprovalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a run or a plan asks a person.

    Attributes:
        kind: ``tool``: may this call be made? ``question``: what is the answer? ``plan``: may it begin, as it is or
            edited? ``plan_step``: may the plan go on?
        plan_id: the plan that asks, in the place of a run; ``task_id``: which of its tasks.
        assignees: who is to decide, as user ids and roles; nobody: the owner.
        tool: the tool's name.
        arguments: of the call, exactly as they would be used.
        parameters: the tool's JSON schema, which edited arguments must fit; None: they cannot be edited.
        effect: what the call can cause: read, fetch, write or egress.
        reason: why a person is asked, for that person.
        tainted_by: what untrusted text the run has read; None: none.
        question: to the person.
        options: suggested answers.
        seconds: how long a person has.
        resume: whom the outcome wakes.
        owner_id: whose run it is; None: the scope's user.
    """

    kind: Kind
    resume: Resume
    seconds: float
    run_id: UUID | None = None
    agent_id: UUID | None = None
    plan_id: UUID | None = None
    task_id: str | None = None
    assignees: Sequence[str] = ()
    session_id: UUID | None = None
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    effect: str | None = None
    reason: str = ""
    tainted_by: str | None = None
    question: str | None = None
    options: Sequence[str] = ()
    owner_id: UUID | None = None


async def request(scope: Scope, wanted: ApprovalRequest) -> UUID:
    """Ask a person; return the approval's id. Its outcome wakes ``wanted.resume`` in the transaction that decides."""
    approval_id = new_id()
    now = scope.clock.now()
    expires_at = now + timedelta(seconds=wanted.seconds)
    fact = ApprovalRequested(
        approval_id=approval_id,
        kind=wanted.kind,
        owner_id=wanted.owner_id or scope.owner(),
        run_id=wanted.run_id,
        session_id=wanted.session_id,
        agent_id=wanted.agent_id,
        plan_id=wanted.plan_id,
        task_id=wanted.task_id,
        assignees=tuple(wanted.assignees),
        tool=wanted.tool,
        arguments=_storable(wanted.arguments),
        parameters=_storable(wanted.parameters),
        effect=wanted.effect,
        reason=_storable(wanted.reason),
        tainted_by=_storable(wanted.tainted_by),
        question=_storable(wanted.question),
        options=tuple(_storable(option) for option in wanted.options),
        created_at=now,
        expires_at=expires_at,
        resume=wanted.resume,
    )
    await append(
        scope,
        stream(approval_id),
        0,
        [fact],
        session_id=wanted.session_id,
        run_id=wanted.run_id,
        owner_id=fact.owner_id,
    )
    await wake(scope, EXPIRE, approval_id, at=expires_at)
    return approval_id


async def find(scope: Scope, approval_id: UUID) -> Approval:
    """Return an approval that the scope's user may see: an own one or one to decide; managers and admins see any.

    Raises:
        NotFound: there is none.
    """
    return _visible(scope, await views.by_id(scope, approval_id))


async def outcomes(scope: Scope, approval_ids: Sequence[UUID], *, lock: bool = False) -> Mapping[UUID, Outcome]:
    """Return what became of approvals, by id; those that still wait for a person are missing.

    Args:
        lock: let nobody decide them before this transaction ends. So a run that records that it waits either sees a
            decision here, or is woken by it later.
    """
    found = await views.many(scope, approval_ids, lock=lock) if approval_ids else ()
    return {one.approval_id: rules.outcome(one) for one in found if one.status != "pending"}


async def decide(scope: Scope, approval_id: UUID, ruling: Ruling) -> Approval:
    """Decide an approval and wake who waits for it.

    A ruling that comes after the deadline decides ``expired``: the caller must look at the returned status, and let
    the transaction commit before it refuses.

    Raises:
        NotFound: the scope's user may not see such an approval.
        Conflict: it has an outcome already, which is named.
        BadInput: the ruling does not fit the approval.
        Forbidden: no person decides, others are to decide, or somebody else than the owner wants a rule learnt.
    """
    rules.check_decider(scope.actor)
    approval = _visible(scope, await views.locked(scope, approval_id))
    rules.check_assigned(approval, scope.owner(), scope.role)
    await _check_edit(scope, approval, ruling)
    fact = rules.decide(approval, ruling, scope.actor, scope.owner(), scope.clock.now())
    if ruling.remember and fact.decision == "approve":
        await _learn(scope, approval)
    return await _close(scope, approval, fact)


async def _check_edit(scope: Scope, approval: Approval, ruling: Ruling) -> None:
    check = edit_checks.get(approval.kind)
    if check is not None and ruling.edited_arguments is not None and approval.status == "pending":
        await check(scope, approval, ruling.edited_arguments)


async def expire(scope: Scope, approval_id: UUID) -> bool:
    """Close an approval whose time is up; return whether it did.

    One that has an outcome stays as it is; one that has time left waits on.
    """
    approval = await views.locked(scope, approval_id)
    if approval is None or approval.status != "pending":
        return False
    if scope.clock.now() < approval.expires_at:
        await wake(scope, EXPIRE, approval_id, at=approval.expires_at)
        return False
    await _close(scope, approval, rules.expired(approval))
    return True


async def cancel_for_run(scope: Scope, run_id: UUID) -> Sequence[UUID]:
    """Close what a run still asks, because it ends; return the ids. Nobody is woken: the run itself is the caller."""
    pending = await views.locked_of_run(scope, run_id)
    for approval in pending:
        await _decided(scope, approval, rules.cancelled(approval, scope.actor))
    return [approval.approval_id for approval in pending]


async def cancel(scope: Scope, approval_ids: Sequence[UUID]) -> None:
    """Close approvals that nobody needs any more; those that have an outcome keep it. Nobody is woken."""
    for approval in await views.many(scope, approval_ids, lock=True) if approval_ids else ():
        if approval.status == "pending":
            await _decided(scope, approval, rules.cancelled(approval, scope.actor))


async def decided(scope: Scope, kind: Kind, limit: int) -> Sequence[Approval]:
    """Return what became of the user's own newest approvals of a kind."""
    return await views.decided(scope, scope.owner(), kind, limit)


async def rule_for(scope: Scope, agent_id: UUID, tool: str) -> Literal["allow"] | None:
    """Return what was learnt for a tool of an agent. It must not be used in a run that has read untrusted text."""
    return cast(Literal["allow"] | None, await views.rule_for(scope, agent_id, tool))


async def remove_rule(scope: Scope, rule_id: UUID) -> None:
    """Forget one of the user's rules: the agent asks again.

    Raises:
        NotFound: the user has no such rule.
    """
    revision = await views.locked_rule(scope, scope.owner(), rule_id)
    if revision is None:
        raise NotFound("approval rule")
    await append(scope, rule_stream(rule_id), revision, [RuleRemoved(rule_id=rule_id)])


def stream(approval_id: UUID) -> str:
    """Return the name of an approval's stream in the ledger."""
    return f"approval:{approval_id}"


def rule_stream(rule_id: UUID) -> str:
    """Return the name of a rule's stream in the ledger."""
    return f"approval-rule:{rule_id}"


def _visible(scope: Scope, approval: Approval | None) -> Approval:
    if approval is None or not rules.may_see(approval, scope.owner(), scope.role):
        raise NotFound("approval")
    return approval


async def _close(scope: Scope, approval: Approval, fact: ApprovalDecided) -> Approval:
    await _decided(scope, approval, fact)
    await wake(scope, approval.resume.kind, approval.resume.subject_id)
    closed = await views.by_id(scope, approval.approval_id)
    if closed is None:
        raise NotFound("approval")
    return closed


async def _decided(scope: Scope, approval: Approval, fact: Event) -> None:
    await append(
        scope,
        stream(approval.approval_id),
        approval.revision,
        [fact],
        session_id=approval.session_id,
        run_id=approval.run_id,
        owner_id=approval.owner_id,
    )


async def _learn(scope: Scope, approval: Approval) -> None:
    tool = approval.tool or ""
    assert approval.agent_id is not None  # only a tool call is remembered, and an agent makes it
    if await views.rule_for(scope, approval.agent_id, tool) is not None:
        return
    rule_id = new_id()
    fact = RuleLearnt(
        rule_id=rule_id,
        owner_id=approval.owner_id,
        agent_id=approval.agent_id,
        tool=tool,
        approval_id=approval.approval_id,
    )
    await append(scope, rule_stream(rule_id), 0, [fact], owner_id=approval.owner_id)


def _storable(value: Any) -> Any:
    """Replace, at any depth, the characters that cannot be stored."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_storable(key): _storable(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(inside) for inside in value]
    return value
