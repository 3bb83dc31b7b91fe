"""A plan as a caller of the API gives it, and the way from there to the graph."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retinue.planning.graph import Kind, OnFailure, Origin, Plan, Risk, RunsOn, Task
from retinue.web import Money, nanos_of

Text = Annotated[str, StringConstraints(max_length=100_000)]
Short = Annotated[str, StringConstraints(max_length=500)]
TaskId = Annotated[str, StringConstraints(max_length=64)]

MOST_GIVEN = 500
"""Tasks, those in bodies included, of a plan that a caller gives."""


class _Shape(BaseModel):
    """What a caller sends. Nothing is passed over or bent to fit: an unknown field and ``"3"`` for 3 are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewRetry(_Shape):
    """How often a failed task is tried at most, and the pause before the second try, doubled each time."""

    attempts: int = Field(default=1, ge=1, le=20)
    seconds: float = Field(default=1.0, ge=0, le=86_400)


class NewCall(_Shape):
    """A tool call without a model, under the policy of the task's agent."""

    tool: Short = Field(min_length=1, examples=["files_read"])
    arguments: dict[str, Any] = {}


class NewWait(_Shape):
    """What is waited for; exactly one of the first three."""

    seconds: float | None = None
    until: Text | None = Field(default=None, description="a CEL expression that gives a time")
    event: Short | None = Field(default=None, description="the next event of this type", examples=["message.sent"])
    match: Text | None = Field(default=None, description="a CEL expression over `event` that must hold")


class NewQuestion(_Shape):
    """What people are asked."""

    text: Text = Field(min_length=1)
    assignees: list[Short] = Field(default=[], max_length=100, description="user ids, e-mails or roles; empty: you")
    seconds: float = Field(default=300.0, description="then it counts as declined")
    options: list[Short] = Field(default=[], max_length=20, description="answers to choose from; empty: yes or no")


class NewEach(_Shape):
    """A body of tasks that is carried out for each item of a list."""

    items: Text = Field(description="a CEL expression that gives the list", examples=["steps.find.output"])
    body: list[NewTask] = Field(max_length=MOST_GIVEN)
    most: int = Field(default=100, description="more items fail the task")
    at_once: int = Field(default=10, description="items that are worked on at the same time")
    inputs: dict[str, Any] | None = None
    output: Any = None


class NewTask(_Shape):
    """One task. What is wrong with a graph is said of every task at once."""

    id: TaskId
    title: Short = ""
    kind: Kind = "agent"
    agent: Short | None = Field(default=None, description="id or name of one of your agents")
    instructions: Text = ""
    depends_on: list[TaskId] = Field(default=[], max_length=MOST_GIVEN)
    runs_on: RunsOn = Field(default="success", description="what must have become of all (one, for failure) of these")
    expected: Text = ""
    risk: Risk = "low"
    confidence: float | None = None
    tokens: int | None = Field(default=None, ge=0, le=10**12)
    cost: Money | None = Field(default=None, description="estimated US dollars")
    when: Text | None = Field(default=None, description="a CEL expression; the task is skipped when it is false")
    retry: NewRetry = Field(default_factory=NewRetry)
    timeout: float | None = Field(default=None, description="seconds a worker may have it")
    optional: bool = Field(default=False, description="its failure is no failure of the plan")
    call: NewCall | None = None
    wait: NewWait | None = None
    question: NewQuestion | None = None
    each: NewEach | None = None
    value: Any = None
    output_schema: dict[str, Any] | None = Field(default=None, description="JSON Schema that the result must fit")
    template: bool = Field(default=False, description="texts hold ${ CEL }")


class NewPlan(_Shape):
    """A graph of tasks to be carried out."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "title": "A note on backups",
                    "request": "Write a note on how we make backups.",
                    "tasks": [
                        {"id": "find", "agent": "librarian", "instructions": "Find what the files say on backups."},
                        {"id": "write", "agent": "writer", "instructions": "Write the note.", "depends_on": ["find"]},
                    ],
                }
            ]
        }
    )

    title: Short = Field(min_length=1)
    request: Text = Field(default="", description="what was asked for, as every agent is told")
    tasks: list[NewTask] = Field(max_length=MOST_GIVEN)
    on_failure: OnFailure = Field(
        default="continue", description="when a task has failed for good: do what does not depend on it, or stop"
    )
    session_id: UUID | None = Field(
        default=None, strict=False, description="whose files the runs share; null: the plan has its own"
    )
    approval: bool = Field(default=False, description="ask you before it begins; you may edit it then")
    budget: Money | None = Field(default=None, description="US dollars that all its runs may cost together")
    seconds: float | None = Field(default=None, gt=0, le=31_536_000, description="when it must have ended, from now")
    output: Any = Field(default=None, description="what the plan gives; texts may hold ${ CEL }")

    def plan(self, now: datetime) -> Plan:
        """Return it as the room takes it."""
        return Plan(
            title=self.title,
            request=self.request,
            tasks=tuple(_task(task) for task in self.tasks),
            origin=Origin(kind="api"),
            on_failure=self.on_failure,
            budget=nanos_of(self.budget),
            deadline=now + timedelta(seconds=self.seconds) if self.seconds is not None else None,
            output=self.output,
        )


def _task(shape: NewTask) -> Task:
    return msgspec.convert(_plain(shape), Task)


def _plain(shape: NewTask) -> dict[str, Any]:
    made = shape.model_dump(exclude={"each"}, exclude_none=True)
    if shape.cost is not None:
        made["cost"] = nanos_of(shape.cost)
    if shape.each is not None:
        made["each"] = shape.each.model_dump(exclude={"body"}, exclude_none=True)
        made["each"]["body"] = [_plain(task) for task in shape.each.body]
    return made


class NewCancellation(_Shape):
    """Why a plan is cancelled."""

    reason: Annotated[str, StringConstraints(max_length=1000)] = Field(default="", examples=["not needed any more"])
