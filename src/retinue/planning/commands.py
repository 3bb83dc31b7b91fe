"""What changes plans: start, end, cancel, retry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from retinue import approvals, runs
from retinue.dispatch import Dispatcher, wake
from retinue.kernel import Conflict, NotFound, Scope, new_id
from retinue.ledger import Event, append, read_stream
from retinue.planning import asking, rules
from retinue.planning.events import (
    PlanApprovalRequested,
    PlanCancelled,
    PlanCompleted,
    PlanDeadLettered,
    PlanDrafted,
    PlanFailed,
    PlanStarted,
    TaskRetried,
)
from retinue.planning.graph import Plan
from retinue.planning.state import Node, PlanState, PlanStatus, TaskStatus, fold
from retinue.planning.views import PlanRow, lock_plan
from retinue.runs import Parent

ADVANCE = "plan.advance"
"""The wake-up that looks at a plan and starts what may begin."""

EndHook = Callable[[Scope, UUID, PlanState], Awaitable[None]]

end_hooks: list[EndHook] = []
"""Called in the transaction that ends a plan, with its id and state. A hook locks nothing that lies above the plan."""

_ENDS = (PlanCompleted, PlanFailed, PlanCancelled, PlanDeadLettered)


def stream_of(plan_id: UUID) -> str:
    """Name a plan's stream."""
    return f"plan:{plan_id}"


async def load_plan(scope: Scope, plan_id: UUID, upto: int | None = None) -> PlanState:
    """Return a plan's state, folded from its stream; with ``upto``, as of that version.

    Raises:
        NotFound: there is no such plan.
    """
    recorded = await read_stream(scope, stream_of(plan_id), upto=upto)
    if not recorded:
        raise NotFound("plan")
    return fold(recorded)


# Starting


async def start_plan(
    scope: Scope,
    plan: Plan,
    *,
    session_id: UUID | None = None,
    parent: Parent | None = None,
    ask: Sequence[str] = (),
    callback: str | None = None,
    approval_seconds: float = 300.0,
) -> UUID:
    """Accept a plan that was checked, in the name of the scope's user; return its id.

    Args:
        session_id: whose workspace its runs share; None: the plan has one of its own.
        parent: the call of a run that waits for its end.
        ask: why a person must approve it first; empty: it begins at once.
        callback: where its end is reported to.
        approval_seconds: how long that person has.
    """
    plan_id = new_id()
    drafted = PlanDrafted(
        owner_id=scope.owner(),
        session_id=session_id or plan_id,
        plan=plan,
        parent=parent,
        ask=tuple(ask),
        callback=callback,
    )
    second: Event = PlanStarted()
    if ask:
        approval_id = await asking.ask_for_plan(scope, plan_id, drafted, ADVANCE, approval_seconds)
        second = PlanApprovalRequested(approval_id=approval_id)
    await record(scope, plan_id, drafted, 0, drafted, second)
    if plan.deadline is not None:
        await wake(scope, ADVANCE, plan_id, at=plan.deadline)
    if not ask:
        await scope.service(Dispatcher).prompt(scope, ADVANCE, plan_id)
    return plan_id


async def record(scope: Scope, plan_id: UUID, drafted: PlanDrafted | PlanRow, version: int, *facts: Event) -> int:
    """Append facts to a plan whose row is locked by this scope; return the new version.

    They show on the stream of the run that waits for the plan, too; its end does not, for it is not that run's.
    """
    waits = drafted.parent.id if drafted.parent is not None and drafted.parent.kind == "run" else None
    on_the_way = [fact for fact in facts if not isinstance(fact, _ENDS)]
    for run_id, some in ((waits, on_the_way), (None, [fact for fact in facts if isinstance(fact, _ENDS)])):
        if some:
            version = await append(
                scope,
                stream_of(plan_id),
                version,
                some,
                session_id=drafted.session_id,
                run_id=run_id,
                owner_id=drafted.owner_id,
            )
    return version


# Ending


async def cancel_plan(scope: Scope, plan_id: UUID, reason: str) -> bool:
    """End a plan and everything below it; False when it had ended already.

    Raises:
        NotFound: there is no such plan.
    """
    if (await lock_plan(scope, plan_id)).ended_at is not None:
        return False
    state = await load_plan(scope, plan_id)
    await end_plan(scope, plan_id, state, PlanCancelled(reason=reason), f"The plan was cancelled. {reason}".strip())
    return True


