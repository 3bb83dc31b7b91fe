"""One step of a plan: read what is new, record what came of it, start what may begin. One short transaction.

It can be done any number of times, by anybody: the plan's row is locked, and nothing is done that its state does not
call for. Locks go from above to below: plan, runs, lanes. A transaction that cancels runs starts none, so lanes are
taken in the order of the agents' ids alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from retinue import agents, approvals, runs
from retinue.agents import Agent
from retinue.approvals import Outcome
from retinue.dispatch import wake
from retinue.kernel import BadInput, BudgetExhausted, NotFound, Scope, Settings, TooManyRequests
from retinue.ledger import Event
from retinue.planning import asking, rules
from retinue.planning.briefing import context_of, prompt_of, tainted_by
from retinue.planning.commands import ADVANCE, Errand, cancel_below, end_plan, errand_of, record
from retinue.planning.events import (
    PlanCompleted,
    PlanDecided,
    PlanDrafted,
    PlanFailed,
    PlanStarted,
    TaskCompleted,
    TaskExpanded,
    TaskFailed,
    TaskRetried,
    TaskSkipped,
    TaskStarted,
)
from retinue.planning.expressions import evaluate, render
from retinue.planning.graph import Task
from retinue.planning.outputs import NotAsAsked, fitting, output_of
from retinue.planning.state import Node, PlanState, PlanStatus, TaskStatus, weight
from retinue.planning.views import count_waits
from retinue.runs import Assignment, GivenCall, Parent, RunOutcome
from retinue.runs import Status as RunStatus

LANE_FULL = timedelta(seconds=2)
"""How soon a plan looks again whether an agent's full queue has a place."""

MOST_NODES = 20_000
"""Tasks that one plan may grow to by the items of its ``each``."""

MOST_HELD = 20_000_000
"""Characters of all results and items of one plan: they are in memory together, and each is kept for good."""


STEP_SECONDS = 0.2
"""How long one look may compute. Thousands of expressions are spread over several, so that others get their turn."""


