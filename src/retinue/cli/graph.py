"""A plan as this command knows it: what the server said of it, brought up to date by its events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from retinue.cli.screen import Json

if TYPE_CHECKING:
    from retinue.cli.stream import LiveEvent

ENDED = frozenset({"completed", "failed", "cancelled", "dead_lettered"})
TASK_ENDED = frozenset({"completed", "failed", "skipped"})


@dataclass(slots=True)
class TaskNode:
    """A task as it is shown.

    Attributes:
        id: its full id, which in a body names the item: ``pages[3].read``.
        index: which item of its body it works on.
        doing: what it does now, in a line; empty when that is not known.
        asks: what a person is asked by it; empty: nothing.
        estimate: tokens that it is thought to take.
        expense: dollars that it is thought to cost, a decimal number.
        cost: dollars that it has cost, a decimal number.
    """

    id: str
    title: str = ""
    kind: str = "agent"
    agent: str = ""
    depends_on: tuple[str, ...] = ()
    parent: str | None = None
    index: int | None = None
    status: str = "waiting"
    attempt: int = 0
    run_id: str | None = None
    risk: str = ""
    estimate: int | None = None
    expense: str | None = None
    tokens: int = 0
    cost: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    again_at: str | None = None
    until: str | None = None
    event: str = ""
    detail: str = ""
    reason: str = ""
    doing: str = ""
    asks: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether it is done, or was not needed."""
        return self.status == "completed" or (self.status == "skipped" and self.reason == "condition")

    @property
    def who(self) -> str:
        """Whoever does it: an agent, or what kind of task it is."""
        return self.agent or self.kind


@dataclass(slots=True)
class Graph:
    """A plan: its tasks by full id, in the order of the plan."""

    plan_id: str = ""
    title: str = ""
    status: str = "drafted"
    origin: str = ""
    nodes: dict[str, TaskNode] = field(default_factory=dict)
    created_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    cost: str | None = None
    tokens: int = 0
    detail: str = ""
    outdated: bool = False
    """Whether events say less than is needed: the server must be asked again."""

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.status in ENDED

    def take(self, event: LiveEvent) -> None:
        """Let an event of this plan have happened."""
        payload, at = event.payload, event.at
        match event.name:
            case "plan_request":
                self.status = "waiting"
            case "task_started":
                # Whoever approved the plan may have changed it.
                self.outdated = self.outdated or self.status == "waiting"
                self.status, self.started_at = "running", self.started_at or at
                self._change("started", payload, at)
            case "task_completed":
                self._change("completed", payload, at)
            case "task_progress":
                self._change(str(payload.get("status")), payload, at)
            case "run_completed" | "run_failed":
                self._end(payload, at)

    def _change(self, what: str, payload: Json, at: str | None) -> None:
        node, change = self.nodes.get(str(payload.get("task_id"))), _CHANGES.get(what)
        if node is None or change is None:
            self.outdated = True
            return
        if change(node, payload, at):
            self.tokens += int(payload.get("tokens") or 0)
            self.cost = _sum(self.cost, payload)

    def _end(self, payload: Json, at: str | None) -> None:
        self.status, self.ended_at = str(payload.get("status")), at
        self.detail = str(payload.get("detail") or payload.get("reason") or payload.get("cause") or "")
        for node in self.nodes.values():
            if node.status not in TASK_ENDED:
                node.status, node.reason, node.doing, node.asks = "skipped", "stopped", "", ""

    def of_run(self, run_id: str | None) -> TaskNode | None:
        """Return the task that a run works for."""
        return next((node for node in self.nodes.values() if run_id and node.run_id == run_id), None)

    def in_order(self, parent: str | None = None) -> Iterator[TaskNode]:
        """Yield the tasks of one body, each after those it depends on, otherwise in the order of the plan."""
        bodies: dict[int | None, list[TaskNode]] = {}
        for node in self.nodes.values():
            if node.parent == parent:
                bodies.setdefault(node.index, []).append(node)
        for body in bodies.values():
            yield from _sorted(body)

    def calls(self, node: TaskNode) -> str:
        """Return what a task is called among those it is shown with."""
        return node.id if node.parent is None else node.id.removeprefix(node.parent)


def _sorted(left: list[TaskNode]) -> Iterator[TaskNode]:
    while left:
        open_ids = {node.id for node in left}
        free = [node for node in left if open_ids.isdisjoint(node.depends_on)]
        yield from free or left  # what is no order is shown as it stands
        done = {node.id for node in free or left}
        left = [node for node in left if node.id not in done]


