"""How plans look from outside: a row of a list, and the graph with its live states."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from retinue.kernel import dollars
from retinue.planning.graph import Task
from retinue.planning.state import Node, PlanState, PlanStatus, TaskStatus
from retinue.planning.views import PlanRow


class PlanError(BaseModel):
    """Why a plan ended without what it was for, or a task without its result."""

    kind: str = Field(examples=["task"])
    detail: str


class PlanParent(BaseModel):
    """What waits for a plan."""

    kind: str = Field(description="run", examples=["run"])
    id: UUID
    key: str = Field(description="the call of the run")


class PlanView(BaseModel):
    """A plan as lists show it."""

    plan_id: UUID
    session_id: UUID = Field(description="whose files its runs share; of a plan without a session, its own id")
    workflow_id: UUID | None
    status: str = Field(
        description="drafted, waiting (for approval), running, completed, failed, cancelled or "
        "dead_lettered (its every look failed)"
    )
    title: str
    origin: str = Field(description="model, fallback, cache, workflow or api")
    approval_id: UUID | None = Field(description="the question whether it may begin")
    parent: PlanParent | None
    tasks: int = Field(description="tasks of the plan, without those in bodies")
    completed: int = Field(description="tasks that are done, those in bodies included")
    failed: int
    tokens: int
    cost: str = Field(description="US dollars of all its runs", examples=["0.00042"])
    error: PlanError | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    version: int


class NodeView(BaseModel):
    """A task and what became of it."""

    id: str = Field(description="the full id; in the body of an `each`, such as files[3].read")
    parent: str | None = Field(description="the `each` it is in the body of")
    index: int | None = Field(description="which item of that it works on")
    title: str
    kind: str
    agent: str | None
    agent_id: UUID | None
    instructions: str
    expected: str
    depends_on: list[str] = Field(description="full ids")
    risk: str
    confidence: float | None
    estimated_tokens: int | None
    estimated_cost: str | None
    optional: bool
    status: str = Field(description="waiting, running, retrying, completed, failed or skipped")
    attempt: int
    run_id: UUID | None
    approval_id: UUID | None
    until: datetime | None = Field(description="when a wait ends by itself")
    again_at: datetime | None = Field(description="when it is tried again")
    items: int | None = Field(description="of an `each` that knows them")
    output: Any
    error: PlanError | None
    skipped: str | None = Field(description="why it is not done: condition, dependency or stopped")
    tainted: bool
    tokens: int
    cost: str
    started_at: datetime | None
    ended_at: datetime | None


class EdgeView(BaseModel):
    """One task waits for another, or lies in its body."""

    source: str
    target: str
    kind: str = Field(description="success, failure, end (when the target begins), or body")


class LookView(BaseModel):
    """A look at a plan that failed, through no fault of its tasks."""

    attempt: int = Field(description="how many failed one after the other")
    cause: str
    again_at: datetime = Field(description="when the next look is")


class PlanGraph(PlanView):
    """A plan with its graph."""

    request: str
    on_failure: str
    asked: list[str] = Field(description="why a person had to approve it")
    nodes: list[NodeView]
    edges: list[EdgeView]
    output: Any
    missing: list[str] = Field(description="tasks whose result the plan wanted and has not")
    deadline: datetime | None
    budget: str | None
    look_failed: LookView | None = Field(
        None, description="the last look, if it failed; after several the plan is put aside as dead_lettered"
    )


def present_unreadable(row: PlanRow) -> PlanGraph:
    """Show a plan whose events cannot be read, without its graph."""
    return PlanGraph(
        **present(row).model_dump(),
        request="",
        on_failure="",
        asked=[],
        nodes=[],
        edges=[],
        output=None,
        missing=[],
        deadline=None,
        budget=None,
    )


def present(row: PlanRow) -> PlanView:
    """Show a plan's row."""
    parent = row.parent
    return PlanView(
        plan_id=row.plan_id,
        session_id=row.session_id,
        workflow_id=row.workflow_id,
        status=row.status,
        title=row.title,
        origin=row.origin,
        approval_id=row.approval_id,
        parent=PlanParent(kind=parent.kind, id=parent.id, key=parent.key) if parent else None,
        tasks=row.tasks,
        completed=row.completed,
        failed=row.failed,
        tokens=row.tokens,
        cost=dollars(row.cost),
        error=PlanError(**row.error) if row.error else None,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        version=row.version,
    )


