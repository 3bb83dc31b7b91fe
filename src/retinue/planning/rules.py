"""A plan's decisions, without a database, a model or a clock: state -> what is to be done now.

A task may begin when what it depends on has ended as it wants it to (``runs_on``). A failed task whose failure another
task takes up (``runs_on: failure``), or that is ``optional``, is no failure of the plan. What a failure means for
everything else is the plan's ``on_failure``; within the body of an ``each`` it holds for that ``each`` alone, which
then fails as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from retinue.kernel import dollars
from retinue.planning.state import Node, PlanState, PlanStatus, TaskStatus, apply, fold

__all__ = ["Action", "Node", "PlanState", "PlanStatus", "TaskStatus", "apply", "fold", "next_actions"]

RUN_KINDS = frozenset({"agent", "tool"})

# Trying once more would end the same way, or is not wanted.
FINAL_KINDS = frozenset(
    {
        "agent_gone",
        "budget",
        "cancelled",
        "condition",
        "declined",
        "expired",
        "expression",
        "too_big",
        "too_many_waits",
        "value",
    }
)

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Begin:
    """Let the tasks begin: somebody said so."""


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a task, or try it again: a run, a question, a timer; or compute what needs neither."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Do not do a task that has not begun."""

    task_id: str
    reason: Literal["condition", "dependency", "stopped"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancel a task that is under way, and everything below it."""

    task_id: str


@dataclass(frozen=True, slots=True)
class TimeUp:
    """A wait has waited long enough."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Collect:
    """Everything in the body of an ``each`` has ended: so does it. ``lost`` are the tasks that failed it."""

    task_id: str
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Again:
    """Try what failed in the body of an ``each`` once more."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Everything has ended: so does the plan. ``missing`` are the tasks it has not; ``failed``: that is a failure."""

    missing: tuple[str, ...]
    failed: bool


@dataclass(frozen=True, slots=True)
class Fail:
    """End the plan now, and everything below it."""

    kind: str
    detail: str


Action = Begin | Start | Skip | Stop | TimeUp | Collect | Again | Finish | Fail


def next_actions(state: PlanState, now: datetime) -> list[Action]:
    """Say what is to be done now. What comes of runs and questions is not in the state until it is recorded."""
    if state.ended or state.drafted is None:
        return []
    if state.deadline is not None and now >= state.deadline:
        return [Fail("deadline", "The time set for the plan is over.")]
    if state.status is PlanStatus.DRAFTED:
        return [Begin()]
    if state.status is PlanStatus.WAITING:
        return []
    if not state.open:
        return [_finish(state)]
    actions = _Look(state, now).actions()
    if out_of_money(state) and any(isinstance(one, Start) and _costs(state, one.task_id) for one in actions):
        limit = dollars(state.graph.budget or 0)
        return [Fail("budget", f"The plan has cost {dollars(state.cost)} USD; it may cost {limit}.")]
    return actions


def out_of_money(state: PlanState) -> bool:
    """Whether the plan's runs have cost all they may together."""
    return state.graph.budget is not None and state.cost >= state.graph.budget


def again_at(node: Node, kind: str, now: datetime) -> datetime | None:
    """Return when a task that just failed is tried again; None: it has failed for good."""
    if kind in FINAL_KINDS or node.tries >= node.task.retry.attempts:
        return None
    return now + timedelta(seconds=node.task.retry.seconds * 2 ** max(0, node.tries - 1))


def to_retry(state: PlanState, parent: str | None = None) -> tuple[list[str], list[str]]:
    """Return what failed for good at the top (or in an ``each``) and below, and what was skipped because of it."""
    failed: list[str] = []
    skipped: list[str] = []
    for node in state.body(parent):
        if not lost(state, node):
            continue
        if node.status is TaskStatus.FAILED:
            failed.append(node.id)
        else:
            skipped.append(node.id)
        below_failed, below_skipped = to_retry(state, node.id)
        failed += below_failed
        skipped += below_skipped
    return failed, skipped


# What a task's end means for the others


def trouble(state: PlanState, node: Node) -> bool:
    """Whether a task's failure is one that nobody takes up."""
    return node.status is TaskStatus.FAILED and not node.task.optional and not _taken_up(state, node)


def lost(state: PlanState, node: Node) -> bool:
    """Whether the plan (or the body of an ``each``) wanted a task's result and will not have it."""
    if node.task.optional or not node.ended or node.succeeded:
        return False
    if node.status is TaskStatus.FAILED:
        return not _taken_up(state, node)
    if node.reason == "stopped":
        return True
    return any(lost(state, one) for one in dependencies(state, node))


def dependencies(state: PlanState, node: Node) -> list[Node]:
    """Return the tasks that one waits for; results that were given with the plan are there already."""
    found = (state.nodes.get(node.sibling(one)) for one in node.task.depends_on)
    return [one for one in found if one is not None]


def _taken_up(state: PlanState, node: Node) -> bool:
    body = state.top if node.parent is None else [state.nodes[one] for one in state.copies[node.parent][node.index]]
    return any(
        other.task.runs_on == "failure"
        and node.task.id in other.task.depends_on
        and other.status not in (TaskStatus.FAILED, TaskStatus.SKIPPED)
        for other in body
    )


def _costs(state: PlanState, task_id: str) -> bool:
    return state.nodes[task_id].task.kind in RUN_KINDS


def _finish(state: PlanState) -> Finish:
    missing = tuple(node.id for node in state.top if lost(state, node))
    done = any(node.status is TaskStatus.COMPLETED for node in state.top) or bool(state.graph.given)
    return Finish(missing, failed=bool(missing) and (state.graph.on_failure != "continue" or not done))


def named(task_ids: Sequence[str]) -> str:
    """Name some tasks for a person."""
    more = f" and {len(task_ids) - _NAMED} more" if len(task_ids) > _NAMED else ""
    return ", ".join(task_ids[:_NAMED]) + more


def why(state: PlanState, task_ids: Iterable[str]) -> str:
    """Say for a person what went wrong with tasks."""
    said = [f"{one}: {node.detail}" for one in task_ids if (node := state.nodes[one]).detail]
    return "; ".join(said[:_NAMED])


class _Look:
    """One look at all tasks that have not ended."""

    def __init__(self, state: PlanState, now: datetime) -> None:
        self.state = state
        self.now = now
        self._stopping: dict[str | None, bool] = {}
        self._admitted: dict[str, frozenset[int]] = {}

    def actions(self) -> list[Action]:
        """Return what is to be done about each."""
        return [action for task_id in self.state.open if (action := self._about(self.state.nodes[task_id]))]

    def _about(self, node: Node) -> Action | None:
        if node.parent is not None and self.state.nodes[node.parent].status is not TaskStatus.RUNNING:
            return None  # the ``each`` it belongs to waits for its next try
        stopped = self._is_stopping(node.parent) and node.task.runs_on == "success"
        if node.status is TaskStatus.WAITING:
            return Skip(node.id, "stopped") if stopped else self._may_begin(node)
        if stopped:
            return Stop(node.id)
        if node.status is TaskStatus.RETRYING:
            return self._try_again(node)
        if node.items is not None:
            return self._collect(node)
        return TimeUp(node.id) if node.until is not None and self.now >= node.until else None

    def _is_stopping(self, parent: str | None) -> bool:
        found = self._stopping.get(parent)
        if found is None:
            stops = self.state.graph.on_failure != "continue"
            found = stops and any(trouble(self.state, one) for one in self.state.body(parent))
            self._stopping[parent] = found
        return found

    def _may_begin(self, node: Node) -> Action | None:
        before = dependencies(self.state, node)
        if not all(one.ended for one in before) or not self._is_admitted(node):
            return None
        wanted = node.task.runs_on
        if wanted == "end" or (wanted == "success" and all(one.succeeded for one in before)):
            return Start(node.id)
        if wanted == "success":
            return Skip(node.id, "dependency")
        if any(one.status is TaskStatus.FAILED for one in before):
            return Start(node.id)
        return Skip(node.id, "condition" if all(one.succeeded for one in before) else "dependency")

    def _is_admitted(self, node: Node) -> bool:
        """Whether the item is among those worked on: the first so many that have not ended, in their order.

        So are the items around it: those that are tried again together all run, but wait for their turn.
        """
        if node.parent is None:
            return True
        if not self._is_admitted(self.state.nodes[node.parent]):
            return False
        admitted = self._admitted.get(node.parent)
        if admitted is None:
            each = self.state.nodes[node.parent].task.each
            assert each is not None
            copies = self.state.copies[node.parent]
            unfinished = (n for n, ids in enumerate(copies) if any(one in self.state.open for one in ids))
            first = [n for n, _ in zip(unfinished, range(each.at_once), strict=False)]
            admitted = self._admitted[node.parent] = frozenset(first)
        return node.index in admitted

    def _try_again(self, node: Node) -> Action | None:
        if node.again_at is None or self.now < node.again_at:
            return None
        return Start(node.id) if node.items is None else Again(node.id)

    def _collect(self, node: Node) -> Action | None:
        body = self.state.body(node.id)
        if not all(one.ended for one in body):
            return None
        return Collect(node.id, tuple(one.id for one in body if lost(self.state, one)))


def results(state: PlanState, node: Node) -> list[Any]:
    """Return what each item of an ``each`` gave: the results of the tasks of its body that are done, by id."""
    return [
        {one.task.id: one.output for one in (state.nodes[i] for i in ids) if one.status is TaskStatus.COMPLETED}
        for ids in state.copies.get(node.id, ())
    ]
