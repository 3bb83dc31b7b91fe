"""Workflows as the HTTP API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from retinue.workflows.views import Callback, Stored, StoredTrigger


class TriggerView(BaseModel):
    """A trigger of a workflow."""

    id: str
    kind: str = Field(description="cron, webhook or event")
    next_at: datetime | None = Field(description="of a cron line")
    url: str | None = Field(description="of a webhook: where signed messages are sent to")
    event: str | None = Field(description="the type of events it listens to")
    last_at: datetime | None = Field(description="when it was set off last")
    last_plan_id: UUID | None
    last_error: str | None = Field(description="why it could start nothing the last time")


class WorkflowRow(BaseModel):
    """A workflow as lists show it."""

    workflow_id: UUID
    name: str
    description: str
    version: int = Field(description="also the ETag")
    owner_id: UUID = Field(description="who applied it last; triggers act in this user's name")
    created_at: datetime
    changed_at: datetime


class WorkflowView(WorkflowRow):
    """A workflow."""

    definition: dict[str, Any] = Field(description="the document")
    yaml: str = Field(description="the text it came from")
    triggers: list[TriggerView]
    secrets: dict[str, str] = Field(
        default={}, description="of webhooks that are new, by the trigger's id: they are shown this once"
    )


class WorkflowVersion(BaseModel):
    """One version of a workflow."""

    version: int
    definition: dict[str, Any]
    yaml: str
    applied_by: str
    created_at: datetime


class MistakeView(BaseModel):
    """One thing that is wrong."""

    path: str = Field(examples=["steps[2].when"])
    line: int | None
    message: str


class Validation(BaseModel):
    """What was found in a workflow."""

    valid: bool
    mistakes: list[MistakeView]


class GraphNode(BaseModel):
    """A task that a step becomes."""

    id: str
    parent: str | None = Field(description="the task whose body it is in")
    title: str
    kind: str
    agent: str | None
    tool: str | None
    when: str | None


class GraphEdge(BaseModel):
    """One task waits for another."""

    source: str
    target: str
    kind: str = Field(description="success, failure or end: how the source must have ended")


class WorkflowGraph(BaseModel):
    """A workflow as a graph."""

    nodes: list[GraphNode]
    edges: list[GraphEdge]


class NewRun(BaseModel):
    """A run of a workflow that is wanted."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"inputs": {}}]})

    inputs: dict[str, Any] = Field(default={}, description="as the workflow's `inputs` ask for them")
    session_id: UUID | None = Field(
        default=None, strict=False, description="one of your sessions: its files are the workspace of the run"
    )
    callback: str | None = Field(
        default=None, max_length=2_000, description="a URL that is told of the end, signed by Standard Webhooks"
    )


class Secret(BaseModel):
    """A secret that is shown this once."""

    secret: str = Field(description="of the Standard Webhooks scheme", examples=["whsec_..."])


class TakenMessage(BaseModel):
    """A webhook's message that started a run."""

    plan_id: UUID


class CallbackView(BaseModel):
    """A report of a run's end to somebody outside."""

    callback_id: UUID
    plan_id: UUID
    workflow_id: UUID
    url: str
    status: str = Field(description="pending, delivered or dead")
    attempts: int
    reason: str | None = Field(description="why the last try failed")
    due_at: datetime = Field(description="when it is tried next")
    created_at: datetime
    ended_at: datetime | None


def trigger_view(tenant_id: UUID, trigger: StoredTrigger) -> TriggerView:
    """Show a trigger."""
    return TriggerView(
        id=trigger.id,
        kind=trigger.kind,
        next_at=trigger.next_at,
        url=f"/v1/hooks/{tenant_id}/{trigger.key}" if trigger.kind == "webhook" else None,
        event=trigger.event,
        last_at=trigger.last_at,
        last_plan_id=trigger.last_plan_id,
        last_error=trigger.last_error,
    )


def row_of(stored: Stored) -> WorkflowRow:
    """Show a workflow in a list."""
    return WorkflowRow(
        workflow_id=stored.workflow_id,
        name=stored.name,
        description=stored.description,
        version=stored.number,
        owner_id=stored.owner_id,
        created_at=stored.created_at,
        changed_at=stored.changed_at,
    )


def callback_view(callback: Callback) -> CallbackView:
    """Show a callback."""
    return CallbackView(**{name: getattr(callback, name) for name in CallbackView.model_fields})
