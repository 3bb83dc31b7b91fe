"""Plans whose every look fails: each failure is noted, the next look comes later, and the last one is the end.

A look fails by a mistake in the program, or because something of the plan cannot be read; what its tasks do wrong is
none. Nothing here needs the plan's state: it may be what cannot be read. A plan that was put aside keeps its tasks as
they were, and goes on from there when a person says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from retinue import approvals, runs
from retinue.database import open_scope
from retinue.dispatch import Dispatcher, wake
from retinue.kernel import Conflict, NotFound, Scope, Services, StorageFull, Unavailable
from retinue.ledger import Event, read_stream
from retinue.planning import asking
from retinue.planning.commands import (
    ADVANCE,
    Errand,
    cancel_below,
    load_plan,
    record,
    same_time_again,
    stream_of,
    tell_of_end,
)
from retinue.planning.events import PlanApprovalRequested, PlanDeadLettered, PlanLookFailed, PlanRequeued
from retinue.planning.policy import policy
from retinue.planning.state import Node, PlanState, PlanStatus, TaskStatus, apply
from retinue.planning.views import PlanRow, lock_plan
from retinue.runs import Status as RunStatus

log = logging.getLogger(__name__)

PAUSES = tuple(timedelta(seconds=one) for one in (1, 5, 30, 120, 600))
"""Between looks that fail one after the other; when the look after the last pause fails too, the plan is put aside."""

SOON = timedelta(seconds=0.5)
"""A look that comes so much too early may be the one that was meant: clocks of machines differ."""

NOT_ITS_FAULT = (Unavailable, StorageFull)
"""What is wrong with the database is no failure of a plan, and could not be noted either."""

_LONGEST_CAUSE = 500
_MOST_RUNS = 20_000


async def look_failed(services: Services, tenant_id: UUID, plan_id: UUID, error: Exception) -> None:
    """Note that a look failed, in a transaction of its own: the next one comes after a pause, or the plan is put aside.

    Raises:
        Unavailable: that cannot be noted; the wake-up is tried again.
    """
    cause = f"{type(error).__name__}: {error}"[:_LONGEST_CAUSE]
    try:
        await _note(services, tenant_id, plan_id, cause, carefully=True)
    except NOT_ITS_FAULT:
        raise
    except Exception:
        log.exception("the plan %s is put aside without an end to what is below it", plan_id)
        await _note(services, tenant_id, plan_id, cause, carefully=False)


async def _note(services: Services, tenant_id: UUID, plan_id: UUID, cause: str, *, carefully: bool) -> None:
    async with open_scope(services, tenant_id) as scope:
        try:
            row = await lock_plan(scope, plan_id)
        except NotFound:
            row = None
        if row is not None and row.ended_at is None:
            scope.user_id = row.owner_id
            await _count(scope, row, cause, carefully)
        await services.get(Dispatcher).let_go(scope, ADVANCE, plan_id)


async def _count(scope: Scope, row: PlanRow, cause: str, carefully: bool) -> None:
    before = await _failed_before(scope, row)
    if before is not None and await paused(scope, row.plan_id, before):
        return
    attempt = 1 if before is None else before.attempt + 1
    if attempt > len(PAUSES):
        await _put_aside(scope, row, attempt, cause, carefully)
        return
    again_at = scope.clock.now() + PAUSES[attempt - 1]
    await record(scope, row.plan_id, row, row.version, PlanLookFailed(attempt=attempt, cause=cause, again_at=again_at))
    await wake(scope, ADVANCE, row.plan_id, at=again_at)


async def paused(scope: Scope, plan_id: UUID, failed: PlanLookFailed) -> bool:
    """Whether a plan is not to be looked at yet; the look that was asked for at the end of the pause will come."""
    left = failed.again_at - scope.clock.now()
    if timedelta(0) < left < SOON:
        await wake(scope, ADVANCE, plan_id, at=failed.again_at)
    return left > timedelta(0)


async def _failed_before(scope: Scope, row: PlanRow) -> PlanLookFailed | None:
    """Return the failure of the look before. Only the last event is read: another one may be what is wrong."""
    try:
        [last] = await read_stream(scope, stream_of(row.plan_id), after=row.version - 1, upto=row.version)
    except ValueError:
        return None
    return last.event if isinstance(last.event, PlanLookFailed) else None


# Putting aside


async def _put_aside(scope: Scope, row: PlanRow, attempts: int, cause: str, carefully: bool) -> None:
    state = await state_if_readable(scope, row.plan_id) if carefully else None
    run_ids = await _open_runs(scope, row) if carefully else []
    fact = PlanDeadLettered(cause=cause, attempts=attempts, run_ids=tuple(run_ids))
    log.error("the plan %s is put aside after %d looks that failed: %s", row.plan_id, attempts, cause)
    await cancel_below(scope, _errands(row, state, run_ids), "the plan was put aside")
    await record(scope, row.plan_id, row, row.version, fact)
    if state is not None:
        apply(state, fact, scope.clock.now())
    await tell_of_end(scope, row.plan_id, row.parent, state)


async def state_if_readable(scope: Scope, plan_id: UUID) -> PlanState | None:
    """Return a plan's state, unless its events cannot be read."""
    try:
        return await load_plan(scope, plan_id)
    except NOT_ITS_FAULT:
        raise
    except Exception as error:
        log.warning("the plan %s cannot be read: %s", plan_id, error)
        return None


