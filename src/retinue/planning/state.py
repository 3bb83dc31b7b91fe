"""A plan as its own events tell it: a fold, and nothing else. No database, no model, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from retinue.ledger import Event, Recorded
from retinue.planning.events import (
    PlanApprovalRequested,
    PlanCancelled,
    PlanCompleted,
    PlanDeadLettered,
    PlanDecided,
    PlanDrafted,
    PlanFailed,
    PlanLookFailed,
    PlanRequeued,
    PlanStarted,
    TaskCompleted,
    TaskExpanded,
    TaskFailed,
    TaskRetried,
    TaskSkipped,
    TaskStarted,
)
from retinue.planning.graph import Plan, Task


class PlanStatus(StrEnum):
    """What a plan is doing."""

    DRAFTED = "drafted"
    WAITING = "waiting"
    """A person is asked whether it may begin."""
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD_LETTERED = "dead_lettered"
    """Look after look failed; it goes on when a person says so."""


class TaskStatus(StrEnum):
    """What a task is doing."""

    WAITING = "waiting"
    """For what it depends on, or for a place."""
    RUNNING = "running"
    RETRYING = "retrying"
    """A try failed; the next one begins at ``again_at``."""
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


PLAN_ENDED = frozenset({PlanStatus.COMPLETED, PlanStatus.FAILED, PlanStatus.CANCELLED, PlanStatus.DEAD_LETTERED})
TASK_ENDED = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.SKIPPED})


@dataclass(slots=True)
class Node:
    """A task of the plan, or one of its copies in the body of an ``each``.

    Attributes:
        id: its full id, such as ``parent[3].child``.
        parent: the full id of the ``each`` it is a copy in; None at the top.
        index: which item of that it works on, from 0.
        attempt: tries so far; ``tries`` counts those since a person last wanted it tried again.
        items: of an ``each`` that knows them.
        reason: why it is skipped: ``condition``, ``dependency`` or ``stopped``.
        cost: nano-dollars of all tries.
    """

    id: str
    task: Task
    parent: str | None = None
    index: int = 0
    status: TaskStatus = TaskStatus.WAITING
    attempt: int = 0
    tries: int = 0
    run_id: UUID | None = None
    approval_id: UUID | None = None
    until: datetime | None = None
    again_at: datetime | None = None
    items: list[Any] | None = None
    output: Any = None
    kind: str | None = None
    detail: str | None = None
    reason: str | None = None
    tainted: bool = False
    tokens: int = 0
    cost: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.status in TASK_ENDED

    @property
    def succeeded(self) -> bool:
        """Whether those that wait for it may go on: it is done, was not needed, or may fail."""
        if self.status is TaskStatus.SKIPPED:
            return self.reason == "condition"
        return self.status is TaskStatus.COMPLETED or (self.status is TaskStatus.FAILED and self.task.optional)

    def sibling(self, task_id: str) -> str:
        """Return the full id of a task of the same body."""
        return task_id if self.parent is None else f"{self.parent}[{self.index}].{task_id}"


@dataclass(slots=True)
class PlanState:
    """A plan.

    Attributes:
        plan: its graph as it is carried out: with what a person changed before it began.
        nodes: every task by full id; those of bodies come with the items of their ``each``.
        open: full ids of those that have not ended, in order.
        copies: for an ``each`` that knows its items, the full ids of its body, item by item.
        deadline: when it must have ended; moves when a person has it tried again.
        missing: what the plan wanted and has not.
        cost: nano-dollars of all tries of all tasks.
        held: characters of all results and items, those of earlier tries included.
        look_failed: the last look, if it failed.
        let_go: the runs that were cancelled when the plan was put aside.
    """

    drafted: PlanDrafted | None = None
    plan: Plan | None = None
    status: PlanStatus = PlanStatus.DRAFTED
    version: int = 0
    approval_id: UUID | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    open: dict[str, None] = field(default_factory=dict)
    copies: dict[str, list[list[str]]] = field(default_factory=dict)
    deadline: datetime | None = None
    kind: str | None = None
    detail: str | None = None
    output: Any = None
    missing: tuple[str, ...] = ()
    tokens: int = 0
    cost: int = 0
    held: int = 0
    look_failed: PlanLookFailed | None = None
    let_go: frozenset[UUID] = frozenset()
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def graph(self) -> Plan:
        """The plan of a state that has one."""
        assert self.plan is not None
        return self.plan

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.status in PLAN_ENDED

    @property
    def top(self) -> list[Node]:
        """The tasks that are in no body, in the order of the plan."""
        return [self.nodes[task.id] for task in self.graph.tasks]

    def body(self, parent: str | None) -> list[Node]:
        """Return all copies in an ``each``; the top tasks for None."""
        if parent is None:
            return self.top
        return [self.nodes[one] for item in self.copies.get(parent, ()) for one in item]

    def below(self, node: Node) -> Iterator[Node]:
        """Return everything in the bodies of a task, at any depth."""
        for one in self.body(node.id) if node.id in self.copies else ():
            yield one
            yield from self.below(one)


def fold(recorded: Iterable[Recorded[Event]], state: PlanState | None = None) -> PlanState:
    """Return what a plan's events say; with ``state``, an earlier fold that goes on (and is changed)."""
    state = state or PlanState()
    for one in recorded:
        apply(state, one.event, one.recorded_at)
        state.version = one.version
    return state


