"""The pen of an activation: records facts, and in the same transaction everything that follows from them.

What follows is decided by ``rules.next_step``: approvals are asked, effects are announced, the lane and the worker
are left, the session is told. One step of a run is one commit.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from uuid import UUID

from retinue import approvals, metering
from retinue.agents import AgentDefinition
from retinue.database import open_scope
from retinue.dispatch import Dispatcher, Stopped, wake
from retinue.kernel import Actor, ActorKind, BudgetExhausted, Conflict, Scope, Services, Unavailable
from retinue.ledger import Event, append, read_stream
from retinue.live import Live
from retinue.runs import lanes
from retinue.runs.commands import ADVANCE, closing_text, stream_of, succeed
from retinue.runs.conversation import EndedRun
from retinue.runs.delegations import ChildOutcome, Declined, DelegatedCall, Delegations
from retinue.runs.events import (
    ModelResponded,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunRequested,
    RunWaiting,
    ToolAsked,
    ToolCompleted,
    ToolDecided,
    ToolDelegated,
    ToolStarted,
    Wait,
)
from retinue.runs.judgement import Judgement
from retinue.runs.next_step import (
    Bounds,
    CallModel,
    Cancel,
    Fail,
    Finish,
    Judge,
    Nothing,
    RunTools,
    Step,
    WaitFor,
    next_step,
)
from retinue.runs.parents import tell_end
from retinue.runs.rules import ENDED, FAILURES, Call, CallStatus, RunState, Status, apply, fold

_TRIES = 12
_LONGEST_PAUSE = 5.0


class Journal:
    """One activation's view of its run, and the only thing that writes to it.

    Attributes:
        state: the run as of the last commit.
        left: whether the run has left this worker: it ended, or it waits.
        budgeted: whether model calls must reserve money first.
        asked: what the run was asked, for those who carry out a part of it.
    """

    def __init__(
        self, services: Services, tenant_id: UUID, run_id: UUID, state: RunState, agent: AgentDefinition
    ) -> None:
        self.services = services
        self.tenant_id = tenant_id
        self.run_id = run_id
        self.state = state
        self.agent = agent
        self.judgement: Judgement | None = None
        self.left = False
        self.budgeted = True
        self.trace_id = ""
        self.asked = ""
        self.bounds = Bounds(agent.limits.steps, agent.limits.tokens, self._budget())
        self._pen = asyncio.Lock()

    def _budget(self) -> int | None:
        bounds = [one for one in (self.agent.limits.budget, self.requested.budget) if one is not None]
        return min(bounds, default=None)

    @property
    def requested(self) -> RunRequested:
        """What was asked for; the first event of every run."""
        requested = self.state.requested
        assert requested is not None
        return requested

    @property
    def step(self) -> Step:
        """What is to be done next."""
        return next_step(self.state, self.bounds)

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[Scope]:
        """Open a transaction in which the agent acts within its user's rights."""
        requested = self.state.requested
        assert requested is not None
        actor = Actor(ActorKind.AGENT, requested.agent_id)
        async with open_scope(
            self.services, self.tenant_id, actor, user_id=requested.owner_id, trace_id=self.trace_id
        ) as scope:
            yield scope

    async def record(self, *facts: Event) -> None:
        """Write ``facts`` and what follows from them.

        While the database is away the facts are kept and tried again, for about half a minute.

        Raises:
            Stopped: another worker has the run; nothing was written.
            Unavailable: the database stayed away.
        """
        async with self._pen:
            pending: Sequence[Event] = facts
            for attempt in range(_TRIES):
                try:
                    await self._write(pending)
                    return
                except Conflict:
                    pending = await self._catch_up(pending)
                except Unavailable:
                    if attempt == _TRIES - 1:
                        raise
                    await asyncio.sleep(min(0.1 * 2**attempt, _LONGEST_PAUSE))
            raise Unavailable("The run's stream keeps changing; another activation will go on.")

    async def refresh(self) -> None:
        """Read what others (a person who cancels) have recorded meanwhile."""
        async with self._pen:
            await self._catch_up(())

    async def _catch_up(self, pending: Sequence[Event]) -> Sequence[Event]:
        """Fold what is new on the stream; return the facts that are still to be written.

        A commit whose answer was lost shows here as our own facts: they are not written twice.

        Raises:
            Stopped: somebody else activated the run.
        """
        async with self.scope() as scope:
            news = await read_stream(scope, stream_of(self.run_id), after=self.state.version)
        epoch = self.state.epoch
        fold(news, self.state)
        if self.state.epoch != epoch:
            raise Stopped("lost")
        if self.state.status in ENDED or self.state.status is Status.WAITING:
            self.left = True
        written = [recorded.event for recorded in news]
        return [fact for fact in pending if fact not in written]

    async def _write(self, facts: Sequence[Event]) -> None:
        if self.left:
            return
        trial = trial_of(self.state)
        async with self.scope() as scope:
            writing = _Writing(self, scope, trial)
            for fact in facts:
                writing.add(fact)
            await writing.follow()
            if not writing.facts:
                self.state = trial  # what policy has cleared is known now, though nothing was recorded
                return
            requested = trial.requested
            assert requested is not None
            if trial.status in ENDED:
                # First of all, since it locks the session: whoever changes sessions and runs takes them in this order.
                await writing.end()
            trial.version = await append(
                scope,
                stream_of(self.run_id),
                self.state.version,
                writing.facts,
                session_id=requested.session_id,
                run_id=self.run_id,
                owner_id=requested.owner_id,
            )
            await writing.finish()
        self.state = trial
        if trial.status in ENDED or trial.status is Status.WAITING:
            self.left = True
            self.services.get(Live).finish(self.tenant_id, self.run_id)  # type: ignore[type-abstract]  # by its base


