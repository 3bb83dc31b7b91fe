"""The end of an operation: one transaction under the lock of its row, whoever comes to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

import msgspec
from prometheus_client import Counter

from retinue import artifacts, grants, metering, runs
from retinue.artifacts import Received
from retinue.dispatch import wake
from retinue.kernel import Conflict, NotFound, Scope
from retinue.ledger import Event
from retinue.metering import Charge
from retinue.operations import crew, views
from retinue.operations.commands import LOOK, load, record
from retinue.operations.events import (
    Ending,
    OperationCancelled,
    OperationCompleted,
    OperationFailed,
    OperationHandedOver,
    OperationInterrupted,
    OperationTimedOut,
    Usage,
)
from retinue.operations.judging import TIMEOUT
from retinue.operations.policy import policy
from retinue.operations.rules import STATUS_OF, OperationStatus
from retinue.operations.views import OperationRow, find_operation
from retinue.runs import RunOutcome
from retinue.runs import Status as RunStatus

ENDED = Counter("retinue_operations_total", "Operations that ended", ["driver", "status", "kind"])

_RUN_KINDS = {"deadline": TIMEOUT, "dead_letter": "worker_lost", "budget": "budget"}


class Superseded(Conflict):
    """Another attempt has the operation, or it has ended: what this one did is thrown away."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Which attempt of which operation wants to write."""

    operation_id: UUID
    attempt: int


async def locked_for(scope: Scope, fence: Fence) -> OperationRow:
    """Lock an operation for its newest attempt.

    Raises:
        Superseded: this is not it any more.
    """
    row = await find_operation(scope, fence.operation_id, lock=True)
    if row.ended or row.attempt != fence.attempt:
        raise Superseded(f"Attempt {fence.attempt} has lost the operation: attempt {row.attempt} is {row.status}.")
    return row


async def finish(
    scope: Scope,
    fence: Fence,
    wanted: OperationCompleted | OperationFailed | OperationTimedOut,
    made: Sequence[Received],
) -> Ending:
    """End an operation by its newest attempt: publish what it made and record what came of it, or neither.

    What somebody wants cancelled, or was made under a grant that is over, publishes nothing.

    Raises:
        Superseded: another attempt has it, or it has ended; nothing is written.
    """
    row = await locked_for(scope, fence)
    refusal = await _refusal(scope, row, wanted.usage)
    if refusal is None and made:
        await artifacts.publish(scope, made)
    await discard_left(scope, row.operation_id)
    return await end(scope, row, wanted if refusal is None else refusal)


async def leave(scope: Scope, row: OperationRow, usage: Usage, *, handed_over: bool) -> None:
    """Leave an attempt in the middle that was neither finished nor cancelled; charge for what it used.

    The row is locked, and the attempt is its newest one. It is charged by its number: what ends the operation later,
    or begins the next attempt, cannot charge for it again.

    Args:
        handed_over: this process ends in good order, and it does not count as a try.
    """
    facts: list[Event] = []
    if usage != Usage():
        await _charge(scope, row, row.attempt, usage)
        facts.append(OperationInterrupted(attempt=row.attempt, usage=usage))
    if handed_over:
        facts.append(OperationHandedOver(attempt=row.attempt))
    if facts:
        await record(scope, row, *facts)


async def discard_left(scope: Scope, operation_id: UUID) -> None:
    """Give up what attempts stored and did not publish."""
    if left := await artifacts.unpublished(scope, operation_id):
        await artifacts.discard_in(scope, left)


async def _refusal(scope: Scope, row: OperationRow, usage: Usage) -> Ending | None:
    if row.cancel_cause is not None:
        return await why_cancelled(scope, row, usage)
    if row.grant_id is not None and (over := await grant_over(scope, row.grant_id)):
        return OperationFailed(attempt=row.attempt, kind="grant", detail=over, usage=usage)
    return None


async def grant_over(scope: Scope, grant_id: UUID) -> str | None:
    """Say why a grant does not hold any more; None: it does."""
    try:
        terms = await grants.terms(scope, grant_id)
    except NotFound:
        return "The grant is not there any more."
    if terms.revoked_at is not None:
        return "The grant was revoked."
    if terms.expires_at is not None and terms.expires_at <= scope.clock.now():
        return "The grant has expired."
    return None


async def why_cancelled(scope: Scope, row: OperationRow, usage: Usage) -> Ending:
    """Return the end of an operation that somebody wants to end."""
    asked = (await load(scope, row.operation_id)).cancel
    reason = asked.reason if asked else ""
    if row.cancel_cause == "grant":
        return OperationFailed(attempt=row.attempt, kind="grant", detail=reason or "The grant is over.", usage=usage)
    return OperationCancelled(attempt=row.attempt, reason=reason, usage=usage)