def present_plan(plan_id: UUID, state: PlanState) -> PlanGraph:
    """Show a plan with its graph, as its events tell it up to the state's version."""
    assert state.drafted is not None
    assert state.created_at is not None
    drafted, graph, parent = state.drafted, state.graph, state.drafted.parent
    nodes = list(state.nodes.values())
    return PlanGraph(
        plan_id=plan_id,
        session_id=drafted.session_id,
        workflow_id=graph.origin.workflow_id,
        status=state.status,
        title=graph.title,
        origin=graph.origin.kind,
        approval_id=state.approval_id,
        parent=PlanParent(kind=parent.kind, id=parent.id, key=parent.key) if parent else None,
        tasks=len(graph.tasks),
        completed=sum(node.status is TaskStatus.COMPLETED for node in nodes),
        failed=sum(node.status is TaskStatus.FAILED for node in nodes),
        tokens=state.tokens,
        cost=dollars(state.cost),
        error=_error(state) if state.status in (PlanStatus.FAILED, PlanStatus.DEAD_LETTERED) else None,
        created_at=state.created_at,
        started_at=state.started_at,
        ended_at=state.ended_at,
        version=state.version,
        request=graph.request,
        on_failure=graph.on_failure,
        asked=list(drafted.ask),
        nodes=[_node(state, node) for node in nodes],
        edges=list(_edges(state)),
        output=state.output,
        missing=list(state.missing),
        deadline=state.deadline,
        budget=dollars(graph.budget) if graph.budget is not None else None,
        look_failed=_look_failed(state),
    )


def _error(what: PlanState | Node) -> PlanError | None:
    return PlanError(kind=what.kind, detail=what.detail or "") if what.kind else None


def _look_failed(state: PlanState) -> LookView | None:
    failed = state.look_failed
    return LookView(attempt=failed.attempt, cause=failed.cause, again_at=failed.again_at) if failed else None


def _node(state: PlanState, node: Node) -> NodeView:
    task: Task = node.task
    return NodeView(
        id=node.id,
        parent=node.parent,
        index=node.index if node.parent is not None else None,
        title=task.title,
        kind=task.kind,
        agent=task.agent,
        agent_id=task.agent_id,
        instructions=task.instructions,
        expected=task.expected,
        depends_on=[node.sibling(one) for one in task.depends_on],
        risk=task.risk,
        confidence=task.confidence,
        estimated_tokens=task.tokens,
        estimated_cost=dollars(task.cost) if task.cost is not None else None,
        optional=task.optional,
        status=node.status,
        attempt=node.attempt,
        run_id=node.run_id,
        approval_id=node.approval_id,
        until=node.until,
        again_at=node.again_at,
        items=len(node.items) if node.items is not None else None,
        output=node.output,
        error=_error(node),
        skipped=node.reason,
        tainted=node.tainted,
        tokens=node.tokens,
        cost=dollars(node.cost),
        started_at=node.started_at,
        ended_at=node.ended_at,
    )


def _edges(state: PlanState) -> Iterator[EdgeView]:
    for node in state.nodes.values():
        for one in node.task.depends_on:
            if node.sibling(one) in state.nodes:
                yield EdgeView(source=node.sibling(one), target=node.id, kind=node.task.runs_on)
        if node.parent is not None and not node.task.depends_on:
            yield EdgeView(source=node.parent, target=node.id, kind="body")
