"""Claiming a run: whether it can go on, and the facts that an activation begins with."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from retinue import approvals, metering
from retinue.database import open_scope
from retinue.dispatch import Dispatcher
from retinue.kernel import Scope, Services, Settings
from retinue.ledger import Event, read_stream
from retinue.runs import lanes
from retinue.runs.commands import ADVANCE, queue_again, record, stream_of, succeed, tell_of_end
from retinue.runs.delegations import Delegations
from retinue.runs.events import Child, RunActivated, RunDeadLettered, RunQueued, ToolUnknown
from retinue.runs.journal import came_in, decided
from retinue.runs.rules import ENDED, CallStatus, RunState, Status, fold, fold_now, lost_calls
from retinue.runs.views import RunRow, find_run


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run this worker has; ``closed``: its lane is, so it must leave at its next step."""

    state: RunState
    trace_id: str
    closed: bool


async def claim(services: Services, tenant_id: UUID, run_id: UUID) -> Claimed | None:
    """Record the run's next activation by this worker; None when it cannot go on, or somebody else has it."""
    async with open_scope(services, tenant_id) as scope:
        run = await find_run(scope, run_id, lock=True)
        scope.user_id = run.owner_id
        closed = await lanes.is_closed(scope, run.agent_id)
        if run.status in ENDED or (closed and run.status is not Status.RUNNING) or not await _may_go_on(scope, run):
            return None
        dispatcher = services.get(Dispatcher)
        if not await dispatcher.hold(scope, ADVANCE, run_id):
            return None
        recorded = await read_stream(scope, stream_of(run_id))
        state = fold(recorded)
        if state.status is Status.RUNNING and state.attempts >= services.get(Settings).run_attempts:
            await _dead_letter(scope, run, state)
            return None
        facts = await _activation(scope, state, dispatcher.worker_id)
        await record(scope, run, *facts)
        fold_now(state, facts, scope.clock.now())
        trace_id = next((one.meta.trace for one in recorded if one.meta.trace), "")
        return Claimed(state, trace_id, closed)


async def _may_go_on(scope: Scope, run: RunRow) -> bool:
    """Whether the run has a slot. One that comes back from a wait asks for one, and queues when there is none."""
    if run.status is Status.WAITING:
        if not await _has_news(scope, run):
            return False
        if await queue_again(scope, run):
            return True
        await record(scope, run, RunQueued(reason="lane"))
        return False
    return run.has_slot or run.status is Status.RUNNING


async def _has_news(scope: Scope, run: RunRow) -> bool:
    if run.waits_for_stop:
        return True  # the lane is open, or this would not be asked
    ids = [UUID(wait["id"]) for wait in run.waiting_on if wait["kind"] == "approval" and wait.get("id")]
    if ids and await approvals.outcomes(scope, ids):
        return True
    for wait in run.waiting_on:
        if wait["kind"] == "child" and await scope.service(Delegations).outcome(
            scope, Child(kind=wait["of"], id=UUID(wait["id"]))
        ):
            return True
    unknown = {wait["call_id"] for wait in run.waiting_on if wait["kind"] == "reconcile"}
    if not unknown:
        return False
    state = fold(await read_stream(scope, stream_of(run.run_id)))
    return any((call := state.call(call_id)) and call.status is not CallStatus.UNKNOWN for call_id in unknown)


async def _activation(scope: Scope, state: RunState, worker_id: UUID) -> list[Event]:
    """Return the facts an activation begins with: itself, what people decided, and what a dead worker left open."""
    facts: list[Event] = [RunActivated(worker_id=worker_id, epoch=state.epoch + 1)]
    facts.extend(ToolUnknown(call_id=call.call_id, tool=call.tool) for call in lost_calls(state))
    asked = {call.approval_id: call for call in state.open_calls if call.status is CallStatus.ASKED}
    for approval_id, outcome in (await approvals.outcomes(scope, [one for one in asked if one])).items():
        facts.append(decided(asked[approval_id].call_id, approval_id, outcome))
    for call in state.open_calls:
        if call.child is not None and (came := await scope.service(Delegations).outcome(scope, call.child)):
            facts.append(came_in(call, came))
    return facts


async def _dead_letter(scope: Scope, run: RunRow, state: RunState) -> None:
    """Put a poison run aside: it took down activation after activation without a new step."""
    cause = state.interruptions[-1] if state.interruptions else "its worker died each time"
    text = f"The run was put aside after {state.attempts} attempts: {cause}"
    await record(scope, run, RunDeadLettered(cause=cause, attempts=state.attempts, step=state.step))
    await approvals.cancel_for_run(scope, run.run_id)
    await metering.release_run(scope, run.run_id)
    await scope.service(Delegations).cancel(scope, state, text)
    await tell_of_end(scope, run, Status.DEAD_LETTERED, text)
    await succeed(scope, await lanes.leave(scope, run.agent_id, failed=True))
    await scope.service(Dispatcher).let_go(scope, ADVANCE, run.run_id)