def apply(state: PlanState, fact: Event, at: datetime) -> None:
    """Let one more thing have happened. Events of unknown types change nothing."""
    state.look_failed = fact if isinstance(fact, PlanLookFailed) else None
    change = _APPLY.get(type(fact))
    if change is not None:
        change(state, fact, at)


def weight(value: Any) -> int:
    """Return about how many characters a value takes."""
    return len(value) if isinstance(value, str) else len(msgspec.json.encode(value))


def _drafted(state: PlanState, fact: PlanDrafted, at: datetime) -> None:
    state.drafted, state.plan, state.created_at, state.deadline = fact, fact.plan, at, fact.plan.deadline
    _lay_out(state)


def _lay_out(state: PlanState) -> None:
    state.nodes = {task.id: Node(task.id, task) for task in state.graph.tasks}
    state.open = dict.fromkeys(state.nodes)
    state.copies = {}


def _approval_requested(state: PlanState, fact: PlanApprovalRequested, at: datetime) -> None:
    state.approval_id, state.status = fact.approval_id, PlanStatus.WAITING


def _decided(state: PlanState, fact: PlanDecided, at: datetime) -> None:
    if fact.tasks is not None:
        state.plan = msgspec.structs.replace(state.graph, tasks=fact.tasks)
        _lay_out(state)


def _started(state: PlanState, fact: PlanStarted, at: datetime) -> None:
    state.status, state.started_at = PlanStatus.RUNNING, at


def _task_started(state: PlanState, fact: TaskStarted, at: datetime) -> None:
    node = state.nodes[fact.task_id]
    node.status, node.attempt, node.again_at = TaskStatus.RUNNING, fact.attempt, None
    node.tries += 1
    node.run_id, node.approval_id, node.until = fact.run_id, fact.approval_id, fact.until
    node.started_at, node.kind, node.detail = node.started_at or at, None, None


def _expanded(state: PlanState, fact: TaskExpanded, at: datetime) -> None:
    node = state.nodes[fact.task_id]
    each = node.task.each
    assert each is not None
    node.items, node.started_at = fact.items, node.started_at or at
    state.held += weight(fact.items)
    if node.status is not TaskStatus.RUNNING:  # the items came without a start of their own
        node.status, node.attempt, node.again_at = TaskStatus.RUNNING, node.attempt + 1, None
        node.tries += 1
    state.copies[node.id] = []
    for index in range(len(fact.items)):
        ids = [f"{node.id}[{index}].{task.id}" for task in each.body]
        state.copies[node.id].append(ids)
        for full_id, task in zip(ids, each.body, strict=True):
            state.nodes[full_id] = Node(full_id, task, node.id, index)
            state.open[full_id] = None


def _completed(state: PlanState, fact: TaskCompleted, at: datetime) -> None:
    node = _end(state, fact.task_id, TaskStatus.COMPLETED, at)
    node.output, node.tainted = fact.output, fact.tainted
    state.held += weight(fact.output)
    _count(state, node, fact)


def _failed(state: PlanState, fact: TaskFailed, at: datetime) -> None:
    node = state.nodes[fact.task_id]
    if fact.again_at is None:
        _end(state, fact.task_id, TaskStatus.FAILED, at)
    else:
        node.status, node.again_at = TaskStatus.RETRYING, fact.again_at
    node.kind, node.detail, node.tainted = fact.kind, fact.detail, fact.tainted
    _count(state, node, fact)


