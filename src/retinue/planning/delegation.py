"""The tools ``delegate`` and ``ask_agent``: an agent hands a part of its work, or a question, to another agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec

from retinue import agents, runs
from retinue.agents import Agent
from retinue.kernel import BudgetExhausted, Conflict, NotFound, Scope, TooManyRequests
from retinue.planning.team import team_of, the_team
from retinue.runs import Assignment, Child, ChildOutcome, Declined, DelegatedCall, Parent
from retinue.runs import Status as RunStatus
from retinue.tools import Effect, Labels, Tool, ToolContext, ToolFault, Trust

KIND = "run"

DEEPEST = 4
"""Delegations that may lie above each other: an agent asks an agent, which asks an agent."""

MOST = 16
"""Calls that one run may hand on."""


NOTHING_LEFT = "Not handed on: the money for this run is used up."


class _Handed(msgspec.Struct, forbid_unknown_fields=True):
    agent: str
    instructions: str
    title: str = ""


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    agent: str
    question: str


class ToAnotherAgent:
    """Carries ``delegate`` and ``ask_agent`` out: each call is a run of the other agent, and its answer the result."""

    async def describe(self, scope: Scope, requested: runs.RunRequested) -> str:
        """Say who can be asked."""
        return f"\n\n{the_team(await team_of(scope, without=requested.agent_id))}"

    async def lanes(self, scope: Scope, call: DelegatedCall) -> Sequence[UUID]:
        """Return the other agent; nobody when there is no such agent."""
        with suppress(NotFound):
            return [(await self._agent(scope, call)).agent_id]
        return []

    async def open(self, scope: Scope, call: DelegatedCall) -> Child | Declined:
        """Start the other agent's run."""
        if call.requested.depth >= DEEPEST:
            return Declined(f"Not handed on: {DEEPEST} delegations lie above this one already. Do it yourself.")
        if sum(one.child is not None for turn in call.state.turns for one in turn.calls) >= MOST:
            return Declined(f"Not handed on: this run has handed on {MOST} calls, the most it may.")
        if budget_left(scope, call) == 0:
            return Declined(NOTHING_LEFT)
        try:
            agent = await self._agent(scope, call)
            prompt = _prompt(call)
        except NotFound:
            return Declined(f"There is no agent called {str(call.arguments.get('agent'))[:100]!r}.")
        except msgspec.ValidationError as error:
            return Declined(f"The arguments are not valid: {error}")
        if agent.agent_id == call.requested.agent_id:
            return Declined("That is you. Do it yourself, or ask another agent.")
        try:
            run_id = await runs.assign(scope, self._assignment(scope, call, agent, prompt))
        except (TooManyRequests, BudgetExhausted) as fault:
            return Declined(f"{agent.name} cannot take it now: {fault.detail}")
        return Child(kind=KIND, id=run_id)

    async def _agent(self, scope: Scope, call: DelegatedCall) -> Agent:
        return await agents.find(scope, str(call.arguments.get("agent", "")))

    def _assignment(self, scope: Scope, call: DelegatedCall, agent: Agent, prompt: str) -> Assignment:
        requested = call.requested
        return Assignment(
            parent=Parent(kind=KIND, id=call.run_id, key=call.call_id),
            session_id=requested.session_id,
            agent=agent,
            prompt=prompt,
            owner_id=requested.owner_id,
            depth=requested.depth + 1,
            tainted_by=call.state.tainted_by,
            budget=budget_left(scope, call),
        )

    async def outcome(self, scope: Scope, child_id: UUID, *, lock: bool) -> ChildOutcome | None:
        """Return the other agent's answer, or why there is none."""
        found = await runs.outcome(scope, child_id, lock=lock)
        if found is None:
            return None
        if found.status is RunStatus.COMPLETED:
            return ChildOutcome(found.text, tainted=found.tainted, cost=found.cost)
        return ChildOutcome(f"No answer: {found.text}", failed=True, tainted=found.tainted, cost=found.cost)

    async def cancel(self, scope: Scope, child_id: UUID, reason: str) -> None:
        """End the other agent's run."""
        with suppress(Conflict):
            await runs.cancel(scope, child_id, reason)


def budget_left(scope: Scope, call: DelegatedCall) -> int | None:
    """Return what a call may spend of what the run has left, in nano-dollars; None: the run has no bound of its own.

    Calls that are open at the same time share it: together they must not spend more than is there.
    """
    bounds = [one for one in (call.agent.limits.budget, call.requested.budget) if one is not None]
    if not bounds:
        return None
    left = min(bounds) - call.state.spent
    delegations = scope.service(runs.Delegations)
    handed_on = sum(delegations.behind(one.tool) is not None for one in call.state.open_calls)
    return max(1, left // max(1, handed_on)) if left > 0 else 0


def _prompt(call: DelegatedCall) -> str:
    asker = f"{call.agent.name}, another agent of your team,"
    if call.tool == "ask_agent":
        asked = msgspec.convert(dict(call.arguments), _Asked)
        return f"{asker} asks you:\n\n{asked.question}"
    handed = msgspec.convert(dict(call.arguments), _Handed)
    title = f" ({handed.title})" if handed.title else ""
    return f"{asker} hands you a part of its work{title}. Your answer goes back to it.\n\n{handed.instructions}"


async def handled_elsewhere(_context: ToolContext, _arguments: dict[str, Any]) -> str:
    """Stand in for the handler of a tool that other work answers; the run loop never gets here."""
    raise ToolFault("The call was not handed on.")


LABELS = Labels(effect=Effect.READ, output=Trust.TRUSTED, private=True, idempotent=True)
"""To hand work on changes nothing by itself: what the other agent does is judged by its own policy, and its taint comes
back with the result."""


def tools() -> list[Tool]:
    """Return both tools."""
    return [
        Tool(
            name="delegate",
            description=(
                "Hand a part of your work to another agent of the team and get its result. Several calls at once are "
                "worked on side by side. The other agent sees only what you write here, and the same files."
            ),
            parameters=_schema(
                {
                    "agent": _text("The agent's name.", 200),
                    "title": _text("A few words that say what it is.", 200),
                    "instructions": _text("Everything the agent must know to do it.", 50_000),
                },
                ["agent", "instructions"],
            ),
            labels=LABELS,
            handler=handled_elsewhere,
        ),
        Tool(
            name="ask_agent",
            description="Ask another agent of the team a question and get its answer.",
            parameters=_schema(
                {
                    "agent": _text("The agent's name.", 200),
                    "question": _text("The question, complete in itself.", 20_000),
                },
                ["agent", "question"],
            ),
            labels=LABELS,
            handler=handled_elsewhere,
        ),
    ]


def _text(description: str, most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most, "description": description}


def _schema(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }
