"""The tool ``plan``, which makes an agent an orchestrator: its call is a graph of tasks, and the result their results.

The plan waits for a person when the tenant's policy says so, is carried out by the team, and comes back as one text:
what was achieved, and what was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from retinue.kernel import Scope
from retinue.planning import drafting
from retinue.planning.assigning import with_agents
from retinue.planning.checks import check_plan, same_name
from retinue.planning.commands import cancel_plan, load_plan, start_plan
from retinue.planning.delegation import DEEPEST, LABELS, NOTHING_LEFT, budget_left, handled_elsewhere
from retinue.planning.giving_up import state_if_readable
from retinue.planning.graph import MOST_TASKS, Plan
from retinue.planning.policy import PlanningPolicy, policy, reasons_to_ask
from retinue.planning.powers import act_alone
from retinue.planning.state import Node, PlanState, PlanStatus, TaskStatus
from retinue.planning.team import team_of, the_team
from retinue.planning.views import find_plan, lock_plan
from retinue.runs import Child, ChildOutcome, Declined, DelegatedCall, Parent, RunRequested
from retinue.tools import Tool

KIND = "plan"
TOOL = "plan"

_LONGEST_RESULT = 20_000
_MOST_PLANS = 2  # of one run: the second is for what the first could not do


class ByAPlan:
    """Answers the calls of the tool ``plan`` (:class:`retinue.runs.Delegation`)."""

    async def describe(self, scope: Scope, requested: RunRequested) -> str:
        """Say who is in the team."""
        return f"\n\n{the_team(await team_of(scope, without=requested.agent_id))}"

    async def lanes(self, scope: Scope, call: DelegatedCall) -> Sequence[UUID]:
        """Return nobody: a plan's tasks begin in transactions of its own."""
        return ()

    async def open(self, scope: Scope, call: DelegatedCall) -> Child | Declined:
        """Check the plan and begin it, or say what is wrong with it: once so that it is mended, then for good."""
        if call.requested.depth >= DEEPEST:
            return Declined(f"Not planned: {DEEPEST} delegations lie above this one already. Do it yourself.")
        if budget_left(scope, call) == 0:
            return Declined(NOTHING_LEFT)
        earlier = _plans_of(call)
        if len(earlier) >= _MOST_PLANS:
            return Declined("Not planned: you have planned twice. Answer from the results that there are.")
        holds, _ = await policy(scope)
        team = await team_of(scope, without=call.requested.agent_id)
        try:
            draft = drafting.read_draft(call.arguments)
        except msgspec.ValidationError as error:
            return _refused(call, [f"the arguments are not valid: {error}"])
        plan = await self._plan(scope, call, draft, holds, earlier)
        by_name = {same_name(agent.name): agent for agent in team}
        wrong = check_plan(plan, agents=by_name, most=_most(holds))
        if wrong:
            return _refused(call, [str(mistake) for mistake in wrong])
        plan = msgspec.structs.replace(plan, tasks=with_agents(plan.tasks, by_name))
        if plan.origin.kind == "model" and holds.cache_seconds and not earlier:
            digest = drafting.digest_of(call.asked, team)
            await drafting.remember(scope, digest, draft, holds.cache_seconds)
        plan_id = await start_plan(
            scope,
            plan,
            session_id=call.requested.session_id,
            parent=Parent(kind="run", id=call.run_id, key=call.call_id),
            ask=reasons_to_ask(holds, plan, act_alone(scope, plan, team)),
            approval_seconds=holds.approval_seconds,
        )
        return Child(kind=KIND, id=plan_id)

    async def _plan(
        self,
        scope: Scope,
        call: DelegatedCall,
        draft: drafting.Draft,
        holds: PlanningPolicy,
        earlier: Sequence[UUID],
    ) -> Plan:
        given: dict[str, Any] = {}
        for plan_id in earlier:
            given |= _results(await load_plan(scope, plan_id))
        plan = drafting.plan_of(
            draft,
            request=call.asked,
            origin=drafting.origin_of(call.call_id),
            on_failure=holds.on_failure,
        )
        return msgspec.structs.replace(
            plan,
            given=given,
            depth=call.requested.depth + 1,
            tainted_by=tuple(call.state.tainted_by),
            budget=budget_left(scope, call),
        )

    async def outcome(self, scope: Scope, child_id: UUID, *, lock: bool) -> ChildOutcome | None:
        """Return what was achieved and what was not."""
        row = await (lock_plan if lock else find_plan)(scope, child_id)
        if row.ended_at is None:
            return None
        state = await state_if_readable(scope, child_id)
        if state is None:
            detail = str((row.error or {}).get("detail") or "The plan cannot be read.")
            return ChildOutcome(detail, failed=True, tainted=True, cost=row.cost)
        missing = _missing(state)
        return ChildOutcome(
            _told(state, missing),
            failed=state.status is not PlanStatus.COMPLETED,
            tainted=any(node.tainted for node in state.nodes.values()),
            addendum=f"Not done:\n{missing}" if missing else "",
            cost=state.cost,
        )

    async def cancel(self, scope: Scope, child_id: UUID, reason: str) -> None:
        """End the plan and everything below it."""
        await cancel_plan(scope, child_id, reason)


