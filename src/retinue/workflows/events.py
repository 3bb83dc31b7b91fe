"""What happens to workflows, what sets them off, and what becomes of their callbacks."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from retinue.ledger import Event, event

TriggerKind = Literal["cron", "webhook", "event"]


class TriggerFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A trigger of a workflow.

    Attributes:
        key: names it in wake-ups and URLs; another definition of the trigger has another key.
        id: as the workflow names it.
        next_at: of a cron line, when it is due.
        event: the type of events it listens to.
    """

    key: UUID
    id: str
    kind: TriggerKind
    next_at: datetime | None = None
    event: str | None = None


@event("workflow.applied")
class WorkflowApplied(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A workflow has a new version. ``content`` is the document; ``text`` the YAML it came from, comments and all."""

    workflow_id: UUID
    owner_id: UUID
    name: str
    number: int
    content: dict[str, Any]
    text: str = ""
    triggers: tuple[TriggerFact, ...] = ()


@event("workflow.deleted")
class WorkflowDeleted(Event, frozen=True, kw_only=True):
    """The workflow is gone; its versions stay for the plans that were made of them."""

    workflow_id: UUID


@event("workflow.triggered")
class WorkflowTriggered(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A trigger started a plan. ``cause``: the due time, the message's id, or the event's position."""

    workflow_id: UUID
    key: UUID
    trigger_id: str
    plan_id: UUID
    cause: str
    next_at: datetime | None = None


@event("workflow.trigger_failed", personal=("detail",))
class WorkflowTriggerFailed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A trigger was set off, and no plan could be started."""

    workflow_id: UUID
    key: UUID
    trigger_id: str
    cause: str
    kind: str
    detail: str
    next_at: datetime | None = None


@event("callback.queued", personal=("body",))
class CallbackQueued(Event, frozen=True, kw_only=True):
    """The end of a plan is to be reported to ``url``."""

    callback_id: UUID
    plan_id: UUID
    workflow_id: UUID
    url: str
    body: str


@event("callback.failed")
class CallbackFailed(Event, frozen=True, kw_only=True):
    """A try failed; the next one is at ``again_at``."""

    callback_id: UUID
    attempt: int
    reason: str
    again_at: datetime


@event("callback.delivered")
class CallbackDelivered(Event, frozen=True, kw_only=True):
    """The receiver took it."""

    callback_id: UUID
    attempt: int
    status: int


@event("callback.dead_lettered")
class CallbackDeadLettered(Event, frozen=True, kw_only=True):
    """All tries failed; a person may have it tried again."""

    callback_id: UUID
    attempt: int
    reason: str


@event("callback.requeued")
class CallbackRequeued(Event, frozen=True, kw_only=True):
    """A person wants a dead callback tried again."""

    callback_id: UUID


EVENTS = (
    WorkflowApplied,
    WorkflowDeleted,
    WorkflowTriggered,
    WorkflowTriggerFailed,
    CallbackQueued,
    CallbackFailed,
    CallbackDelivered,
    CallbackDeadLettered,
    CallbackRequeued,
)
