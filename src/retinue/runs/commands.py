"""What people and other rooms do to runs: start, cancel, retry, reconcile, pause, drop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from retinue import approvals, metering
from retinue.agents import Agent, AgentDefinition, definition
from retinue.dispatch import Dispatcher, wake
from retinue.kernel import BadInput, Conflict, Scope, new_id
from retinue.ledger import Event, append, read_stream
from retinue.runs import lanes
from retinue.runs.conversation import EndedRun
from retinue.runs.delegations import Delegations
from retinue.runs.events import (
    GivenCall,
    Parent,
    RunActivated,
    RunCancelled,
    RunCancelRequested,
    RunDropped,
    RunQueued,
    RunRequested,
    RunRetried,
    ToolReconciled,
)
from retinue.runs.parents import conversation_of, lock_above, tell_end
from retinue.runs.rules import ENDED, RETRYABLE, CallStatus, RunState, Status, fold, fold_now
from retinue.runs.views import RunRow, find_run, open_runs, set_routing

ADVANCE = "run.advance"


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was accepted."""

    run_id: UUID
    reply_id: UUID
    status: Status


class Starter(Protocol):
    """Begins activations in this process; the runs room's work registers itself here (a service of the house)."""

    def begin(self, scope: Scope, run_id: UUID, state: RunState, *, budgeted: bool) -> None:
        """Advance a run whose activation is recorded in ``scope``, once that has committed."""
        ...


def stream_of(run_id: UUID) -> str:
    """Name a run's stream."""
    return f"run:{run_id}"