async def _open_runs(scope: Scope, row: PlanRow) -> list[UUID]:
    found: list[UUID] = []
    for status in (RunStatus.QUEUED, RunStatus.WAITING, RunStatus.RUNNING):
        some = await runs.list_runs(
            scope, row.owner_id, before=None, limit=_MOST_RUNS, status=status, session_id=row.session_id
        )
        found += [one.run_id for one in some if one.parent is not None and one.parent.id == row.plan_id]
    return found


def _errands(row: PlanRow, state: PlanState | None, run_ids: Sequence[UUID]) -> list[Errand]:
    asked = {row.approval_id} if row.started_at is None else set()
    if state is not None:
        asked |= {state.nodes[one].approval_id for one in state.open}
    return [Errand(run_id=one) for one in run_ids] + [Errand(approval_id=one) for one in asked if one is not None]


# Going on


async def requeue_plan(scope: Scope, plan_id: UUID) -> None:
    """Have a plan that was put aside go on from where it was. What is done stays done.

    Raises:
        NotFound: there is no such plan.
        Conflict: it was not put aside, it cannot be read, or a run of it is still being ended.
    """
    row = await lock_plan(scope, plan_id)
    if row.status is not PlanStatus.DEAD_LETTERED:
        raise Conflict(f"The plan is {row.status}; only dead letters are put back into the queue.")
    state = await state_if_readable(scope, plan_id)
    if state is None or state.drafted is None:
        raise Conflict("The plan's events cannot be read by this version of the server. Start the plan anew.")
    waits = state.started_at is None
    deadline = same_time_again(state, scope.clock.now())
    fact = PlanRequeued(task_ids=tuple(await _to_begin_anew(scope, state)), deadline=deadline, waits=waits)
    facts: list[Event] = [fact]
    if waits and await _was_withdrawn(scope, state.approval_id):
        approval_id = await asking.ask_for_plan(
            scope, plan_id, state.drafted, ADVANCE, (await policy(scope))[0].approval_seconds
        )
        facts.append(PlanApprovalRequested(approval_id=approval_id))
    await record(scope, plan_id, row, row.version, *facts)
    if deadline is not None:
        await wake(scope, ADVANCE, plan_id, at=deadline)
    await scope.service(Dispatcher).prompt(scope, ADVANCE, plan_id)


async def _to_begin_anew(scope: Scope, state: PlanState) -> list[str]:
    """Return the tasks whose run or question was cancelled, and those that wait for events, which went by unheard."""
    under_way = [node for one in state.open if (node := state.nodes[one]).status is TaskStatus.RUNNING]
    return [node.id for node in under_way if await _is_to_begin_anew(scope, state, node)]


async def _is_to_begin_anew(scope: Scope, state: PlanState, node: Node) -> bool:
    if node.run_id is not None:
        ended = await runs.outcome(scope, node.run_id)
        if ended is None and node.run_id in state.let_go:
            raise Conflict(f"The run of the task {node.id!r} is still being ended. Try again in a moment.")
        return ended is not None and ended.status is RunStatus.CANCELLED and node.run_id in state.let_go
    if node.approval_id is not None:
        return await _was_withdrawn(scope, node.approval_id)
    return node.task.wait is not None and node.task.wait.event is not None


async def _was_withdrawn(scope: Scope, approval_id: UUID | None) -> bool:
    if approval_id is None:
        return False
    outcome = (await approvals.outcomes(scope, [approval_id])).get(approval_id)
    return outcome is not None and outcome.status == "cancelled"