class Advance:
    """One step of one plan, whose row the scope has locked.

    Attributes:
        look_again: an agent's queue was full; somebody must look again soon.
        go_on: there is more to do, in a transaction of its own.
    """

    def __init__(self, scope: Scope, plan_id: UUID, state: PlanState) -> None:
        assert state.drafted is not None
        self.scope = scope
        self.plan_id = plan_id
        self.state = state
        self.drafted: PlanDrafted = state.drafted
        self.now: datetime = scope.clock.now()
        self.look_again = False
        self.go_on = False
        self._facts: list[Event] = []
        self._wanted: set[str] = set()  # tasks whose run may begin: their condition holds
        self._stopped: list[Errand] = []
        self._waits = 0  # tasks that begin to wait for events, and are not recorded yet

    async def run(self) -> None:
        """Do all that follows from what is there."""
        await self._look()
        until = time.monotonic() + STEP_SECONDS
        while not self.go_on and (actions := self._actions()):
            await self._carry_out_some(actions, until)
        if not self.state.ended:
            await self._reach_out()

    async def _carry_out_some(self, actions: Sequence[rules.Action], until: float) -> None:
        """Carry out actions while there is time, at least one; ``go_on`` says that some are left."""
        for action in actions:
            if self.state.ended:
                return
            await self._carry_out(action)
            if time.monotonic() > until:
                self.go_on = True
                return

    def timer(self) -> datetime | None:
        """Return when the next wait or pause of a plan that goes on ends."""
        open_nodes = [self.state.nodes[one] for one in self.state.open]
        times = [at for node in open_nodes for at in (node.again_at, node.until) if at is not None and at > self.now]
        return None if self.state.ended else min(times, default=None)

    async def _reach_out(self) -> None:
        """Cancel what was stopped, or else start the runs that may begin."""
        if self._stopped:
            await cancel_below(self.scope, self._stopped, "the plan goes on without it")
            self.go_on = self.go_on or bool(self._wanted)
        elif self._wanted:
            await self._begin_runs()
        await self._flush()

    def _actions(self) -> list[rules.Action]:
        found = rules.next_actions(self.state, self.now)
        self._wanted &= {one.task_id for one in found if isinstance(one, rules.Start)}
        return [one for one in found if not (isinstance(one, rules.Start) and one.task_id in self._wanted)]

    # What happened meanwhile

    async def _look(self) -> None:
        if self.state.status is PlanStatus.WAITING:
            assert self.state.approval_id is not None
            outcome = (await approvals.outcomes(self.scope, [self.state.approval_id])).get(self.state.approval_id)
            if outcome is not None:
                await self._decided(outcome)
            return
        under_way = [node for one in self.state.open if (node := self.state.nodes[one]).status is TaskStatus.RUNNING]
        run_by = {node.run_id: node for node in under_way if node.run_id is not None}
        for run_id in await runs.ended_among(self.scope, list(run_by)) if run_by else ():
            if (ended := await runs.outcome(self.scope, run_id)) is not None:
                await self._run_ended(run_by[run_id], ended)
        asked = {node.approval_id: node for node in under_way if node.approval_id is not None}
        for approval_id, outcome in (await approvals.outcomes(self.scope, list(asked))).items() if asked else ():
            await self._answered(asked[approval_id], outcome)

    async def _decided(self, outcome: Outcome) -> None:
        decision = {"approved": "approve", "rejected": "reject"}.get(outcome.status, outcome.status)
        tasks, refused = None, None
        if outcome.status == "approved" and outcome.edited and outcome.arguments is not None:
            try:
                tasks = await asking.edited_tasks(self.scope, self.state.graph, outcome.arguments)
            except BadInput as fault:  # it could when the person decided
                refused = f"The edited plan cannot be carried out any more: {fault.detail}"
        fact = PlanDecided(
            approval_id=outcome.approval_id, decision=decision, comment=outcome.comment or None, tasks=tasks
        )
        self._note(fact)
        if outcome.status == "approved" and refused is None:
            self._note(PlanStarted())
            return
        said = f" {outcome.comment}" if outcome.comment else ""
        why = {"rejected": f"A person declined the plan.{said}", "expired": "Nobody approved the plan in time."}
        await self._end(PlanFailed(kind="declined", detail=refused or why.get(outcome.status, "It was not approved.")))

    async def _run_ended(self, node: Node, ended: RunOutcome) -> None:
        spent = {"tokens": ended.tokens, "cost": ended.cost}
        if ended.status is not RunStatus.COMPLETED:
            await self._failed(node, ended.kind or "failed", ended.text, tainted=ended.tainted, **spent)
            return
        try:
            output = output_of(node.task, ended.text)
        except NotAsAsked as error:
            await self._failed(node, "output", str(error), tainted=ended.tainted, **spent)
            return
        await self._done(node, output, tainted=ended.tainted, **spent)

    async def _answered(self, node: Node, outcome: Outcome) -> None:
        if outcome.status == "approved":
            output = {"answer": outcome.answer, "comment": outcome.comment, "by": outcome.decided_by}
            await self._done(node, output)
            return
        said = f" {outcome.comment}" if outcome.comment else ""
        kind, why = {
            "rejected": ("declined", f"A person said no.{said}"),
            "expired": ("expired", "Nobody answered in time."),
        }.get(outcome.status, ("cancelled", "The question was withdrawn."))
        await self._failed(node, kind, why)

    # What follows

    async def _carry_out(self, action: rules.Action) -> None:
        if isinstance(action, rules.Begin):
            self._note(PlanStarted())
        elif isinstance(action, rules.Fail):
            await self._end(PlanFailed(kind=action.kind, detail=action.detail, missing=self._missing_now()))
        elif isinstance(action, rules.Finish):
            await self._finish(action)
        elif not (node := self.state.nodes[action.task_id]).ended:
            await self._about(node, action)

    async def _about(self, node: Node, action: rules.Action) -> None:
        if isinstance(action, rules.Skip):
            self._note(TaskSkipped(task_id=node.id, reason=action.reason))
        elif isinstance(action, rules.Stop):
            under_way = (one for one in (node, *self.state.below(node)) if one.status is TaskStatus.RUNNING)
            self._stopped += [errand_of(one) for one in under_way]
            self._note(TaskSkipped(task_id=node.id, reason="stopped"))
        elif isinstance(action, rules.TimeUp):
            await self._time_up(node)
        elif isinstance(action, rules.Collect):
            await self._collect(node, action)
        elif isinstance(action, rules.Again):
            failed, skipped = rules.to_retry(self.state, node.id)
            self._note(TaskRetried(task_ids=(node.id, *failed), skipped=tuple(skipped)))
        else:
            await self._begin(node)

    async def _time_up(self, node: Node) -> None:
        wait = node.task.wait
        if wait is not None and wait.event is not None:
            await self._failed(node, "timeout", f"No event {wait.event!r} came in time.")
        else:
            self._note(TaskCompleted(task_id=node.id))

    async def _collect(self, node: Node, action: rules.Collect) -> None:
        each = node.task.each
        assert each is not None
        if action.lost:
            why = rules.why(self.state, action.lost)
            await self._failed(node, "items", f"Not done: {rules.named(action.lost)}. {why}".strip())
            return
        output: Any = rules.results(self.state, node)
        # The items, and whatever the output names, are texts of the tasks around.
        tainted = any(one.tainted for one in self.state.body(node.id)) or bool(tainted_by(self.state, node))
        if each.output is not None:
            try:
                output = [self._item_output(node, index) for index in range(len(node.items or ()))]
            except BadInput as fault:
                await self._failed(node, "expression", fault.detail)
                return
        await self._done(node, output[0] if each.single and output else output, tainted=tainted)

    def _item_output(self, node: Node, index: int) -> Any:
        each = node.task.each
        assert each is not None
        first = self.state.nodes[self.state.copies[node.id][index][0]]
        return render(each.output, context_of(self.state, first))

    async def _finish(self, action: rules.Finish) -> None:
        missing = action.missing
        if action.failed:
            why = rules.why(self.state, missing)
            detail = f"Not done: {rules.named(missing)}. {why}".strip()
            await self._end(PlanFailed(kind="task", detail=detail, missing=missing))
            return
        output: Any = {one.id: one.output for one in self.state.top if one.status is TaskStatus.COMPLETED}
        if self.state.graph.output is not None:
            try:
                output = render(self.state.graph.output, context_of(self.state, None))
            except BadInput as fault:
                await self._end(PlanFailed(kind="output", detail=fault.detail, missing=missing))
                return
        await self._end(PlanCompleted(output=output, missing=missing))

    def _missing_now(self) -> tuple[str, ...]:
        """Return the tasks that a plan which ends now will not have."""
        return tuple(one.id for one in self.state.top if not one.ended or rules.lost(self.state, one))

    # Beginning tasks

    async def _begin(self, node: Node) -> None:
        try:
            if not self._holds(node):
                self._note(TaskSkipped(task_id=node.id, reason="condition"))
            elif node.task.kind in rules.RUN_KINDS:
                self._wanted.add(node.id)
            else:
                await self._begin_here(node)
        except BadInput as fault:
            await self._failed(node, "expression", fault.detail)
        except NotAsAsked as error:
            await self._failed(node, "value", str(error))

    def _holds(self, node: Node) -> bool:
        if node.task.when is None:
            return True
        found = evaluate(node.task.when, context_of(self.state, node))
        if not isinstance(found, bool):
            raise BadInput(f"when: the condition gives {type(found).__name__}, not true or false.")
        return found

    async def _begin_here(self, node: Node) -> None:
        """Begin a task that needs no run."""
        task = node.task
        if task.kind == "value":
            value = self._rendered(node, task.value)
            if task.output_schema is not None:
                value = fitting(task.output_schema, value)
            await self._done(node, value, tainted=bool(tainted_by(self.state, node)))
        elif task.kind == "each":
            await self._expand(node)
        elif task.kind == "wait":
            await self._wait(node)
        else:
            assert task.question is not None
            text = str(self._rendered(node, task.question.text))
            approval_id = await asking.ask_for_task(
                self.scope, self.plan_id, self.drafted, node.id, task.question, text, ADVANCE
            )
            self._note(TaskStarted(task_id=node.id, attempt=node.attempt + 1, approval_id=approval_id))

    async def _expand(self, node: Node) -> None:
        each = node.task.each
        assert each is not None
        items = evaluate(each.items, context_of(self.state, node))
        if not isinstance(items, list):
            raise BadInput(f"items: the expression gives {type(items).__name__}, not a list.")
        grows_to = len(self.state.nodes) + len(items) * len(each.body)
        if len(items) > each.most or grows_to > MOST_NODES:
            most = each.most if len(items) > each.most else MOST_NODES
            await self._failed(node, "too_many_items", f"There are {len(items)} items; at most {most} are allowed.")
            return
        if await self._fits(node, items):
            self._note(TaskExpanded(task_id=node.id, items=items))

    async def _wait(self, node: Node) -> None:
        wait, until = node.task.wait, None
        assert wait is not None
        if wait.event is not None and not await self._may_wait_for_events():
            most = self.scope.service(Settings).event_waits
            why = f"{most:,} tasks of this tenant wait for events already, which is the most (RETINUE_EVENT_WAITS)."
            await self._failed(node, "too_many_waits", why)
            return
        if wait.seconds is not None:
            until = self.now + timedelta(seconds=wait.seconds)
        elif wait.until is not None:
            until = _time(evaluate(wait.until, context_of(self.state, node)))
        elif node.task.timeout is not None:
            until = self.now + timedelta(seconds=node.task.timeout)
        if until is not None and until > self.now:
            await wake(self.scope, ADVANCE, self.plan_id, at=until)
        self._waits += wait.event is not None
        self._note(TaskStarted(task_id=node.id, attempt=node.attempt + 1, until=until, event=wait.event))

    async def _may_wait_for_events(self) -> bool:
        """Whether one task more may; plans that are looked at in the same moment may pass the bound by as many."""
        most = self.scope.service(Settings).event_waits
        return self._waits < most and self._waits + await count_waits(self.scope, most) < most

    def _rendered(self, node: Node, value: Any) -> Any:
        return render(value, context_of(self.state, node)) if node.task.template else value

    async def _begin_runs(self) -> None:
        """Start runs in the order of their agents' ids, since each takes a lock of its agent's lane."""
        ready: list[tuple[Agent, Node]] = []
        found: dict[UUID | str, Agent | None] = {}
        for task_id in [one for one in self.state.open if one in self._wanted]:
            node = self.state.nodes[task_id]
            named = node.task.agent_id or node.task.agent or ""
            if named not in found:
                found[named] = await self._agent(named)
            if (agent := found[named]) is not None:
                ready.append((agent, node))
                continue
            await self._failed(node, "agent_gone", f"There is no agent {node.task.agent!r} any more.")
            self.go_on = True
        ready.sort(key=lambda one: one[0].agent_id)
        share = self._share(len(ready))
        for agent, node in ready:
            await self._begin_run(agent, node, share)

    async def _agent(self, named: UUID | str) -> Agent | None:
        try:
            return await agents.find(self.scope, named)
        except NotFound:
            return None

    def _share(self, starting: int) -> int | None:
        """Return what each run that starts now may cost: all together stay within what is left."""
        if self.state.graph.budget is None or not starting:
            return None
        under_way = sum(self.state.nodes[one].run_id is not None for one in self.state.open)
        return max(1, (self.state.graph.budget - self.state.cost) // (starting + under_way))

    async def _begin_run(self, agent: Agent, node: Node, share: int | None) -> None:
        try:
            run_id = await runs.assign(self.scope, self._assignment(agent, node, share))
        except TooManyRequests:
            self.look_again = True
        except BudgetExhausted as fault:
            await self._failed(node, "budget", fault.detail)
            self.go_on = True
        except BadInput as fault:
            await self._failed(node, "expression", fault.detail)
            self.go_on = True
        else:
            self._note(TaskStarted(task_id=node.id, attempt=node.attempt + 1, run_id=run_id))

    def _assignment(self, agent: Agent, node: Node, share: int | None) -> Assignment:
        task = node.task
        call = _call(task, self._rendered(node, task.call.arguments) if task.call else {})
        instructions = str(self._rendered(node, task.instructions))
        return Assignment(
            parent=Parent(kind="plan", id=self.plan_id, key=node.id),
            session_id=self.drafted.session_id,
            agent=agent,
            prompt="" if call else prompt_of(self.state, node, instructions),
            owner_id=self.drafted.owner_id,
            depth=self.state.graph.depth,
            tainted_by=tainted_by(self.state, node),
            seconds=task.timeout,
            budget=share,
            call=call,
        )

    # Recording

    async def _done(self, node: Node, output: Any, *, tainted: bool = False, tokens: int = 0, cost: int = 0) -> None:
        if await self._fits(node, output, tokens=tokens, cost=cost):
            self._note(TaskCompleted(task_id=node.id, output=output, tainted=tainted, tokens=tokens, cost=cost))

    async def _fits(self, node: Node, value: Any, *, tokens: int = 0, cost: int = 0) -> bool:
        """Fail a task whose result would let the plan hold more than it may."""
        fits = self.state.held + weight(value) <= MOST_HELD
        if not fits:
            why = f"The results of this plan may hold {MOST_HELD:,} characters together, and this one is too much."
            await self._failed(node, "too_big", why, tokens=tokens, cost=cost)
        return fits

    async def _failed(
        self, node: Node, kind: str, detail: str, *, tainted: bool = False, tokens: int = 0, cost: int = 0
    ) -> None:
        again_at = rules.again_at(node, kind, self.now)
        if again_at is not None:
            await wake(self.scope, ADVANCE, self.plan_id, at=again_at)
        # The detail quotes an answer, a tool, or the values of an expression.
        tainted = tainted or bool(tainted_by(self.state, node)) or any(one.tainted for one in self.state.below(node))
        fact = TaskFailed(
            task_id=node.id, kind=kind, detail=detail, again_at=again_at, tainted=tainted, tokens=tokens, cost=cost
        )
        self._note(fact)

    def _note(self, fact: Event) -> None:
        rules.apply(self.state, fact, self.now)
        self._facts.append(fact)

    async def _flush(self) -> None:
        if self._facts:
            facts, self._facts, self._waits = self._facts, [], 0
            self.state.version = await record(self.scope, self.plan_id, self.drafted, self.state.version, *facts)

    async def _end(self, fact: Event) -> None:
        await self._flush()
        await end_plan(self.scope, self.plan_id, self.state, fact, "the plan has ended", self._stopped)


def _call(task: Task, arguments: Any) -> GivenCall | None:
    return GivenCall(tool=task.call.tool, arguments=arguments) if task.call else None


def _time(value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise BadInput(f"until: {value[:100]!r} is no time such as 2026-11-20T12:00:00Z.") from None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise BadInput("until: the expression gives no time with a zone, such as 2026-11-20T12:00:00Z.")
    return value