class InTime:
    """Bounds the time for a plan, and writes one without the model (:class:`retinue.runs.Opening`)."""

    async def seconds(self, scope: Scope) -> float:
        """Return the time that the tenant's policy gives."""
        return (await policy(scope))[0].seconds

    async def recall(self, scope: Scope, requested: RunRequested, asked: str) -> Mapping[str, Any] | None:
        """Return the plan of a request that was all but equal, if the tenant's policy keeps any."""
        if not (await policy(scope))[0].cache_seconds:
            return None
        team = await team_of(scope, without=requested.agent_id)
        return await drafting.recall(scope, drafting.digest_of(asked, team))

    async def fallback(self, scope: Scope, requested: RunRequested, asked: str) -> Mapping[str, Any] | None:
        """Return a plain sequence; None when there is no team, and the model is waited for."""
        return drafting.sequence(asked, await team_of(scope, without=requested.agent_id))


def _plans_of(call: DelegatedCall) -> list[UUID]:
    calls = (one for turn in call.state.turns for one in turn.calls)
    return [one.child.id for one in calls if one.child is not None and one.child.kind == KIND]


def _most(holds: PlanningPolicy) -> int:
    return min(holds.most_tasks, MOST_TASKS)


def _refused(call: DelegatedCall, wrong: Sequence[str]) -> Declined:
    """Tell the model what is wrong with its plan; the second time, the run ends with it."""
    listed = "\n".join(f"- {one}" for one in wrong[:20])
    before = any(
        one.tool == TOOL and one.failed and one.child is None and one.call_id != call.call_id
        for turn in call.state.turns
        for one in turn.calls
    )
    if before:
        return Declined(f"The plan was wrong a second time:\n{listed}", final=True, kind="plan_refused")
    return Declined(f"The plan cannot be carried out:\n{listed}\nCall the tool once more with a plan that is mended.")


def _results(state: PlanState) -> dict[str, Any]:
    done = {node.id: node.output for node in state.top if node.status is TaskStatus.COMPLETED}
    return {**state.graph.given, **done}


def _missing(state: PlanState) -> str:
    wanted = [state.nodes[task_id] for task_id in state.missing]
    return "\n".join(f"- {_name(node)}: {node.detail or _WHY.get(node.reason or '', 'not done')}" for node in wanted)


_WHY = {"dependency": "it depends on what failed", "stopped": "the plan ended before"}


def _name(node: Node) -> str:
    return node.task.title or node.id


def _told(state: PlanState, missing: str) -> str:
    if state.kind == "declined":
        return f"The plan was not approved, so nothing was done. {state.detail or ''}".strip()
    done = "\n\n".join(
        f"## {_name(node)} ({node.task.agent or node.task.kind})\n{_text(node.output)}"
        for node in state.top
        if node.status is TaskStatus.COMPLETED
    )
    parts = [f"Results of the plan:\n\n{done}" if done else "Nothing was achieved."]
    if missing:
        parts.append(f"Not done:\n{missing}")
        if state.graph.on_failure == "replan":
            parts.append("You may plan once more for what is not done. Tasks there can depend on the ids done here.")
    if state.status is PlanStatus.DEAD_LETTERED:
        parts.append(state.detail or "")
    if state.status is PlanStatus.CANCELLED:
        parts.append(f"The plan was cancelled. {state.detail or ''}".strip())
    return "\n\n".join(parts)


def _text(output: Any) -> str:
    text = output if isinstance(output, str) else msgspec.json.encode(output).decode()
    return text if len(text) <= _LONGEST_RESULT else f"{text[:_LONGEST_RESULT]}\n[cut]"


def plan_tool() -> Tool:
    """Return the tool."""
    task = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "description": "unique in the plan"},
            "title": {"type": "string", "maxLength": 200, "description": "a few words for people"},
            "agent": {"type": "string", "maxLength": 200, "description": "the name of an agent of the team"},
            "instructions": {
                "type": "string",
                "maxLength": 20_000,
                "description": "all the agent must know; results of depends_on are added by themselves",
            },
            "depends_on": {"type": "array", "items": {"type": "string"}, "description": "ids that must be done before"},
            "expected": {"type": "string", "maxLength": 2_000, "description": "what the result shall be"},
            "risk": {
                "enum": ["low", "medium", "high"],
                "description": "low: only looks; medium: changes files; high: sends or deletes, cannot be undone",
            },
            "confidence": {"type": "number", "minimum": 0, "maximum": 1, "description": "that it will succeed"},
            "tokens": {"type": "integer", "minimum": 0, "description": "estimate"},
            "cost": {"type": "number", "minimum": 0, "description": "estimate in US dollars"},
        },
        "required": ["id", "title", "agent", "instructions"],
        "additionalProperties": False,
    }
    return Tool(
        name=TOOL,
        description=(
            "Have the team carry out a plan: a graph of tasks. Tasks that do not depend on each other run side by "
            "side. Use it for whatever needs more than an answer; plan few tasks, each with one clear result. The "
            "result is what every task gave."
        ),
        parameters={
            "type": "object",
            "properties": {
                "title": {"type": "string", "maxLength": 200},
                "tasks": {"type": "array", "items": task, "minItems": 1, "maxItems": MOST_TASKS},
                "on_failure": {
                    "enum": ["continue", "replan", "stop"],
                    "description": "when a task fails: do what does not depend on it; plan anew once; or stop",
                },
            },
            "required": ["tasks"],
            "additionalProperties": False,
        },
        labels=LABELS,
        handler=handled_elsewhere,
    )