def of_draft(plan: Mapping[str, Any]) -> Graph:
    """Return the graph of a plan that a person is to decide about, from the approval's arguments."""
    return Graph(title=str(plan.get("title") or ""), nodes=_nodes(plan.get("tasks") or ()))


def of_created(payload: Mapping[str, Any], at: str | None) -> Graph:
    """Return the graph of a plan from the event that it was made."""
    return Graph(
        plan_id=str(payload["plan_id"]),
        title=str(payload.get("title") or ""),
        origin=str(payload.get("origin") or ""),
        nodes=_nodes(payload.get("tasks") or ()),
        created_at=at,
    )


def of_plan(plan: Mapping[str, Any]) -> Graph:
    """Return the graph of a plan as ``GET /v1/my/plans/{id}`` shows it."""
    return Graph(
        plan_id=str(plan["plan_id"]),
        title=str(plan.get("title") or ""),
        status=str(plan.get("status") or "drafted"),
        origin=str(plan.get("origin") or ""),
        nodes=_nodes(plan.get("nodes") or ()),
        created_at=plan.get("created_at"),
        started_at=plan.get("started_at"),
        ended_at=plan.get("ended_at"),
        cost=plan.get("cost"),
        tokens=int(plan.get("tokens") or 0),
        detail=_detail(plan),
    )


def _nodes(tasks: Iterable[Mapping[str, Any]]) -> dict[str, TaskNode]:
    nodes = [
        TaskNode(
            id=str(task.get("id")),
            title=str(task.get("title") or ""),
            kind=str(task.get("kind") or "agent"),
            agent=str(task.get("agent") or ""),
            depends_on=tuple(map(str, task.get("depends_on") or ())),
            parent=task.get("parent"),
            index=task.get("index"),
            status=str(task.get("status") or "waiting"),
            attempt=int(task.get("attempt") or 0),
            run_id=task.get("run_id"),
            risk=str(task.get("risk") or ""),
            estimate=task.get("estimated_tokens"),
            expense=task.get("estimated_cost"),
            tokens=int(task.get("tokens") or 0),
            cost=task.get("cost"),
            started_at=task.get("started_at"),
            ended_at=task.get("ended_at"),
            again_at=task.get("again_at"),
            until=task.get("until"),
            detail=_detail(task),
            reason=str(task.get("skipped") or ""),
        )
        for task in tasks
    ]
    return {node.id: node for node in nodes}


def _detail(thing: Mapping[str, Any]) -> str:
    return str((thing.get("error") or {}).get("detail") or "")


# What events change. What an event leaves out is at its default. An event that is older than what the server said
# changes nothing, and returns False.


def _started(node: TaskNode, payload: Json, at: str | None) -> bool:
    attempt = int(payload.get("attempt") or 1)
    if attempt < node.attempt or (attempt == node.attempt and node.status != "running"):
        return False
    node.status, node.attempt = "running", attempt
    node.run_id, node.until, node.event = payload.get("run_id"), payload.get("until"), payload.get("event") or ""
    node.started_at, node.detail, node.doing, node.asks = node.started_at or at, "", "", ""
    return True


def _completed(node: TaskNode, payload: Json, at: str | None) -> bool:
    return _end(node, "completed", payload, at)


def _failed(node: TaskNode, payload: Json, at: str | None) -> bool:
    again_at = payload.get("again_at")
    if node.status == "retrying" or not _end(node, "retrying" if again_at else "failed", payload, at):
        return False
    node.detail, node.again_at = str(payload.get("detail") or payload.get("kind") or ""), again_at
    return True


def _skipped(node: TaskNode, payload: Json, at: str | None) -> bool:
    node.reason = str(payload.get("reason") or "")
    return _end(node, "skipped", payload, at)


def _end(node: TaskNode, status: str, payload: Json, at: str | None) -> bool:
    if node.status in TASK_ENDED:
        return False
    node.status, node.doing, node.asks = status, "", ""
    node.ended_at = None if status == "retrying" else at
    node.tokens += int(payload.get("tokens") or 0)
    node.cost = _sum(node.cost, payload)
    return True


def _sum(cost: str | None, payload: Json) -> str | None:
    """Add what an event says in nano-dollars to an amount in dollars."""
    more = int(payload.get("cost") or 0)
    return f"{Decimal(cost or 0) + Decimal(more).scaleb(-9):f}" if more else cost


_CHANGES: dict[str, Callable[[TaskNode, Json, str | None], bool]] = {
    "started": _started,
    "completed": _completed,
    "failed": _failed,
    "skipped": _skipped,
}
