"""How runs look from outside."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from retinue.kernel import dollars
from retinue.runs.events import Parent
from retinue.runs.rules import Call, CallStatus, RunState, Turn
from retinue.runs.views import RunRow


class Cost(BaseModel):
    """What the model calls of a run cost, as far as prices are known."""

    amount: str = Field(description="US dollars, a decimal number", examples=["0.00042"])
    currency: str = "USD"
    unpriced_calls: int = Field(description="model calls whose price is not known; they are not in the amount")


class RunError(BaseModel):
    """Why a run ended without an answer."""

    kind: str = Field(examples=["timeout"])
    detail: str
    step: int = 0


class WaitView(BaseModel):
    """One thing a run waits for."""

    kind: str = Field(description="approval, child, stop or reconcile")
    id: UUID | None = Field(default=None, description="the approval, or the other work")
    call_id: str | None = None
    of: str | None = Field(default=None, description="what kind of other work: plan or run")


class ParentView(BaseModel):
    """What a run is a part of."""

    kind: str = Field(description="plan, run or item", examples=["plan"])
    id: UUID
    key: str = Field(description="the task of the plan, or the call of the run")


class RunView(BaseModel):
    """A run as the API shows it."""

    run_id: UUID
    session_id: UUID
    agent_id: UUID
    agent_version: int
    status: str = Field(
        description="queued, running, waiting, completed, failed, cancelled, timed_out or dead_lettered"
    )
    parent: ParentView | None = Field(description="what it works for, when that is not its session")
    waiting_on: list[WaitView]
    error: RunError | None
    message_id: UUID = Field(description="the message that will hold the answer")
    steps: int
    model_calls: int
    tool_calls: int
    input_tokens: int
    output_tokens: int
    cost: Cost
    demo: bool = Field(description="the scripted demo provider answered, not a model")
    attempts: int = Field(description="activations since the last recorded step")
    tainted: bool = Field(description="the run has read untrusted text")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    version: int


class StepView(BaseModel):
    """One journalled step of a run: a model call or a tool call."""

    step: int
    kind: str = Field(description="model or tool")
    name: str = Field(description="the model or the tool")
    status: str = Field(description="how far it got; a call that nobody approved is rejected, expired or cancelled")
    call_id: str | None = None
    arguments: dict[str, Any] | None = None
    result: str | None = None
    failed: bool = False
    from_cache: bool = False
    tokens: int | None = None
    cost: str | None = Field(default=None, description="US dollars; null when the price is not known")
    milliseconds: int
    at: datetime


def present(run: RunRow) -> RunView:
    """Show a run's row."""
    return RunView(
        run_id=run.run_id,
        session_id=run.session_id,
        agent_id=run.agent_id,
        agent_version=run.agent_version,
        status=run.status,
        parent=_parent(run.parent),
        waiting_on=[WaitView(**wait) for wait in run.waiting_on],
        error=RunError(**run.error) if run.error else None,
        message_id=run.reply_id,
        steps=run.model_calls,
        model_calls=run.model_calls,
        tool_calls=run.tool_calls,
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        cost=Cost(amount=dollars(run.cost), unpriced_calls=run.unpriced),
        demo=run.demo,
        attempts=run.attempts,
        tainted=run.tainted,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        version=run.version,
    )


def _parent(parent: Parent | None) -> ParentView | None:
    return ParentView(kind=parent.kind, id=parent.id, key=parent.key) if parent else None


def present_state(run_id: UUID, state: RunState) -> RunView:
    """Show a run as of an earlier version, folded from its stream."""
    requested = state.requested
    assert requested is not None
    assert state.requested_at is not None
    paid = [turn.answer for turn in state.model_turns if not turn.from_cache]
    return RunView(
        run_id=run_id,
        session_id=requested.session_id,
        agent_id=requested.agent_id,
        agent_version=requested.agent_version,
        status=state.status,
        parent=_parent(requested.parent),
        waiting_on=[
            WaitView(kind=wait.kind, id=wait.id, call_id=wait.call_id, of=wait.of) for wait in state.waiting_on
        ],
        error=RunError(kind=state.error.kind, detail=state.error.detail, step=state.error.step)
        if state.error
        else None,
        message_id=state.reply_id,
        steps=len(state.model_turns),
        model_calls=len(state.model_turns),
        tool_calls=sum(call.status is CallStatus.DONE for turn in state.turns for call in turn.calls),
        input_tokens=sum(answer.input_tokens for answer in paid),
        output_tokens=sum(answer.output_tokens for answer in paid),
        cost=Cost(amount=dollars(state.cost), unpriced_calls=sum(answer.cost is None for answer in paid)),
        demo=any(turn.answer.demo for turn in state.turns),
        attempts=state.attempts,
        tainted=bool(state.tainted_by),
        created_at=state.requested_at,
        started_at=state.started_at,
        ended_at=state.ended_at,
        version=state.version,
    )


def present_steps(state: RunState) -> list[StepView]:
    """List the model and tool calls of a run in order."""
    steps: list[StepView] = []
    for turn in state.turns:
        if not state.given:
            steps.append(_model_step(turn))
        steps.extend(
            StepView(
                step=turn.step,
                kind="tool",
                name=call.tool,
                status=_call_status(call),
                call_id=call.call_id,
                arguments=_arguments(call.raw_arguments, call.arguments),
                result=call.content or None,
                failed=call.failed,
                milliseconds=call.milliseconds,
                at=turn.at,
            )
            for call in turn.calls
        )
    return steps


def _call_status(call: Call) -> str:
    """Tell a call that ended without acting from one that was made: both are done."""
    if call.status is CallStatus.DONE and call.decision not in (None, "approved"):
        return call.decision
    return call.status


def _model_step(turn: Turn) -> StepView:
    answer = turn.answer
    return StepView(
        step=turn.step,
        kind="model",
        name=answer.model,
        status="done",
        result=answer.text or None,
        from_cache=turn.from_cache,
        tokens=answer.input_tokens + answer.output_tokens,
        cost=dollars(answer.cost) if answer.cost is not None else None,
        milliseconds=turn.milliseconds,
        at=turn.at,
    )


def _arguments(raw: str, edited: dict[str, Any] | None) -> dict[str, Any]:
    if edited is not None:
        return edited
    try:
        value = json.loads(raw or "{}")
    except ValueError:
        return {"raw": raw}
    return value if isinstance(value, dict) else {"raw": raw}
