"""A run's state, without a database, a model or a clock: events -> state (-> the next step: ``next_step.py``).

The state is a fold of the run's own stream and of nothing else. Because no step is ever executed to rebuild it, a
takeover costs one read, and a run can be looked at as of any version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from retinue.ledger import Event, Recorded
from retinue.providers import Message, ModelAnswer, ToolCall, ToolResult
from retinue.runs.events import (
    Child,
    ModelResponded,
    RunActivated,
    RunCancelled,
    RunCancelRequested,
    RunCompleted,
    RunDeadLettered,
    RunDropped,
    RunFailed,
    RunInterrupted,
    RunQueued,
    RunRequested,
    RunRetried,
    RunTimedOut,
    RunWaiting,
    ToolAsked,
    ToolCompleted,
    ToolDecided,
    ToolDelegated,
    ToolReconciled,
    ToolStarted,
    ToolUnknown,
    Wait,
)
from retinue.tools import read_arguments


class Status(StrEnum):
    """What a run is doing."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    DEAD_LETTERED = "dead_lettered"


GIVEN_CALL = "given"
"""The id of the one call of a run that asks no model."""

ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT, Status.DEAD_LETTERED})
FAILURES = frozenset({Status.FAILED, Status.TIMED_OUT, Status.DEAD_LETTERED})
RETRYABLE = frozenset({Status.FAILED, Status.CANCELLED, Status.TIMED_OUT, Status.DEAD_LETTERED})


class CallStatus(StrEnum):
    """What became of a tool call."""

    PROPOSED = "proposed"
    ASKED = "asked"
    CLEARED = "cleared"
    STARTED = "started"
    DELEGATED = "delegated"
    UNKNOWN = "unknown"
    DONE = "done"


@dataclass(slots=True)
class Call:
    """One tool call of a run, as far as it got."""

    call_id: str
    tool: str
    raw_arguments: str
    status: CallStatus = CallStatus.PROPOSED
    arguments: dict[str, Any] | None = None
    approval_id: UUID | None = None
    child: Child | None = None
    decision: str | None = None
    comment: str | None = None
    answer: str | None = None
    key: str = ""
    idempotent: bool = False
    content: str = ""
    failed: bool = False
    addendum: str = ""
    cost: int = 0
    milliseconds: int = 0

    def parsed(self) -> dict[str, Any]:
        """Return the arguments: a person's edit, or what the model wrote.

        Raises:
            ToolFault: the model wrote no JSON object; the text is for the model.
        """
        if self.arguments is not None:
            return self.arguments
        return read_arguments(self.raw_arguments)


@dataclass(slots=True)
class Turn:
    """One model answer and the calls it asked for."""

    step: int
    answer: ModelAnswer
    from_cache: bool
    milliseconds: int
    at: datetime
    calls: list[Call]


@dataclass(slots=True)
class RunState:
    """A run as its events tell it."""

    requested: RunRequested | None = None
    version: int = 0
    status: Status = Status.QUEUED
    epoch: int = 0
    worker_id: UUID | None = None
    attempts: int = 0
    turns: list[Turn] = field(default_factory=list)
    waiting_on: list[Wait] = field(default_factory=list)
    tainted_by: list[str] = field(default_factory=list)
    cancel_reason: str | None = None
    error: RunFailed | None = None
    requested_at: datetime | None = None
    activated_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    active_seconds: float = 0.0
    interruptions: list[str] = field(default_factory=list)
    retried_as: UUID | None = None

    @property
    def reply_id(self) -> UUID:
        """The message that will hold the answer; a retried run has a new one, since its failure is a message too."""
        assert self.requested is not None, "the stream of a run begins with its request"
        return self.retried_as or self.requested.reply_id

    @property
    def given(self) -> bool:
        """Whether the run makes one given call and asks no model."""
        return self.requested is not None and self.requested.call is not None

    @property
    def model_turns(self) -> list[Turn]:
        """The turns a model took."""
        return [] if self.given else self.turns

    @property
    def text(self) -> str:
        """What the run answers, if it has come to an answer: the model's last words, or the given call's result.

        What people must learn from delegated work is added, should the model not have said it.
        """
        if self.given:
            return self.turns[-1].calls[0].content
        text = self.turns[-1].answer.text
        notes = [call.addendum for turn in self.turns for call in turn.calls if call.addendum]
        return "\n\n".join([text, *(note for note in dict.fromkeys(notes) if note not in text)])

    @property
    def step(self) -> int:
        """The number of the newest model answer; 0 before the first."""
        return self.turns[-1].step if self.turns else 0

    @property
    def open_calls(self) -> list[Call]:
        """The calls of the newest answer that have no result yet."""
        return [call for call in self.turns[-1].calls if call.status is not CallStatus.DONE] if self.turns else []

    @property
    def tokens(self) -> int:
        """Tokens read and written so far; cached answers cost none."""
        return sum(turn.answer.input_tokens + turn.answer.output_tokens for turn in self.turns if not turn.from_cache)

    @property
    def cost(self) -> int:
        """Nano-dollars spent so far, calls of unknown price left out."""
        return sum(turn.answer.cost or 0 for turn in self.turns if not turn.from_cache)

    @property
    def spent(self) -> int:
        """Nano-dollars spent so far by the run and by all work that it handed on and that has ended."""
        return self.cost + sum(call.cost for turn in self.turns for call in turn.calls)

    def call(self, call_id: str) -> Call | None:
        """Return a call of any turn."""
        return next((call for turn in self.turns for call in turn.calls if call.call_id == call_id), None)


