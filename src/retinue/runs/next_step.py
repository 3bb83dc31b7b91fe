"""What is to be done next in a run: a pure function of its own events and its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retinue.kernel import dollars
from retinue.runs.events import Wait
from retinue.runs.rules import ENDED, Call, CallStatus, RunState


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a run may go; see the agent's limits. None: no bound; ``cost`` is in nano-dollars."""

    steps: int = 50
    tokens: int | None = None
    cost: int | None = None


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model, as step number ``step``."""

    step: int


@dataclass(frozen=True, slots=True)
class Judge:
    """Decide by policy which of these calls may act, which need a person, and which are refused."""

    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class RunTools:
    """Carry out these calls."""

    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Leave the worker until one of these is there."""

    on: Sequence[Wait]


@dataclass(frozen=True, slots=True)
class Finish:
    """Answer with ``text``."""

    text: str


@dataclass(frozen=True, slots=True)
class Fail:
    """End without an answer."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """End because somebody wants it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """The run has ended."""


Step = CallModel | Judge | RunTools | WaitFor | Finish | Fail | Cancel | Nothing


def next_step(state: RunState, bounds: Bounds) -> Step:
    """Say what is to be done now; a pure function of the run's own events and its bounds."""
    if state.status in ENDED:
        return Nothing()
    if state.cancel_reason is not None:
        return Cancel(state.cancel_reason)
    if not state.turns:
        return CallModel(1)
    open_calls = state.open_calls
    if not open_calls:
        return _after_turn(state, bounds)
    if proposed := [call for call in open_calls if call.status is CallStatus.PROPOSED]:
        return Judge(proposed)
    if ready := [call for call in open_calls if call.status in (CallStatus.CLEARED, CallStatus.STARTED)]:
        return RunTools(ready)
    return WaitFor([_wait(call) for call in open_calls])


def _after_turn(state: RunState, bounds: Bounds) -> Step:
    turn = state.turns[-1]
    if state.given:
        call = turn.calls[0]
        return Fail("tool_failed", call.content) if call.failed else Finish(call.content)
    if not turn.calls:
        return Finish(turn.answer.text)
    if state.step >= bounds.steps:
        return Fail("too_many_steps", f"The run took {state.step} steps, the most its agent may take.")
    if bounds.tokens is not None and state.tokens >= bounds.tokens:
        return Fail("too_many_tokens", f"The run used {state.tokens} tokens; its agent may use {bounds.tokens}.")
    if bounds.cost is not None and state.spent >= bounds.cost:
        return Fail("budget", f"The run cost {dollars(state.spent)} USD; its agent may spend {dollars(bounds.cost)}.")
    return CallModel(state.step + 1)


def _wait(call: Call) -> Wait:
    if call.status is CallStatus.UNKNOWN:
        return Wait(kind="reconcile", call_id=call.call_id)
    if call.child is not None:
        return Wait(kind="child", id=call.child.id, call_id=call.call_id, of=call.child.kind)
    return Wait(kind="approval", id=call.approval_id, call_id=call.call_id)