async def start_run(
    scope: Scope,
    *,
    run_id: UUID,
    session_id: UUID,
    message_id: UUID,
    agent_id: UUID,
    agent_version: int,
    agent: AgentDefinition,
    history: int,
    priority: int,
    blocked: bool,
) -> Started:
    """Accept a run: give it a slot of its agent's lane, or a place in the queue.

    Where this process has room, the activation is recorded right here and begins when the scope commits.

    Args:
        history: the ordinal of the last message the run shall see.
        blocked: an earlier run of the session is not done yet; :func:`unblock` follows.

    Raises:
        TooManyRequests: the lane's queue is full.
        BudgetExhausted: no money is left.
    """
    requested = RunRequested(
        session_id=session_id,
        message_id=message_id,
        reply_id=new_id(),
        agent_id=agent_id,
        agent_version=agent_version,
        owner_id=scope.owner(),
        history=history,
        priority=priority,
    )
    return await _accept(scope, run_id, requested, agent, blocked=blocked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A part of something bigger, given to an agent: a run without a conversation.

    Attributes:
        parent: whose part it is; told of the end through ``parent_hooks``.
        session_id: whose workspace and stream it uses; there need not be such a session.
        prompt: all the agent is told, besides its instructions.
        owner_id: in whose name; None: the scope's user.
        depth: how many delegations lie above it.
        tainted_by: what untrusted text those above it have read.
        seconds: a shorter time than the agent's.
        budget: less money than the agent may spend in a run, in nano-dollars.
        call: the one call to be made, without a model.
    """

    parent: Parent
    session_id: UUID
    agent: Agent
    prompt: str = ""
    owner_id: UUID | None = None
    depth: int = 0
    tainted_by: Sequence[str] = ()
    seconds: float | None = None
    budget: int | None = None
    call: GivenCall | None = None
    priority: int | None = None


async def assign(scope: Scope, assignment: Assignment) -> UUID:
    """Accept a run that is a part of something bigger; return its id.

    Whoever starts several in one transaction takes the agents in the order of their ids: each lane is locked.

    Raises:
        TooManyRequests: the lane's queue is full.
        BudgetExhausted: no money is left.
    """
    agent, run_id = assignment.agent, new_id()
    requested = RunRequested(
        session_id=assignment.session_id,
        message_id=run_id,
        reply_id=new_id(),
        agent_id=agent.agent_id,
        agent_version=agent.version,
        owner_id=assignment.owner_id or scope.owner(),
        history=0,
        priority=agent.definition.priority if assignment.priority is None else assignment.priority,
        prompt=assignment.prompt,
        parent=assignment.parent,
        call=assignment.call,
        depth=assignment.depth,
        tainted_by=tuple(assignment.tainted_by),
        seconds=assignment.seconds,
        budget=assignment.budget,
    )
    return (await _accept(scope, run_id, requested, agent.definition, blocked=False)).run_id


async def _accept(
    scope: Scope, run_id: UUID, requested: RunRequested, agent: AgentDefinition, *, blocked: bool
) -> Started:
    agent_id, reply_id, limits = requested.agent_id, requested.reply_id, agent.limits
    budgeted = await metering.check(scope, agent_id)
    slot = await lanes.enter(scope, agent_id, concurrency=0 if blocked else limits.concurrency, queue=limits.queue)
    dispatcher = scope.service(Dispatcher)
    here = slot and dispatcher.capacity_left > 0 and await dispatcher.hold(scope, ADVANCE, run_id)
    facts: list[Event] = [requested]
    if here:
        facts.append(RunActivated(worker_id=dispatcher.worker_id, epoch=1))
    await append(
        scope,
        stream_of(run_id),
        0,
        facts,
        session_id=requested.session_id,
        run_id=run_id,
        owner_id=requested.owner_id,
    )
    if here:
        state = fold_now(RunState(), facts, scope.clock.now())
        starter = scope.service(Starter)  # type: ignore[type-abstract]  # services are found by their protocol
        starter.begin(scope, run_id, state, budgeted=budgeted)
        return Started(run_id, reply_id, Status.RUNNING)
    await set_routing(scope, run_id, ready=not blocked, has_slot=slot)
    if slot:
        await wake(scope, ADVANCE, run_id, priority=requested.priority)
    return Started(run_id, reply_id, Status.QUEUED)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        text: its answer, or for a person what went wrong.
        kind: what went wrong, as a stable name; None: nothing.
        tainted: it has read untrusted text.
        cost: nano-dollars, with those of the work that it handed on.
    """

    status: Status
    text: str
    kind: str | None
    tainted: bool
    tokens: int
    cost: int


async def outcome(scope: Scope, run_id: UUID, *, lock: bool = False) -> RunOutcome | None:
    """Return how a run ended, None while it goes on; ``lock``: nobody ends it before this scope commits.

    Raises:
        NotFound: there is no such run.
    """
    run = await find_run(scope, run_id, lock=lock)
    if run.status not in ENDED:
        return None
    state = await load(scope, run_id)
    kind = None if run.status is Status.COMPLETED else state.error.kind if state.error else run.status.value
    return RunOutcome(run.status, closing_text(state), kind, bool(state.tainted_by), state.tokens, state.spent)


def closing_text(state: RunState) -> str:
    """Return the answer of a run that has one, else what a person should know of its end."""
    if state.status is Status.COMPLETED:
        return state.text
    if state.error is not None:
        return state.error.detail
    return f"The run was {state.status}."


async def unblock(scope: Scope, run_id: UUID) -> None:
    """Let a run go on that waited for an earlier one of its session."""
    run = await find_run(scope, run_id, lock=True)
    if run.status is not Status.QUEUED or run.has_slot:
        return
    await set_routing(scope, run_id, ready=True, has_slot=False)
    agent = await definition(scope, run.agent_id, run.agent_version)
    for lucky in await lanes.fill(scope, run.agent_id, agent.limits.concurrency):
        await wake(scope, ADVANCE, lucky)


async def succeed(scope: Scope, successor: UUID | None) -> None:
    """Wake the run that was handed a slot."""
    if successor is not None:
        await wake(scope, ADVANCE, successor)


async def load(scope: Scope, run_id: UUID) -> RunState:
    """Return a run's state, folded from its stream."""
    return fold(await read_stream(scope, stream_of(run_id)))


async def record(scope: Scope, run: RunRow, *facts: Event) -> None:
    """Append facts to a run whose row is locked by this scope."""
    await append(
        scope,
        stream_of(run.run_id),
        run.version,
        facts,
        session_id=run.session_id,
        run_id=run.run_id,
        owner_id=run.owner_id,
    )


async def cancel(scope: Scope, run_id: UUID, reason: str) -> None:
    """End a run: at once when it waits or is queued, within a second when a worker has it.

    Raises:
        NotFound: there is no such run.
        Conflict: it has ended already.
    """
    seen = await find_run(scope, run_id)
    await lock_above(scope, seen.session_id, seen.parent)
    run = await find_run(scope, run_id, lock=True)
    if run.status in ENDED:
        raise Conflict(f"The run has ended already: it is {run.status}.")
    if run.status is Status.RUNNING:
        await record(scope, run, RunCancelRequested(reason=reason))
        await scope.service(Dispatcher).ask_to_stop(scope, ADVANCE, run_id, "cancel")
        return
    await record(scope, run, RunCancelled(reason=reason))
    await approvals.cancel_for_run(scope, run_id)
    if run.status is Status.WAITING or run.model_calls:
        await scope.service(Delegations).cancel(scope, await load(scope, run_id), reason)
    await metering.release_run(scope, run_id)
    await tell_of_end(scope, run, Status.CANCELLED, f"The run was cancelled. {reason}".strip())
    if run.status is Status.QUEUED:
        await set_routing(scope, run_id, ready=False, has_slot=False)
        if run.has_slot:
            await succeed(scope, await lanes.leave(scope, run.agent_id))
        else:
            await lanes.leave_queue(scope, run.agent_id)


async def tell_of_end(scope: Scope, run: RunRow, status: Status, text: str) -> None:
    """Tell the session, or what the run is a part of, that it has ended."""
    await tell_end(
        scope,
        run.parent,
        EndedRun(run.run_id, run.session_id, run.reply_id, run.agent_id, run.owner_id, status, text, run.demo),
    )


async def retry(scope: Scope, run_id: UUID) -> None:
    """Let an ended run go on from the step it failed at; what is recorded is not done again.

    Raises:
        NotFound: there is no such run.
        Conflict: it has not ended, or it ended with an answer.
        TooManyRequests: the lane is full.
    """
    seen = await find_run(scope, run_id)
    await lock_above(scope, seen.session_id, seen.parent)
    run = await find_run(scope, run_id, lock=True)
    if run.status not in RETRYABLE:
        raise Conflict(f"Only a run that failed, timed out or was cancelled can be retried; this one is {run.status}.")
    await metering.check(scope, run.agent_id)
    await record(scope, run, RunRetried(after=run.status, reply_id=new_id()))
    if run.parent is not None or await conversation_of(scope).reopen(scope, run.session_id, run_id):
        if await queue_again(scope, run):
            await wake(scope, ADVANCE, run_id, priority=run.priority)
    else:
        await lanes.wait(scope, run.agent_id)


async def queue_again(scope: Scope, run: RunRow) -> bool:
    """Give a run that can go on a slot, or else a place in its agent's queue; return whether it was a slot."""
    agent = await definition(scope, run.agent_id, run.agent_version)
    slot = await lanes.enter(
        scope, run.agent_id, concurrency=agent.limits.concurrency, queue=max(agent.limits.queue, 1_000_000)
    )
    await set_routing(scope, run.run_id, ready=True, has_slot=slot)
    return slot


async def reconcile(
    scope: Scope, run_id: UUID, call_id: str, outcome: Literal["happened", "again", "give_up"], result: str | None
) -> None:
    """Say what became of a call that a dead worker left behind.

    Raises:
        NotFound: there is no such run.
        BadInput: the run has no such unknown call.
    """
    run = await find_run(scope, run_id, lock=True)
    state = await load(scope, run_id)
    call = state.call(call_id)
    if call is None or call.status is not CallStatus.UNKNOWN:
        raise BadInput("This run has no call of that id whose outcome is unknown.", field="call_id")
    await record(scope, run, ToolReconciled(call_id=call_id, outcome=outcome, result=result))
    if run.status is Status.WAITING:
        await wake(scope, ADVANCE, run_id)


async def drop(scope: Scope, run_id: UUID) -> None:
    """Give a dead letter up."""
    run = await find_run(scope, run_id, lock=True)
    if run.status is not Status.DEAD_LETTERED:
        raise Conflict("Only a dead letter can be dropped.")
    await record(scope, run, RunDropped())


async def wake_parent(scope: Scope, parent: Parent, ended: EndedRun) -> None:
    """Let a run go on whose call another run answered: the hook for parents of the kind ``run``."""
    await wake(scope, ADVANCE, parent.id)


# Pause and stop


async def pause_agent(scope: Scope, agent_id: UUID, paused: bool) -> None:
    """Close or open one agent's lane; running runs leave at their next step."""
    if paused:
        await lanes.set_paused(scope, agent_id, True)
        await _stop_runs(scope, agent_id)
        return
    waiting = await _held_up(scope, agent_id)
    await lanes.set_paused(scope, agent_id, False)
    await _resume_runs(scope, agent_id, waiting)


async def bound_lane(scope: Scope, agent_id: UUID, most: int) -> None:
    """Let at most so many runs of an agent go on at once, also of those that wait already; start what may start now.

    Where more go on, none of them is stopped: none is added until there are fewer.
    """
    await lanes.set_most(scope, agent_id, most)
    for lucky in await lanes.fill(scope, agent_id, most):
        await wake(scope, ADVANCE, lucky)


async def stop_tenant(scope: Scope, stopped: bool) -> None:
    """Close or open all lanes of the tenant: the emergency stop."""
    if stopped:
        await lanes.set_stopped(scope, True)
        await _stop_runs(scope, None)
        return
    waiting = await _held_up(scope, None)
    await lanes.set_stopped(scope, False)
    await _resume_runs(scope, None, waiting)


async def _held_up(scope: Scope, agent_id: UUID | None) -> list[RunRow]:
    """Lock what a closed lane may have held up; before the lane itself is locked."""
    return await open_runs(scope, agent_id, Status.WAITING, Status.QUEUED, lock=True)


async def _stop_runs(scope: Scope, agent_id: UUID | None) -> None:
    dispatcher = scope.service(Dispatcher)
    for run in await open_runs(scope, agent_id, Status.RUNNING):
        await dispatcher.ask_to_stop(scope, ADVANCE, run.run_id, "pause")


async def _resume_runs(scope: Scope, agent_id: UUID | None, held_up: Sequence[RunRow]) -> None:
    seen = {run.run_id for run in held_up}
    for run in await open_runs(scope, agent_id, Status.WAITING):
        if run.run_id not in seen and run.waits_for_stop:
            # It left while its lane was waited for, too late to be locked; whoever leaves later finds the lane open.
            await wake(scope, ADVANCE, run.run_id)
    queued = [run for run in held_up if run.status is Status.QUEUED]
    for run in held_up:
        if run.waits_for_stop:
            await record(scope, run, RunQueued(reason="resumed"))
            await lanes.wait(scope, run.agent_id)
            await set_routing(scope, run.run_id, ready=True, has_slot=False)
            queued.append(run)
        elif run.status is Status.WAITING or run.has_slot:
            # Wake-ups that came while the lane was closed were dropped.
            await wake(scope, ADVANCE, run.run_id)
    for one in {run.agent_id: run for run in queued}.values():
        agent = await definition(scope, one.agent_id, one.agent_version)
        for lucky in await lanes.fill(scope, one.agent_id, agent.limits.concurrency):
            await wake(scope, ADVANCE, lucky)
    # Whoever was asked to stop and has not got there yet goes on.
    await scope.queries.execute(
        "UPDATE dispatch.activations SET stop = NULL WHERE tenant_id = $1 AND stop = 'pause'",
        scope.tenant_id,  # tenant: explicit, dispatch sees ids of all tenants
    )


async def delete_agent_runs(scope: Scope, agent_id: UUID) -> None:
    """Cancel what an agent that is deleted still has open."""
    for run in await open_runs(scope, agent_id, Status.QUEUED, Status.RUNNING, Status.WAITING):
        # The look locks nothing: a run that ends between it and its cancellation is what was wanted.
        with suppress(Conflict):
            await cancel(scope, run.run_id, "its agent was deleted")