def fold(recorded: Iterable[Recorded[Event]], state: RunState | None = None) -> RunState:
    """Bring ``state`` (a fresh one by default) forward by recorded events."""
    state = state or RunState()
    for one in recorded:
        apply(state, one.event, one.recorded_at)
        state.version = one.version
    return state


def fold_now(state: RunState, facts: Sequence[Event], at: datetime) -> RunState:
    """Bring ``state`` forward by facts that are being recorded right now."""
    for fact in facts:
        apply(state, fact, at)
        state.version += 1
    return state


def apply(state: RunState, fact: Event, at: datetime) -> None:
    """Bring ``state`` forward by one fact; facts it does not know change nothing."""
    handler = _APPLY.get(type(fact))
    if handler is not None:
        handler(state, fact, at)


def _requested(state: RunState, fact: RunRequested, at: datetime) -> None:
    state.requested, state.requested_at = fact, at
    state.tainted_by = list(fact.tainted_by)
    if fact.call is not None:
        raw = msgspec.json.encode(fact.call.arguments).decode()
        answer = ModelAnswer(parts=[], model="", provider="", finish="tool_call")
        state.turns = [Turn(0, answer, True, 0, at, [Call(GIVEN_CALL, fact.call.tool, raw)])]


def _activated(state: RunState, fact: RunActivated, at: datetime) -> None:
    _count_active(state, at)
    state.status, state.epoch, state.worker_id, state.activated_at = Status.RUNNING, fact.epoch, fact.worker_id, at
    state.started_at = state.started_at or at
    state.attempts += 1
    state.waiting_on = []


def _progress(state: RunState) -> None:
    """A recorded step shows that the run is no poison."""
    state.attempts = min(state.attempts, 1)


def _responded(state: RunState, fact: ModelResponded, at: datetime) -> None:
    _progress(state)
    calls = [Call(part.id, part.name, part.arguments) for part in fact.answer.parts if isinstance(part, ToolCall)]
    state.turns.append(Turn(fact.step, fact.answer, fact.from_cache, fact.milliseconds, at, calls))


def _asked(state: RunState, fact: ToolAsked, at: datetime) -> None:
    if call := state.call(fact.call_id):
        call.status, call.approval_id = CallStatus.ASKED, fact.approval_id


def _decided(state: RunState, fact: ToolDecided, at: datetime) -> None:
    _progress(state)
    if call := state.call(fact.call_id):
        call.decision, call.comment, call.answer = fact.decision, fact.comment, fact.answer
        call.status = CallStatus.CLEARED
        if fact.arguments is not None:
            call.arguments = fact.arguments


def _started(state: RunState, fact: ToolStarted, at: datetime) -> None:
    if call := state.call(fact.call_id):
        call.status, call.key, call.idempotent = CallStatus.STARTED, fact.key, fact.idempotent
        call.arguments = fact.arguments


def _completed(state: RunState, fact: ToolCompleted, at: datetime) -> None:
    _progress(state)
    if call := state.call(fact.call_id):
        call.status, call.content, call.failed = CallStatus.DONE, fact.content, fact.failed
        call.milliseconds, call.addendum, call.cost = fact.milliseconds, fact.addendum, fact.cost
        if fact.untrusted:
            state.tainted_by.append(f"{fact.tool} ({fact.call_id})")


