"""What happens in a run. Its stream ``run:<id>`` is its journal: it suffices to go on, to look back and to replay."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

import msgspec

from retinue.ledger import Event, event
from retinue.providers import ModelAnswer


class Parent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whom a run works for, when it is not a conversation: a kind such as ``plan``, an id, and a part of that."""

    kind: str
    id: UUID
    key: str = ""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """What answers a call in the place of a handler: another run, or something else that ends, by kind and id."""

    kind: str
    id: UUID


class GivenCall(msgspec.Struct, frozen=True, kw_only=True):
    """The one call of a run that asks no model."""

    tool: str
    arguments: dict[str, Any]


class Wait(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing a run waits for: an approval, other work, the end of a stop, or a person to reconcile an effect.

    ``of`` is the kind of the other work.
    """

    kind: Literal["approval", "child", "stop", "reconcile"]
    id: UUID | None = None
    call_id: str | None = None
    of: str | None = None


@event("run.requested", personal=("prompt", "call"))
class RunRequested(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody asked an agent for an answer.

    Attributes:
        history: the ordinal of the last message of the session that it shall see.
        parent: whom it works for instead of the session; it then sees ``prompt`` and nothing else.
        call: the one call to be made, without a model.
        depth: how many delegations lie above it.
        tainted_by: what untrusted text those above it have read.
        seconds: a shorter time than its agent's.
        budget: less money than its agent may spend in a run, in nano-dollars.
    """

    session_id: UUID
    message_id: UUID
    reply_id: UUID
    agent_id: UUID
    agent_version: int
    owner_id: UUID
    history: int
    priority: int = 0
    prompt: str | None = None
    parent: Parent | None = None
    call: GivenCall | None = None
    depth: int = 0
    tainted_by: tuple[str, ...] = ()
    seconds: float | None = None
    budget: int | None = None


@event("run.progressed")
class RunProgressed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Something begins that takes a while: ``planning`` has ``seconds`` at most."""

    phase: Literal["planning"]
    seconds: float | None = None


@event("run.queued")
class RunQueued(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The run can go on and waits for a slot of its agent's lane."""

    reason: str = "lane"


@event("run.activated")
class RunActivated(Event, frozen=True, kw_only=True):
    """A worker took the run. ``epoch`` counts activations; an older epoch has lost the run."""

    worker_id: UUID
    epoch: int


@event("model.responded", personal=("answer",))
class ModelResponded(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A model answered a step; ``answer`` says what, which model, and what it took."""

    step: int
    answer: ModelAnswer
    from_cache: bool = False
    milliseconds: int = 0


@event("tool.asked")
class ToolAsked(Event, frozen=True, kw_only=True):
    """A call waits for a person: see the approval."""

    call_id: str
    tool: str
    approval_id: UUID


@event("tool.decided", personal=("arguments", "comment", "answer"))
class ToolDecided(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What became of the question: approve, reject, expired or cancelled; ``arguments`` when they were edited."""

    call_id: str
    approval_id: UUID
    decision: str
    arguments: dict[str, Any] | None = None
    comment: str | None = None
    answer: str | None = None


@event("tool.started", personal=("arguments",))
class ToolStarted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A call that changes something is about to act, under its idempotency key."""

    call_id: str
    tool: str
    arguments: dict[str, Any]
    key: str
    effect: str
    idempotent: bool = False


@event("tool.delegated")
class ToolDelegated(Event, frozen=True, kw_only=True):
    """Other work answers a call; its end is the call's result."""

    call_id: str
    tool: str
    child: Child


@event("tool.completed", personal=("content", "addendum"))
class ToolCompleted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A call ended, with a result or with what the model is told went wrong.

    ``addendum`` is what a person must learn with the run's answer, whatever the model makes of the result. ``cost`` is
    what other work that answered has cost with all below it, in nano-dollars.
    """

    call_id: str
    tool: str
    content: str
    failed: bool = False
    untrusted: bool = False
    milliseconds: int = 0
    addendum: str = ""
    cost: int = 0


@event("tool.unknown")
class ToolUnknown(Event, frozen=True, kw_only=True):
    """A worker died between a call's start and its result, and the call must not be repeated blindly."""

    call_id: str
    tool: str


@event("tool.reconciled", personal=("result",))
class ToolReconciled(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A person said what became of an unknown call: it ``happened``, do it ``again``, or ``give_up``."""

    call_id: str
    outcome: Literal["happened", "again", "give_up"]
    result: str | None = None


@event("run.waiting")
class RunWaiting(Event, frozen=True, kw_only=True):
    """The run left its worker and its lane until something happens."""

    on: list[Wait]


@event("run.completed")
class RunCompleted(Event, frozen=True, kw_only=True):
    """The run ended with an answer."""

    message_id: UUID


@event("run.failed", personal=("detail",))
class RunFailed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The run ended without an answer. ``kind`` is stable; ``detail`` is for a person."""

    kind: str
    detail: str
    step: int = 0


@event("run.cancel_requested", personal=("reason",))
class RunCancelRequested(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody wants a running run to end."""

    reason: str = ""


@event("run.cancelled", personal=("reason",))
class RunCancelled(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The run ended because somebody wanted it to."""

    reason: str = ""


@event("run.timed_out")
class RunTimedOut(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The run used up its time; waiting does not count."""

    seconds: float
    step: int = 0


@event("run.interrupted", personal=("cause",))
class RunInterrupted(Event, frozen=True, kw_only=True):
    """An activation failed for a reason that is not the run's; another one tries again."""

    cause: str


@event("run.retried")
class RunRetried(Event, frozen=True, kw_only=True):
    """Somebody wants an ended run to go on from the step it failed at; ``reply_id`` will be its new answer."""

    after: str
    reply_id: UUID


@event("run.dead_lettered", personal=("cause",))
class RunDeadLettered(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Activation after activation was lost without a new step: the run waits for a person."""

    cause: str
    attempts: int
    step: int = 0


@event("run.dropped")
class RunDropped(Event, frozen=True, kw_only=True):
    """A person gave a dead letter up."""


EVENTS = (
    RunRequested,
    RunProgressed,
    RunQueued,
    RunActivated,
    ModelResponded,
    ToolAsked,
    ToolDecided,
    ToolStarted,
    ToolDelegated,
    ToolCompleted,
    ToolUnknown,
    ToolReconciled,
    RunWaiting,
    RunCompleted,
    RunFailed,
    RunCancelRequested,
    RunCancelled,
    RunTimedOut,
    RunInterrupted,
    RunRetried,
    RunDeadLettered,
    RunDropped,
)
