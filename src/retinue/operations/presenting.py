"""How operations are shown: metadata alone, never what is in a file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from pydantic import BaseModel, Field

from retinue.artifacts import Artifact
from retinue.kernel import dollars
from retinue.metering import BillView
from retinue.operations.events import (
    Ending,
    OperationCancelled,
    OperationCompleted,
    OperationFailed,
    OperationTimedOut,
    Usage,
)
from retinue.operations.judging import TIMEOUT
from retinue.operations.rules import OperationState, OperationStatus
from retinue.operations.views import OperationRow


class OperationView(BaseModel):
    """An operation, as lists show it."""

    operation_id: UUID
    status: OperationStatus
    driver: str
    phase: str = Field(description="of one that runs: preparing, running, collecting; empty otherwise")
    cancelling: bool = Field(description="somebody wants it to end, and it has not ended yet")
    kind: str | None = Field(description="what went wrong, as a stable name", examples=["expectations"])
    owner_id: UUID
    grant_id: UUID | None
    application: str = Field(description="who asked, by a grant; empty: a person or an agent")
    run_id: UUID = Field(description="the run that carries it out")
    attempt: int = Field(description="the newest attempt; more than one when a worker died")
    isolation: str | None = Field(description="the sandbox's level, A to C; null before the first attempt")
    cost: str = Field(description="US dollars", examples=["0.0003"])
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class LimitsView(BaseModel):
    """What it may use. Bytes, seconds, processor cores."""

    seconds: float
    memory: int
    disk: int
    processes: int
    cores: float
    output: int
    artifacts: int
    artifact_bytes: int


class UsageView(BaseModel):
    """What it took. Bytes, seconds; money in US dollars."""

    seconds: float
    cpu_seconds: float
    peak_memory: int
    memory_byte_seconds: float
    model_calls: int
    input_tokens: int
    output_tokens: int
    unpriced: int = Field(description="model calls whose price is not known")
    model_cost: str
    cost: str

    @classmethod
    def of(cls, usage: Usage) -> UsageView:
        """Show what was used."""
        fields = msgspec.structs.asdict(usage)
        return cls(**fields | {"model_cost": dollars(usage.model_cost), "cost": dollars(usage.cost)})


class ArtifactLine(BaseModel):
    """A file that it left, without its content."""

    artifact_id: UUID
    name: str
    size: int
    media_type: str
    sha256: str
    stored_at: datetime
    expires_at: datetime | None

    @classmethod
    def of(cls, artifact: Artifact) -> ArtifactLine:
        """Show an artifact."""
        return cls.model_construct(**{name: getattr(artifact, name) for name in cls.model_fields})


class SkippedLine(BaseModel):
    """A file that it left and that was not stored."""

    name: str
    why: str


class InputLine(BaseModel):
    """A file that it works on; without an id it came with the request."""

    name: str
    artifact_id: UUID | None = None


class OperationDetail(OperationView):
    """An operation with everything that is known of it, but for what is in its files."""

    goal: str
    parameters: dict[str, Any]
    model: str | None
    inputs: list[InputLine]
    expected: list[dict[str, Any]]
    limits: LimitsView
    budget: str | None
    retention_seconds: int | None
    min_level: str | None
    sandbox: str | None = Field(description="how the sandbox is made, such as bubblewrap")
    summary: str = Field(description="the agent's last words, when it did what was asked")
    detail: str = Field(description="what went wrong, for a person")
    usage: UsageView | None
    artifacts: list[ArtifactLine]
    skipped: list[SkippedLine]
    bill: BillView


def present(row: OperationRow) -> OperationView:
    """Show an operation in a list."""
    return OperationView.model_construct(**_line(row))


def _line(row: OperationRow) -> dict[str, Any]:
    return {
        "operation_id": row.operation_id,
        "status": row.status,
        "driver": row.driver,
        "phase": row.phase,
        "cancelling": row.cancel_cause is not None and not row.ended,
        "kind": TIMEOUT if row.status is OperationStatus.TIMED_OUT else row.kind,
        "owner_id": row.owner_id,
        "grant_id": row.grant_id,
        "application": row.application,
        "run_id": row.run_id,
        "attempt": row.attempt,
        "isolation": row.level,
        "cost": dollars(row.cost),
        "created_at": row.created_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
    }


def present_whole(
    row: OperationRow, state: OperationState, artifacts: Sequence[Artifact], bill: BillView
) -> OperationDetail:
    """Show all of an operation."""
    wanted, fact = state.requested, state.ending
    inputs = [InputLine(name=one.name, artifact_id=one.artifact_id) for one in wanted.inputs]
    line = _line(row)
    if not row.ended:
        line["cost"] = bill.total
    return OperationDetail.model_construct(
        **line,
        goal=wanted.goal,
        parameters=wanted.parameters,
        model=wanted.model,
        inputs=[*inputs, *(InputLine(name=name) for name in wanted.files)],
        expected=list(msgspec.to_builtins(wanted.expected)),
        limits=LimitsView(**msgspec.structs.asdict(wanted.limits)),
        budget=None if wanted.budget is None else dollars(wanted.budget),
        retention_seconds=wanted.retention_seconds,
        min_level=wanted.min_level,
        sandbox=state.sandbox,
        summary=fact.summary if isinstance(fact, OperationCompleted) else "",
        detail=_detail(fact),
        usage=None if fact is None else UsageView.of(fact.usage),
        artifacts=[ArtifactLine.of(one) for one in artifacts],
        skipped=_skipped(fact),
        bill=bill,
    )


def _detail(fact: Ending | None) -> str:
    match fact:
        case OperationFailed():
            return fact.detail
        case OperationTimedOut():
            return f"It did not finish within {fact.seconds:g} s."
        case OperationCancelled():
            return fact.reason
        case _:
            return ""


def _skipped(fact: Ending | None) -> list[SkippedLine]:
    if fact is None or isinstance(fact, OperationCancelled):
        return []
    return [SkippedLine(name=one.name, why=one.why) for one in fact.skipped]
