"""What happens to an operation: the stream ``operation:<id>``. What its run does is on the run's own stream."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

import msgspec

from retinue.ledger import Event, event
from retinue.operations.policy import Limits


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that is laid into the workspace, and the name it has there."""

    artifact_id: UUID
    name: str


class Expected(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What must be among the outputs.

    Attributes:
        name: a name, or a pattern with ``*`` and ``?``.
        at_least: how many outputs fit it.
        schema: the JSON Schema that each of them fits, read as JSON.
    """

    name: str
    at_least: int = 1
    schema: dict[str, Any] | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operation took; money in nano-dollars, memory in bytes.

    Attributes:
        model_cost: what its model calls cost, ``unpriced`` ones left out.
        cost: all of it: model, processor, memory.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    memory_byte_seconds: float = 0.0
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unpriced: int = 0
    model_cost: int = 0
    cost: int = 0


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that the operation left and that was stored."""

    artifact_id: UUID
    name: str
    size: int
    sha256: str = ""
    media_type: str = ""


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the operation left and that was not stored, and why."""

    name: str
    why: str


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The call of a run that an operation answers."""

    run_id: UUID
    call_id: str


@event("operation.requested", personal=("goal", "parameters", "inputs", "files", "expected"))
class OperationRequested(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody wants something done.

    Attributes:
        application: the name of the application that asked, by its grant; empty: a person, or an agent of theirs.
        inputs: artifacts that are laid into the workspace.
        files: the names of small files that came with the request.
        expected: what must be among the outputs.
        budget: what its model calls may cost, in nano-dollars.
        retention_seconds: how long outputs are kept; None: as long as policy and tier say.
        min_level: the least isolation that will do, where that is more than the policy's.
        caller: whose call it answers.
        tainted: the run that asked has read untrusted text.
    """

    owner_id: UUID
    run_id: UUID
    driver: str
    goal: str
    limits: Limits
    grant_id: UUID | None = None
    application: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    model: str | None = None
    inputs: tuple[Input, ...] = ()
    files: tuple[str, ...] = ()
    expected: tuple[Expected, ...] = ()
    budget: int | None = None
    retention_seconds: int | None = msgspec.field(default=None, name="retention")
    min_level: str | None = None
    caller: Caller | None = None
    tainted: bool = False


@event("operation.started")
class OperationStarted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A worker began an attempt.

    Attributes:
        level: how well the sandbox is closed.
        sandbox: how it is made.
        phase: what comes first: to lay inputs out, or the program at once.
    """

    attempt: int
    worker_id: UUID
    level: str
    sandbox: str
    phase: Literal["preparing", "running"] = "preparing"


@event("operation.progressed")
class OperationProgressed(Event, frozen=True, kw_only=True):
    """An attempt went on to its next part: the program runs, or what it left is collected."""

    attempt: int
    phase: Literal["running", "collecting"]


@event("operation.interrupted")
class OperationInterrupted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The worker had to leave an attempt in the middle, and what that had used is charged. Another one may follow."""

    attempt: int
    usage: Usage = Usage()


@event("operation.handed_over")
class OperationHandedOver(Event, frozen=True, kw_only=True):
    """The worker ended in good order in the middle of an attempt; the next one does not count as a further try."""

    attempt: int


@event("operation.cancel_requested", personal=("reason",))
class OperationCancelRequested(Event, frozen=True, kw_only=True, omit_defaults=True):
    """It shall end: somebody wants that, its grant was revoked (``grant``), or everything was stopped."""

    reason: str = ""
    cause: Literal["cancel", "grant", "stop"] = "cancel"


@event("operation.completed", personal=("summary", "outputs", "skipped"))
class OperationCompleted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """It did what was asked; its outputs can be fetched from now on."""

    attempt: int
    summary: str = ""
    usage: Usage = Usage()
    outputs: tuple[Output, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@event("operation.failed", personal=("detail", "outputs", "skipped"))
class OperationFailed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """It did not do what was asked. ``kind`` is a stable name; what it left is kept for a short time."""

    attempt: int
    kind: str
    detail: str = ""
    usage: Usage = Usage()
    outputs: tuple[Output, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@event("operation.timed_out", personal=("outputs", "skipped"))
class OperationTimedOut(Event, frozen=True, kw_only=True, omit_defaults=True):
    """It used up its time; what it left is kept for a short time."""

    attempt: int
    seconds: float
    usage: Usage = Usage()
    outputs: tuple[Output, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@event("operation.cancelled", personal=("reason",))
class OperationCancelled(Event, frozen=True, kw_only=True, omit_defaults=True):
    """It ended because somebody wanted it to. Nothing that it left is kept."""

    attempt: int = 0
    reason: str = ""
    usage: Usage = Usage()


@event("operation.retried")
class OperationRetried(Event, frozen=True, kw_only=True):
    """Somebody wants it done once more, from the start.

    Attributes:
        budget: what its model calls may cost this time, in nano-dollars, where that is not what was asked for: its
            grant has less left.
    """

    run_id: UUID
    budget: int | None = None


Ending = OperationCompleted | OperationFailed | OperationTimedOut | OperationCancelled
ENDINGS = (OperationCompleted, OperationFailed, OperationTimedOut, OperationCancelled)

EVENTS = (
    OperationRequested,
    OperationStarted,
    OperationProgressed,
    OperationInterrupted,
    OperationHandedOver,
    OperationCancelRequested,
    *ENDINGS,
    OperationRetried,
)