def _count(state: PlanState, node: Node, fact: TaskCompleted | TaskFailed) -> None:
    node.tokens += fact.tokens
    node.cost += fact.cost
    state.tokens += fact.tokens
    state.cost += fact.cost


def _skipped(state: PlanState, fact: TaskSkipped, at: datetime) -> None:
    node = _end(state, fact.task_id, TaskStatus.SKIPPED, at)
    node.reason = fact.reason
    for one in state.below(node):
        if not one.ended:
            _end(state, one.id, TaskStatus.SKIPPED, at).reason = "stopped"


def _end(state: PlanState, task_id: str, status: TaskStatus, at: datetime) -> Node:
    node = state.nodes[task_id]
    node.status, node.ended_at, node.again_at = status, at, None
    state.open.pop(task_id, None)
    return node


def _retried(state: PlanState, fact: TaskRetried, at: datetime) -> None:
    for task_id in (*fact.task_ids, *fact.skipped):
        node = state.nodes[task_id]
        again = node.status is TaskStatus.RETRYING  # an ``each`` that tries what failed in it once more
        node.tries = node.tries + 1 if again else 0 if node.items is None else 1
        node.attempt += again
        node.status = TaskStatus.WAITING if node.items is None else TaskStatus.RUNNING
        node.run_id = node.approval_id = node.until = node.again_at = node.ended_at = None
        node.kind = node.detail = node.reason = node.output = None
        node.tainted = False
        state.open[task_id] = None
    state.open = {task_id: None for task_id in state.nodes if task_id in state.open}
    if state.ended:
        state.deadline = fact.deadline
    state.status, state.ended_at, state.kind, state.detail = PlanStatus.RUNNING, None, None, None
    state.missing, state.output = (), None


def _plan_completed(state: PlanState, fact: PlanCompleted, at: datetime) -> None:
    state.output, state.missing = fact.output, fact.missing
    _plan_ended(state, PlanStatus.COMPLETED, at)


def _plan_failed(state: PlanState, fact: PlanFailed, at: datetime) -> None:
    state.kind, state.detail, state.missing = fact.kind, fact.detail, fact.missing
    _plan_ended(state, PlanStatus.FAILED, at)


def _plan_cancelled(state: PlanState, fact: PlanCancelled, at: datetime) -> None:
    state.kind, state.detail = "cancelled", fact.reason
    _plan_ended(state, PlanStatus.CANCELLED, at)


def _plan_ended(state: PlanState, status: PlanStatus, at: datetime) -> None:
    state.status, state.ended_at = status, at
    for task_id in list(state.open):
        _end(state, task_id, TaskStatus.SKIPPED, at).reason = "stopped"


def dead_letter_text(fact: PlanDeadLettered) -> str:
    """Say for a person why a plan was put aside."""
    return f"The plan was put aside after {fact.attempts} looks that failed: {fact.cause}"


def _dead_lettered(state: PlanState, fact: PlanDeadLettered, at: datetime) -> None:
    # Its tasks stay as they are: from there it goes on.
    state.status, state.ended_at = PlanStatus.DEAD_LETTERED, at
    state.kind, state.detail, state.let_go = "dead_letter", dead_letter_text(fact), frozenset(fact.run_ids)


def _requeued(state: PlanState, fact: PlanRequeued, at: datetime) -> None:
    for task_id in fact.task_ids:
        node = state.nodes[task_id]
        node.status, node.tries = TaskStatus.WAITING, max(0, node.tries - 1)  # that try was nobody's failure
        node.run_id = node.approval_id = node.until = None
    state.status = PlanStatus.WAITING if fact.waits else PlanStatus.RUNNING
    state.ended_at, state.kind, state.detail, state.let_go = None, None, None, frozenset()
    state.deadline = fact.deadline


_APPLY: dict[type[Event], Callable[[PlanState, Any, datetime], None]] = {
    PlanDrafted: _drafted,
    PlanApprovalRequested: _approval_requested,
    PlanDecided: _decided,
    PlanStarted: _started,
    TaskStarted: _task_started,
    TaskExpanded: _expanded,
    TaskCompleted: _completed,
    TaskFailed: _failed,
    TaskSkipped: _skipped,
    TaskRetried: _retried,
    PlanCompleted: _plan_completed,
    PlanFailed: _plan_failed,
    PlanCancelled: _plan_cancelled,
    PlanDeadLettered: _dead_lettered,
    PlanRequeued: _requeued,
}