def _delegated(state: RunState, fact: ToolDelegated, at: datetime) -> None:
    _progress(state)
    if call := state.call(fact.call_id):
        call.status, call.child = CallStatus.DELEGATED, fact.child


def _unknown(state: RunState, fact: ToolUnknown, at: datetime) -> None:
    if call := state.call(fact.call_id):
        call.status = CallStatus.UNKNOWN


def _reconciled(state: RunState, fact: ToolReconciled, at: datetime) -> None:
    call = state.call(fact.call_id)
    if call is None:
        return
    if fact.outcome == "again":
        call.status = CallStatus.CLEARED
        call.decision = call.decision or "approved"
    else:
        call.status = CallStatus.DONE
        call.failed = fact.outcome == "give_up"
        call.content = fact.result or (
            "It happened."
            if fact.outcome == "happened"
            else "It is not known whether this happened; a person gave it up."
        )


def _waiting(state: RunState, fact: RunWaiting, at: datetime) -> None:
    _count_active(state, at)
    state.status, state.waiting_on, state.attempts = Status.WAITING, list(fact.on), 0


def _queued(state: RunState, fact: RunQueued, at: datetime) -> None:
    _count_active(state, at)
    state.status, state.waiting_on, state.attempts = Status.QUEUED, [], 0


def _ended(status: Status) -> Callable[[RunState, Any, datetime], None]:
    def end(state: RunState, fact: Event, at: datetime) -> None:
        _count_active(state, at)
        state.status, state.ended_at, state.waiting_on, state.error = status, at, [], None
        if isinstance(fact, RunFailed):
            state.error = fact
        elif isinstance(fact, RunDeadLettered):
            state.error = RunFailed(kind="dead_letter", detail=fact.cause, step=fact.step)
        elif isinstance(fact, RunTimedOut):
            state.error = RunFailed(
                kind="deadline", detail=f"The run used up its {fact.seconds:g} seconds.", step=fact.step
            )

    return end


def _cancel_requested(state: RunState, fact: RunCancelRequested, at: datetime) -> None:
    state.cancel_reason = fact.reason or "cancelled"


def _interrupted(state: RunState, fact: RunInterrupted, at: datetime) -> None:
    state.interruptions.append(fact.cause)


def _retried(state: RunState, fact: RunRetried, at: datetime) -> None:
    state.status, state.error, state.ended_at = Status.QUEUED, None, None
    state.cancel_reason, state.attempts, state.active_seconds = None, 0, 0.0
    state.retried_as = fact.reply_id


def _count_active(state: RunState, at: datetime) -> None:
    if state.status is Status.RUNNING and state.activated_at is not None:
        state.active_seconds += max(0.0, (at - state.activated_at).total_seconds())
        state.activated_at = None


_APPLY: dict[type[Event], Callable[[RunState, Any, datetime], None]] = {
    RunRequested: _requested,
    RunActivated: _activated,
    RunQueued: _queued,
    ModelResponded: _responded,
    ToolAsked: _asked,
    ToolDecided: _decided,
    ToolStarted: _started,
    ToolDelegated: _delegated,
    ToolCompleted: _completed,
    ToolUnknown: _unknown,
    ToolReconciled: _reconciled,
    RunWaiting: _waiting,
    RunCompleted: _ended(Status.COMPLETED),
    RunFailed: _ended(Status.FAILED),
    RunCancelled: _ended(Status.CANCELLED),
    RunTimedOut: _ended(Status.TIMED_OUT),
    RunDeadLettered: _ended(Status.DEAD_LETTERED),
    RunDropped: _ended(Status.CANCELLED),
    RunCancelRequested: _cancel_requested,
    RunInterrupted: _interrupted,
    RunRetried: _retried,
}


def lost_calls(state: RunState) -> list[Call]:
    """Return the calls that a dead worker left between start and result and that must not be repeated blindly."""
    return [call for call in state.open_calls if call.status is CallStatus.STARTED and not call.idempotent]


def conversation(history: Sequence[Message], state: RunState) -> list[Message]:
    """Return what the model sees: the session's messages, then this run's answers and results so far."""
    messages = list(history)
    for turn in state.turns:
        messages.append(Message(role="assistant", parts=list(turn.answer.parts)))
        if turn.calls:
            results = [ToolResult(call.call_id, call.tool, call.content, call.failed) for call in turn.calls]
            messages.append(Message(role="user", parts=list(results)))
    return messages
