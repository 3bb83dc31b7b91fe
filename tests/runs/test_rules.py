"""The run's pure rules: events fold to a state, and the state says what is next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from retinue.ledger import Event
from retinue.providers import AnswerPart, Message, ModelAnswer, Text, ToolCall, ToolResult
from retinue.runs.events import (
    ModelResponded,
    RunActivated,
    RunCancelRequested,
    RunCompleted,
    RunFailed,
    RunRequested,
    RunRetried,
    RunWaiting,
    ToolAsked,
    ToolCompleted,
    ToolDecided,
    ToolReconciled,
    ToolStarted,
    ToolUnknown,
    Wait,
)
from retinue.runs.next_step import Bounds, CallModel, Cancel, Fail, Finish, Judge, Nothing, RunTools, WaitFor, next_step
from retinue.runs.rules import CallStatus, RunState, Status, apply, conversation, lost_calls

START = datetime(2026, 1, 1, tzinfo=UTC)
REQUESTED = RunRequested(
    session_id=uuid4(),
    message_id=uuid4(),
    reply_id=uuid4(),
    agent_id=uuid4(),
    agent_version=1,
    owner_id=uuid4(),
    history=1,
)
ACTIVATED = RunActivated(worker_id=uuid4(), epoch=1)


def state_after(*facts: Event) -> RunState:
    state = RunState()
    for n, fact in enumerate((REQUESTED, ACTIVATED, *facts)):
        apply(state, fact, START + timedelta(seconds=n))
        state.version += 1
    return state


def answered(step: int, *calls: str, text: str = "", tokens: int = 10, cost: int | None = 5) -> ModelResponded:
    parts: list[AnswerPart] = [ToolCall(call, "files_write", '{"path": "a"}') for call in calls]
    if text:
        parts.insert(0, Text(text))
    answer = ModelAnswer(parts=parts, model="x:y", provider="x", input_tokens=tokens, cost=cost)
    return ModelResponded(step=step, answer=answer)


def started(call: str, *, idempotent: bool = False) -> ToolStarted:
    return ToolStarted(
        call_id=call, tool="files_write", arguments={"path": "a"}, key=call, effect="write", idempotent=idempotent
    )


def completed(call: str) -> ToolCompleted:
    return ToolCompleted(call_id=call, tool="files_write", content="done")


def test_a_fresh_run_asks_the_model_and_an_answer_without_calls_ends_it() -> None:
    assert next_step(state_after(), Bounds()) == CallModel(1)
    assert next_step(state_after(answered(1, text="hello")), Bounds()) == Finish("hello")


def test_calls_are_judged_then_carried_out_then_the_model_is_asked_again() -> None:
    state = state_after(answered(1, "c1", "c2"))
    step = next_step(state, Bounds())
    assert isinstance(step, Judge)
    assert [call.call_id for call in step.calls] == ["c1", "c2"]
    state.turns[-1].calls[0].status = CallStatus.CLEARED
    apply(state, ToolAsked(call_id="c2", tool="files_write", approval_id=uuid4()), START)
    step = next_step(state, Bounds())
    assert isinstance(step, RunTools)
    assert [call.call_id for call in step.calls] == ["c1"]
    apply(state, completed("c1"), START)
    assert isinstance(next_step(state, Bounds()), WaitFor)
    apply(state, completed("c2"), START)
    assert next_step(state, Bounds()) == CallModel(2)


def test_an_approved_call_is_carried_out_with_the_edited_arguments() -> None:
    approval = uuid4()
    state = state_after(
        answered(1, "c1"),
        ToolAsked(call_id="c1", tool="files_write", approval_id=approval),
        RunWaiting(on=[Wait(kind="approval", id=approval, call_id="c1")]),
        RunActivated(worker_id=uuid4(), epoch=2),
        ToolDecided(call_id="c1", approval_id=approval, decision="approved", arguments={"path": "b"}),
    )
    step = next_step(state, Bounds())
    assert isinstance(step, RunTools)
    assert step.calls[0].parsed() == {"path": "b"}


def test_waiting_costs_no_attempt_and_no_time() -> None:
    state = state_after(answered(1, "c1"), RunWaiting(on=[]))
    assert state.attempts == 0
    assert state.active_seconds == 2.0
    apply(state, RunActivated(worker_id=uuid4(), epoch=2), START + timedelta(hours=5))
    apply(state, completed("c1"), START + timedelta(hours=5, seconds=1))
    apply(state, RunCompleted(message_id=uuid4()), START + timedelta(hours=5, seconds=3))
    assert state.active_seconds == 5.0


def test_a_lost_effect_is_unknown_unless_it_may_be_repeated() -> None:
    assert [call.call_id for call in lost_calls(state_after(answered(1, "c1"), started("c1")))] == ["c1"]
    assert lost_calls(state_after(answered(1, "c1"), started("c1", idempotent=True))) == []
    assert lost_calls(state_after(answered(1, "c1"), started("c1"), completed("c1"))) == []
    state = state_after(answered(1, "c1"), started("c1"), ToolUnknown(call_id="c1", tool="files_write"))
    assert next_step(state, Bounds()) == WaitFor([Wait(kind="reconcile", call_id="c1")])


@pytest.mark.parametrize(
    "outcome, result, status, content",
    [
        ("happened", "it is there", CallStatus.DONE, "it is there"),
        ("give_up", None, CallStatus.DONE, "It is not known whether this happened; a person gave it up."),
        ("again", None, CallStatus.CLEARED, ""),
    ],
)
def test_a_person_reconciles(outcome: str, result: str | None, status: CallStatus, content: str) -> None:
    fact = ToolReconciled(call_id="c1", outcome=outcome, result=result)  # type: ignore[arg-type]  # parametrised
    state = state_after(answered(1, "c1"), started("c1"), ToolUnknown(call_id="c1", tool="files_write"), fact)
    call = state.call("c1")
    assert call is not None
    assert (call.status, call.content) == (status, content)


def test_cancel_outranks_every_step_and_an_ended_run_has_none() -> None:
    state = state_after(answered(1, "c1"), RunCancelRequested(reason="enough"))
    assert next_step(state, Bounds()) == Cancel("enough")
    apply(state, RunCompleted(message_id=uuid4()), START)
    assert next_step(state, Bounds()) == Nothing()


@pytest.mark.parametrize(
    "bounds, kind",
    [(Bounds(steps=1), "too_many_steps"), (Bounds(tokens=10), "too_many_tokens"), (Bounds(cost=5), "budget")],
)
def test_bounds_end_a_run_before_the_next_model_call(bounds: Bounds, kind: str) -> None:
    step = next_step(state_after(answered(1, "c1"), completed("c1")), bounds)
    assert isinstance(step, Fail)
    assert step.kind == kind
    # An answer is never thrown away: a run that is done may be over its bounds.
    assert next_step(state_after(answered(1, text="done")), bounds) == Finish("done")


def test_a_retried_run_goes_on_from_the_step_it_failed_at() -> None:
    failed = RunFailed(kind="timeout", detail="…", step=2)
    retried = RunRetried(after="failed", reply_id=uuid4())
    state = state_after(answered(1, "c1"), completed("c1"), failed, retried)
    assert state.reply_id == retried.reply_id
    assert state.status is Status.QUEUED
    assert state.error is None
    assert next_step(state, Bounds()) == CallModel(2)


def test_progress_resets_the_count_of_attempts() -> None:
    state = state_after(*(RunActivated(worker_id=uuid4(), epoch=n) for n in (2, 3)))
    assert state.attempts == 3
    apply(state, answered(1, text="x"), START)
    assert state.attempts == 1


def test_the_conversation_holds_history_answers_and_results_in_order() -> None:
    history = [Message(role="user", parts=[Text("do it")])]
    said = conversation(history, state_after(answered(1, "c1"), completed("c1")))
    assert [message.role for message in said] == ["user", "assistant", "user"]
    assert said[2].parts == [ToolResult("c1", "files_write", "done")]


def test_unknown_facts_change_nothing() -> None:
    class Strange(Event, frozen=True, kw_only=True):
        pass

    before, state = state_after(), state_after()
    apply(state, Strange(), START)
    assert state == before