async def end_plan(
    scope: Scope, plan_id: UUID, state: PlanState, fact: Event, reason: str, stopped: Sequence[Errand] = ()
) -> None:
    """Record a plan's end, end everything below it, and wake whoever waits for it. The state is brought up to date.

    Args:
        stopped: what else is to be cancelled, of tasks that were stopped in this transaction.
    """
    assert state.drafted is not None
    below = [errand_of(state.nodes[one]) for one in state.open if state.nodes[one].status is TaskStatus.RUNNING]
    await cancel_below(scope, [*stopped, *below, Errand(approval_id=state.approval_id)], reason)
    state.version = await record(scope, plan_id, state.drafted, state.version, fact)
    rules.apply(state, fact, scope.clock.now())
    await tell_of_end(scope, plan_id, state.drafted.parent, state)


async def tell_of_end(scope: Scope, plan_id: UUID, parent: Parent | None, state: PlanState | None) -> None:
    """Wake whoever waits for a plan that has just ended, and call the hooks, if its state is known."""
    if parent is not None and parent.kind == "run":
        await wake(scope, runs.ADVANCE, parent.id)
    if state is not None:
        for hook in end_hooks:
            await hook(scope, plan_id, state)


@dataclass(frozen=True, slots=True)
class Errand:
    """What a task that is under way has others do: a run, or a question to people."""

    run_id: UUID | None = None
    approval_id: UUID | None = None


def errand_of(node: Node) -> Errand:
    """Return what a task has others do."""
    return Errand(node.run_id, node.approval_id)


async def cancel_below(scope: Scope, errands: Sequence[Errand], reason: str) -> None:
    """Cancel the runs and questions of tasks. What has ended or has an outcome stays as it is."""
    # All rows before any lane, and both in one order: other transactions lock them in the same.
    found = [
        await runs.find_run(scope, run_id, lock=True)
        for run_id in sorted(one.run_id for one in errands if one.run_id is not None)
    ]
    for run in sorted(found, key=lambda one: one.agent_id):
        with suppress(Conflict):  # it has ended, and the wake-up that says so is on its way
            await runs.cancel(scope, run.run_id, reason)
    await approvals.cancel(scope, [one.approval_id for one in errands if one.approval_id is not None])


# Trying again


async def retry_plan(scope: Scope, plan_id: UUID) -> None:
    """Try again what failed for good in a plan that has ended, and what was not done because of it.

    Raises:
        NotFound: there is no such plan.
        Conflict: it goes on, it never began, it was put aside, or nothing in it failed.
    """
    row = await lock_plan(scope, plan_id)
    if row.status is PlanStatus.DEAD_LETTERED:  # whose events may be what cannot be read
        raise Conflict("The plan was put aside, and nothing says that a task failed. Requeue it.")
    state = await load_plan(scope, plan_id)
    if not state.ended:
        raise Conflict(f"The plan has not ended: it is {state.status}.")
    if state.started_at is None:
        raise Conflict("The plan never began. Start it anew.")
    failed, skipped = rules.to_retry(state)
    if not failed and not skipped:
        raise Conflict("Nothing in this plan failed or was left out.")
    assert state.drafted is not None
    deadline = same_time_again(state, scope.clock.now())
    fact = TaskRetried(task_ids=tuple(failed), skipped=tuple(skipped), deadline=deadline)
    await record(scope, plan_id, state.drafted, state.version, fact)
    if deadline is not None:
        await wake(scope, ADVANCE, plan_id, at=deadline)
    await scope.service(Dispatcher).prompt(scope, ADVANCE, plan_id)


def same_time_again(state: PlanState, now: datetime) -> datetime | None:
    """Return the deadline of a plan that goes on now: it has as long as it had at first. None: it has none."""
    first = state.graph.deadline
    return None if first is None or state.created_at is None else now + (first - state.created_at)


async def wake_plan(scope: Scope, parent: Parent, _ended: object) -> None:
    """Look at a plan because a run of one of its tasks ends: the hook for parents of the kind ``plan``."""
    await scope.service(Dispatcher).prompt(scope, ADVANCE, parent.id)
