"""What happens to a plan: the stream ``plan:<id>``. It suffices to go on, to look back and to replay."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from retinue.ledger import Event, event
from retinue.planning.graph import Plan, Task
from retinue.runs import Parent


@event("plan.drafted", personal=("plan",))
class PlanDrafted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """There is a plan; nothing of it has begun.

    Attributes:
        session_id: whose workspace and conversation; of a plan without a conversation, the plan's own id.
        parent: the call of a run that waits for it; None: nobody waits.
        ask: why a person must approve it first; empty: it may begin.
        callback: where its end is reported to; see the room ``workflows``.
    """

    owner_id: UUID
    session_id: UUID
    plan: Plan
    parent: Parent | None = None
    ask: tuple[str, ...] = ()
    callback: str | None = None


@event("plan.approval_requested")
class PlanApprovalRequested(Event, frozen=True, kw_only=True):
    """A person is asked whether the plan may begin."""

    approval_id: UUID


@event("plan.decided", personal=("comment", "tasks"))
class PlanDecided(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What became of the question; ``tasks`` when the person edited the plan."""

    approval_id: UUID
    decision: str
    comment: str | None = None
    tasks: tuple[Task, ...] | None = None


@event("plan.started")
class PlanStarted(Event, frozen=True, kw_only=True):
    """Its tasks may begin."""


@event("task.started")
class TaskStarted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A task began, or tries again (``attempt`` counts from 1).

    Attributes:
        run_id: the run that does it.
        approval_id: the question it asks.
        until: when it ends by itself (a wait).
        event: the type of event that it waits for.
    """

    task_id: str
    attempt: int = 1
    run_id: UUID | None = None
    approval_id: UUID | None = None
    until: datetime | None = None
    event: str | None = None


@event("task.expanded", personal=("items",))
class TaskExpanded(Event, frozen=True, kw_only=True):
    """An ``each`` knows its items: its body is now part of the plan, once for each."""

    task_id: str
    items: list[Any]


@event("task.completed", personal=("output",))
class TaskCompleted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A task has its result. It is not done again, whatever happens."""

    task_id: str
    output: Any = None
    tainted: bool = False
    tokens: int = 0
    cost: int = 0


@event("task.failed", personal=("detail",))
class TaskFailed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A try failed. ``kind`` is stable; ``detail`` is for a person; ``again_at``: when it is tried again, if it is.

    ``tainted``: the detail may quote untrusted text.
    """

    task_id: str
    kind: str
    detail: str
    again_at: datetime | None = None
    tainted: bool = False
    tokens: int = 0
    cost: int = 0


@event("task.skipped")
class TaskSkipped(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A task is not done: its condition does not hold, what it depends on failed, or the plan ends."""

    task_id: str
    reason: Literal["condition", "dependency", "stopped"]


@event("task.retried")
class TaskRetried(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Failed tasks, and what was ``skipped`` because of them, are to be tried again; the plan goes on.

    ``deadline`` is the new one of a plan that had ended; None: it has none.
    """

    task_ids: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    deadline: datetime | None = None


@event("plan.completed", personal=("output",))
class PlanCompleted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that could be done is done; ``missing`` names the tasks that are not."""

    output: Any = None
    missing: tuple[str, ...] = ()


@event("plan.failed", personal=("detail",))
class PlanFailed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The plan ended without its purpose. ``kind``: ``task``, ``declined``, ``deadline``, ``budget`` or ``output``."""

    kind: str
    detail: str
    missing: tuple[str, ...] = ()


@event("plan.cancelled", personal=("reason",))
class PlanCancelled(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody ended the plan, and everything below it."""

    reason: str = ""


@event("plan.look_failed", personal=("cause",))
class PlanLookFailed(Event, frozen=True, kw_only=True):
    """A look at the plan failed for no fault of its tasks. ``attempt`` counts such looks since the last that did not.

    ``again_at`` is when the next look is.
    """

    attempt: int
    cause: str
    again_at: datetime


@event("plan.recovered")
class PlanRecovered(Event, frozen=True, kw_only=True):
    """A look went well again, and found nothing to do."""


@event("plan.dead_lettered", personal=("cause",))
class PlanDeadLettered(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The plan was put aside: look after look failed. ``run_ids`` are the runs that were cancelled because of it."""

    cause: str
    attempts: int
    run_ids: tuple[UUID, ...] = ()


@event("plan.requeued")
class PlanRequeued(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A person wants a plan that was put aside to go on.

    Attributes:
        task_ids: tasks that begin anew: what they had others do was cancelled.
        deadline: its new one; None: it has none.
        waits: it has not begun: it waits for a person's approval.
    """

    task_ids: tuple[str, ...] = ()
    deadline: datetime | None = None
    waits: bool = False


EVENTS = (
    PlanDrafted,
    PlanApprovalRequested,
    PlanDecided,
    PlanStarted,
    TaskStarted,
    TaskExpanded,
    TaskCompleted,
    TaskFailed,
    TaskSkipped,
    TaskRetried,
    PlanCompleted,
    PlanFailed,
    PlanCancelled,
    PlanLookFailed,
    PlanRecovered,
    PlanDeadLettered,
    PlanRequeued,
)