async def end(scope: Scope, row: OperationRow, fact: Ending) -> Ending:
    """Record the end of an operation whose row is locked, and all that belongs to it: money, grant, caller."""
    fact = await _charged(scope, row, fact)
    await record(scope, row, fact)
    if row.grant_id is not None:
        before = (await load(scope, row.operation_id)).before
        await grants.settle(scope, row.grant_id, row.operation_id, fact.usage.cost - before.cost)
    await _keep_or_drop_files(scope, row, fact)
    if row.caller_run is not None:
        await wake(scope, runs.ADVANCE, row.caller_run)
    status = STATUS_OF[type(fact)]
    kind = fact.kind if isinstance(fact, OperationFailed) else ""
    scope.uow.after_commit(lambda: ENDED.labels(row.driver, status, kind).inc())
    return fact


async def _charged(scope: Scope, row: OperationRow, fact: Ending) -> Ending:
    """Charge for what an attempt used, and say in its end what all of the operation has cost."""
    used = fact.usage
    await _charge(scope, row, fact.attempt, used)
    bill = await metering.bill(scope, row.operation_id)
    models = [line for line in bill.lines if line.kind == "model"]
    usage = msgspec.structs.replace(
        used,
        cost=bill.cost,
        model_cost=sum(line.cost for line in models),
        model_calls=sum(int(line.quantity) for line in models),
        input_tokens=sum(line.input_tokens for line in models),
        output_tokens=sum(line.output_tokens for line in models),
        unpriced=bill.unpriced,
    )
    return msgspec.structs.replace(fact, usage=usage)


async def _charge(scope: Scope, row: OperationRow, attempt: int, used: Usage) -> None:
    """Charge for what an attempt used, unless it was charged before."""
    agent_id = await crew.agent_id(scope)
    used_of: dict[Literal["cpu", "memory"], float] = {"cpu": used.cpu_seconds, "memory": used.memory_byte_seconds}
    charges = [
        Charge(
            kind=kind,
            quantity=quantity,
            key=str(attempt),
            user_id=row.owner_id,
            agent_id=agent_id,
            application=row.application,
            operation_id=row.operation_id,
        )
        for kind, quantity in used_of.items()
        if quantity > 0
    ]
    await metering.charge(scope, charges)


async def _keep_or_drop_files(scope: Scope, row: OperationRow, fact: Ending) -> None:
    """Forget the small files of the request; where it may be tried again, only after a while."""
    if isinstance(fact, OperationCompleted):
        await views.drop_files(scope, row.operation_id)
    elif await views.has_files(scope, row.operation_id):
        holds, _ = await policy(scope)
        await wake(
            scope, LOOK, row.operation_id, at=scope.clock.now() + timedelta(seconds=holds.failed_retention_seconds)
        )


def by_its_run(row: OperationRow, outcome: RunOutcome, usage: Usage) -> Ending:
    """Return the end of an operation whose run has ended and did not record one: cancelled, out of time, poison."""
    if outcome.status is RunStatus.CANCELLED:
        return OperationCancelled(attempt=row.attempt, reason=outcome.text, usage=usage)
    kind = _RUN_KINDS.get(outcome.kind or "", "internal")
    if kind == TIMEOUT:
        return OperationFailed(
            attempt=row.attempt, kind="worker_lost", detail=f"It took too many attempts. {outcome.text}", usage=usage
        )
    return OperationFailed(attempt=row.attempt, kind=kind, detail=outcome.text, usage=usage)


async def look(scope: Scope, row: OperationRow) -> bool:
    """Record the end that is missing once a run has ended otherwise; return whether there was one.

    The row is locked.
    """
    if row.ended:
        return False
    outcome = await runs.outcome(scope, row.run_id, lock=True)
    if outcome is None:
        return False
    await discard_left(scope, row.operation_id)
    used = (await load(scope, row.operation_id)).used
    ending = by_its_run(row, outcome, used) if row.cancel_cause is None else await why_cancelled(scope, row, used)
    await end(scope, row, ending)
    return True


async def forget_files(scope: Scope, row: OperationRow) -> None:
    """Forget what came with a request that nobody tried again in time. The row is locked."""
    if not row.ended or row.status is OperationStatus.COMPLETED or row.ended_at is None:
        return
    holds, _ = await policy(scope)
    if scope.clock.now() >= row.ended_at + timedelta(seconds=holds.failed_retention_seconds):
        await views.drop_files(scope, row.operation_id)
