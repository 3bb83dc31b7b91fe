"""Approvals and rules as the HTTP API and the live stream show them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from retinue.approvals.events import Kind
from retinue.approvals.rules import (
    ANSWER_LENGTH,
    COMMENT_LENGTH,
    STATUS_OF,
    Approval,
    Ruling,
    Status,
)
from retinue.approvals.views import Rule

_EXAMPLE: JsonDict = {
    "approval_id": "01939d2c-8d0a-7cc1-9b3e-5a1f0c2d4e6f",
    "run_id": "01939d2c-8c11-7e52-8f1a-0b2c3d4e5f60",
    "session_id": "01939d2c-8b00-7a43-9c2b-1c3d4e5f6071",
    "agent_id": "01939d2c-8a00-7b34-8d3c-2d4e5f607182",
    "plan_id": None,
    "task_id": None,
    "assignees": [],
    "kind": "tool",
    "tool": "files_write",
    "arguments": {"path": "summary.md", "content": "Three files, two of them about water."},
    "question": None,
    "options": [],
    "effect": "write",
    "reason": "a supervised agent asks before a write call",
    "tainted_by": None,
    "status": "pending",
    "created_at": "2026-11-20T12:00:00Z",
    "expires_at": "2026-11-20T12:05:00Z",
    "decided_at": None,
    "decided_by": None,
    "comment": None,
    "edited_arguments": None,
    "answer": None,
}


class ApprovalView(BaseModel):
    """Something a run or a plan asks a person."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    approval_id: UUID
    run_id: UUID | None = Field(description="the run that asks; null: a plan does")
    session_id: UUID | None
    agent_id: UUID | None
    plan_id: UUID | None = Field(description="the plan that asks")
    task_id: str | None = Field(description="the task of the plan that asks; null: may the plan begin")
    assignees: list[str] = Field(description="who is to decide, as user ids and roles; empty: the owner")
    kind: Kind = Field(
        description="tool: may this call be made; question: what is the answer; plan: may the plan begin, as it is or "
        "edited; plan_step: may the plan go on"
    )
    tool: str | None
    arguments: dict[str, Any] | None = Field(description="of the call, exactly as they would be used; or the plan")
    question: str | None
    options: list[str] = Field(description="suggested answers; any other will do, too")
    effect: str | None = Field(description="what the call can cause: read, fetch, write or egress")
    reason: str = Field(description="why a person is asked")
    tainted_by: str | None = Field(description="what untrusted text the run has read; null: none")
    status: Status
    created_at: datetime
    expires_at: datetime = Field(description="from then on it counts as declined")
    decided_at: datetime | None
    decided_by: str | None
    comment: str | None
    edited_arguments: dict[str, Any] | None = Field(description="what the call was approved with instead")
    answer: str | None


class NewRuling(BaseModel):
    """A person's decision."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"decision": "approve"},
                {"decision": "reject", "comment": "Not into this folder."},
                {"decision": "approve", "edited_arguments": {"path": "notes/summary.md", "content": "..."}},
            ]
        },
    )

    decision: Literal["approve", "reject"]
    comment: str | None = Field(default=None, max_length=COMMENT_LENGTH, description="for the agent and the record")
    edited_arguments: dict[str, Any] | None = Field(default=None, description="make the call with these instead")
    remember: bool = Field(default=False, description="do not ask again for this tool of this agent")
    answer: str | None = Field(default=None, max_length=ANSWER_LENGTH, description="to a question")

    def ruling(self) -> Ruling:
        """Return it as the room takes it."""
        return Ruling(
            decision=self.decision,
            comment=self.comment,
            edited_arguments=self.edited_arguments,
            answer=self.answer,
            remember=self.remember,
        )


class RuleView(BaseModel):
    """A tool that an agent need not ask for, as long as its run has read nothing untrusted."""

    rule_id: UUID
    agent_id: UUID
    tool: str
    decision: Literal["allow"]
    approval_id: UUID = Field(description="the approval it was learnt from")
    created_at: datetime


def view_of(approval: Approval) -> ApprovalView:
    """Return an approval as the API shows it."""
    shown = {name: getattr(approval, name) for name in ApprovalView.model_fields}
    return ApprovalView.model_construct(
        **{**shown, "options": list(approval.options), "assignees": list(approval.assignees)}
    )


def rule_view(rule: Rule) -> RuleView:
    """Return a rule as the API shows it."""
    return RuleView.model_construct(**{name: getattr(rule, name) for name in RuleView.model_fields})


def required_payload(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the payload of ``approval_required``: the approval as the API shows it."""
    return {"reason": "", "options": [], "assignees": [], **_fields(data), "status": "pending"}


def decided_payload(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the payload of ``approval_decided``: which approval, and its outcome."""
    return {
        "approval_id": data["approval_id"],
        "status": STATUS_OF[data["decision"]],
        "decided_by": data["by"],
        "comment": data.get("comment"),
        "edited_arguments": data.get("edited_arguments"),
        "answer": data.get("answer"),
    }


_LISTED = ("reason", "options", "assignees")


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an event's data says for each field of the view; defaults are not stored, so they are filled in."""
    stored = {name: data.get(name) for name in ApprovalView.model_fields}
    return {name: value for name, value in stored.items() if value is not None or name not in _LISTED}