def trial_of(state: RunState) -> RunState:
    """Copy what facts may change, so that a transaction that fails leaves the state alone."""
    trial = copy.copy(state)
    trial.turns = list(state.turns)
    if trial.turns:
        last = trial.turns[-1] = copy.copy(trial.turns[-1])
        last.calls = [copy.copy(call) for call in last.calls]
    trial.waiting_on = list(state.waiting_on)
    trial.tainted_by = list(state.tainted_by)
    trial.interruptions = list(state.interruptions)
    return trial


class _Writing:
    """One transaction of a journal: the facts it was given and those that follow."""

    def __init__(self, journal: Journal, scope: Scope, trial: RunState) -> None:
        self.journal = journal
        self.scope = scope
        self.trial = trial
        self.facts: list[Event] = []
        self._now: datetime = scope.clock.now()

    @property
    def delegations(self) -> Delegations:
        return self.scope.service(Delegations)

    def add(self, fact: Event) -> None:
        self.facts.append(fact)
        apply(self.trial, fact, self._now)

    async def follow(self) -> None:
        """Add everything that can be decided without a model or a tool."""
        while self.trial.status is Status.RUNNING:
            step = next_step(self.trial, self.journal.bounds)
            if not await self._take(step):
                return

    async def _take(self, step: Step) -> bool:
        """Add what follows from ``step``; False when it is for the worker to carry out."""
        match step:
            case Judge(calls):
                for call in calls:
                    await self._judge(call)
            case RunTools(calls):
                if await self._delegate(calls):
                    return True
                self._announce(calls)
                return False
            case WaitFor(on):
                return await self._wait(on)
            case CallModel(number):
                return await self._before_model(number)
            case Finish():
                self.add(RunCompleted(message_id=self.trial.reply_id))
            case Fail(kind, detail):
                self.add(RunFailed(kind=kind, detail=detail, step=self.trial.step))
            case Cancel(reason):
                self.add(RunCancelled(reason=reason))
            case Nothing():
                return False
        return True

    async def _judge(self, call: Call) -> None:
        judgement = self.journal.judgement
        assert judgement is not None, "calls are judged by an activation that has opened its tools"
        verdict = await judgement.judge(self.scope, call, self.trial)
        if isinstance(verdict, str):
            self.add(ToolCompleted(call_id=call.call_id, tool=call.tool, content=verdict, failed=True))
        elif verdict is None:
            # Not recorded: the same policy clears the call again after a crash, and a stricter one may ask then.
            call.status = CallStatus.CLEARED
        else:
            approval_id = await approvals.request(self.scope, verdict)
            self.add(ToolAsked(call_id=call.call_id, tool=call.tool, approval_id=approval_id))

    async def _delegate(self, calls: Sequence[Call]) -> bool:
        """Hand on the cleared calls that other work answers; return whether there were any."""
        handed = [
            (call, delegation, self._handed(call))
            for call in calls
            if self._may_be_handed(call) and (delegation := self.delegations.behind(call.tool)) is not None
        ]
        if not handed:
            return False
        entered = {agent_id for call, one, what in handed for agent_id in await one.lanes(self.scope, what)}
        if entered:
            # Its own too: it is left in this transaction.
            await lanes.lock(self.scope, entered | {self.journal.requested.agent_id})
        for call, delegation, what in handed:
            opened = await delegation.open(self.scope, what)
            if not isinstance(opened, Declined):
                self.add(ToolDelegated(call_id=call.call_id, tool=call.tool, child=opened))
            elif opened.final:
                self.add(RunFailed(kind=opened.kind, detail=opened.text, step=self.trial.step))
                break
            else:
                self.add(ToolCompleted(call_id=call.call_id, tool=call.tool, content=opened.text, failed=True))
        return True

    def _may_be_handed(self, call: Call) -> bool:
        judgement = self.journal.judgement
        refused = call.decision and judgement is not None and judgement.answer_without_acting(call)
        return call.status is CallStatus.CLEARED and not refused

    def _handed(self, call: Call) -> DelegatedCall:
        return DelegatedCall(
            run_id=self.journal.run_id,
            call_id=call.call_id,
            tool=call.tool,
            arguments=call.parsed(),
            asked=self.journal.asked,
            agent=self.journal.agent,
            state=self.trial,
        )

    def _announce(self, calls: Sequence[Call]) -> None:
        """Record the next effect before it acts; effects of one answer act one after the other."""
        judgement = self.journal.judgement
        assert judgement is not None
        if any(call.status is CallStatus.STARTED for call in calls):
            return
        for call in calls:
            labels = judgement.labels(call.tool)
            if judgement.acts(call):
                self.add(
                    ToolStarted(
                        call_id=call.call_id,
                        tool=call.tool,
                        arguments=call.parsed(),
                        key=f"{self.journal.run_id}:{call.call_id}",
                        effect=labels.effect,
                        idempotent=labels.idempotent,
                    )
                )
                return

    async def _wait(self, on: Sequence[Wait]) -> bool:
        ids = [wait.id for wait in on if wait.kind == "approval" and wait.id is not None]
        # The rows are locked: a decision is either seen here, or wakes the run after this commit.
        outcomes = await approvals.outcomes(self.scope, ids, lock=True) if ids else {}
        for wait in on:
            outcome = outcomes.get(wait.id) if wait.id else None
            if outcome is not None and wait.id is not None and wait.call_id is not None:
                self.add(decided(wait.call_id, wait.id, outcome))
                self._settle_refusal(wait.call_id)
        if await self._come_in(on) or outcomes:
            return True
        self.add(RunWaiting(on=list(on)))
        return True

    async def _come_in(self, on: Sequence[Wait]) -> bool:
        """Take the results of other work that has ended; return whether there were any."""
        any_came = False
        for wait in on:
            call = self.trial.call(wait.call_id) if wait.kind == "child" and wait.call_id else None
            if call is None or call.child is None:
                continue
            outcome = await self.delegations.outcome(self.scope, call.child, lock=True)
            if outcome is not None:
                self.add(came_in(call, outcome))
                any_came = True
        return any_came

    def _settle_refusal(self, call_id: str) -> None:
        """A call that was declined ends here: the agent is told so and goes on."""
        call = self.trial.call(call_id)
        judgement = self.journal.judgement
        if call is not None and judgement is not None and (text := judgement.answer_without_acting(call)):
            content, failed = text
            self.add(ToolCompleted(call_id=call_id, tool=call.tool, content=content, failed=failed))

    async def _before_model(self, number: int) -> bool:
        """Make sure that the next model call may cost something."""
        requested = self.trial.requested
        assert requested is not None
        try:
            self.journal.budgeted = await metering.check(self.scope, requested.agent_id)
        except BudgetExhausted as fault:
            self.add(RunFailed(kind="budget", detail=fault.detail, step=number))
            return True
        return False

    async def finish(self) -> None:
        """Do what belongs to these facts outside the stream: money, lane, worker."""
        trial, scope = self.trial, self.scope
        requested = trial.requested
        assert requested is not None
        for fact in self.facts:
            if isinstance(fact, ModelResponded) and not fact.from_cache:
                answer = fact.answer
                self.journal.budgeted |= await metering.settle(
                    scope,
                    agent_id=requested.agent_id,
                    user_id=requested.owner_id,
                    run_id=self.journal.run_id,
                    step=fact.step,
                    model=answer.model,
                    input_tokens=answer.input_tokens,
                    output_tokens=answer.output_tokens,
                    cost=answer.cost,
                )
        if trial.status not in ENDED and trial.status is not Status.WAITING:
            return
        if trial.status in ENDED:
            if self.journal.budgeted:
                # After the last answer is settled: that it was is noted in a row, which goes with the run's others.
                await metering.release_run(scope, self.journal.run_id)
            scope.uow.after_commit(partial(metering.count_run, trial.status))
        failed = trial.status in FAILURES if trial.status in ENDED else None
        # The lane before the claim, as a stop and its end lock them.
        await succeed(scope, await lanes.leave(scope, requested.agent_id, failed=failed))
        await scope.service(Dispatcher).let_go(scope, ADVANCE, self.journal.run_id)
        if any(wait.kind == "stop" for wait in trial.waiting_on) and not await lanes.is_closed(
            scope, requested.agent_id
        ):
            await wake(scope, ADVANCE, self.journal.run_id)  # the stop ended while this was being written

    async def end(self) -> None:
        """Tell of the end whoever waits for it, and end what waits for the run."""
        requested = self.trial.requested
        assert requested is not None
        await self.delegations.cancel(self.scope, self.trial, f"the run that asked for it was {self.trial.status}")
        await tell_end(
            self.scope,
            requested.parent,
            EndedRun(
                self.journal.run_id,
                requested.session_id,
                self.trial.reply_id,
                requested.agent_id,
                requested.owner_id,
                self.trial.status,
                closing_text(self.trial),
                any(turn.answer.demo for turn in self.trial.turns),
            ),
        )
        if any(call.status is CallStatus.ASKED for call in self.trial.open_calls):
            await approvals.cancel_for_run(self.scope, self.journal.run_id)


def came_in(call: Call, outcome: ChildOutcome) -> ToolCompleted:
    """Copy how other work ended into the run's own stream, which must tell everything."""
    return ToolCompleted(
        call_id=call.call_id,
        tool=call.tool,
        content=outcome.content,
        failed=outcome.failed,
        untrusted=outcome.tainted,
        addendum=outcome.addendum,
        cost=outcome.cost,
    )


def decided(call_id: str, approval_id: UUID, outcome: approvals.Outcome) -> ToolDecided:
    """Copy an approval's outcome into the run's own stream, which must tell everything."""
    return ToolDecided(
        call_id=call_id,
        approval_id=approval_id,
        decision=outcome.status,
        arguments=outcome.arguments if outcome.edited else None,
        comment=outcome.comment,
        answer=outcome.answer,
    )
