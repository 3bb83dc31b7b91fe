"""Carries plans out in memory, by the rules alone: what runs and people say comes from a test."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from retinue.ledger import Event, Meta, Recorded
from retinue.planning import rules
from retinue.planning.events import (
    PlanCompleted,
    PlanDrafted,
    PlanFailed,
    PlanStarted,
    TaskCompleted,
    TaskExpanded,
    TaskFailed,
    TaskRetried,
    TaskSkipped,
    TaskStarted,
)
from retinue.planning.graph import Origin, Plan, Task
from retinue.planning.state import PlanState, TaskStatus, fold

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TENANT = UUID(int=1)


def plan_of(*tasks: Task, **more: Any) -> Plan:
    """Return a plan of tasks."""
    return Plan(title="a plan", tasks=tasks, origin=Origin(kind="api"), **more)


def agent(task_id: str, *depends_on: str, **more: Any) -> Task:
    """Return a task of an agent."""
    return Task(id=task_id, agent="a", instructions="do it", depends_on=depends_on, **more)


class Carried:
    """A plan that is under way.

    Args:
        items: what an ``each`` finds, by its full id.
    """

    def __init__(self, plan: Plan, items: Callable[[str], list[Any]] = lambda _: []) -> None:
        self.now = NOW
        self.recorded: list[Recorded[Event]] = []
        self.state = PlanState()
        self.items = items
        self.stopped: list[str] = []
        self.begun: list[str] = []
        self.note(PlanDrafted(owner_id=TENANT, session_id=TENANT, plan=plan), PlanStarted())

    def note(self, *facts: Event) -> None:
        """Let something have happened."""
        for fact in facts:
            version = len(self.recorded) + 1
            self.recorded.append(Recorded(TENANT, version, "plan:1", version, "", fact, Meta(), self.now))
            fold(self.recorded[-1:], self.state)

    def refold(self) -> None:
        """Throw the state away, and read the events again."""
        self.state = fold(self.recorded)

    def go(self) -> None:
        """Do all that follows from what is there."""
        while actions := rules.next_actions(self.state, self.now):
            for action in actions:
                if not self.state.ended:
                    self._carry_out(action)

    def running(self) -> list[str]:
        """Return the tasks that a run is doing."""
        nodes = self.state.nodes.values()
        return [one.id for one in nodes if one.status is TaskStatus.RUNNING and one.items is None]

    def completes(self, task_id: str, output: Any = None) -> None:
        """Let a task's run answer, and do what follows."""
        self.note(TaskCompleted(task_id=task_id, output=output))
        self.go()

    def fails(self, task_id: str, kind: str = "provider") -> None:
        """Let a task's run fail, and do what follows."""
        node = self.state.nodes[task_id]
        self.note(TaskFailed(task_id=task_id, kind=kind, detail="broke", again_at=rules.again_at(node, kind, self.now)))
        self.go()

    def later(self, seconds: float) -> None:
        """Let time pass, and do what follows."""
        self.now += timedelta(seconds=seconds)
        self.go()

    def statuses(self) -> dict[str, str]:
        """Return what every task is doing; of a skipped one, why."""
        return {one.id: one.reason or one.status.value for one in self.state.nodes.values()}

    def _carry_out(self, action: rules.Action) -> None:
        match action:
            case rules.Fail(kind, detail):
                self.note(PlanFailed(kind=kind, detail=detail))
            case rules.Finish(missing, failed):
                self.note(
                    PlanFailed(kind="task", detail="", missing=missing) if failed else PlanCompleted(missing=missing)
                )
            case rules.Start(task_id):
                self._start(task_id)
            case rules.Skip(task_id, reason):
                self.note(TaskSkipped(task_id=task_id, reason=reason))
            case rules.Stop(task_id) if not self.state.nodes[task_id].ended:
                self.stopped.append(task_id)
                self.note(TaskSkipped(task_id=task_id, reason="stopped"))
            case rules.TimeUp(task_id):
                self.note(TaskCompleted(task_id=task_id))
            case rules.Collect(task_id, lost):
                self._collect(task_id, lost)
            case rules.Again(task_id):
                failed_ids, skipped = rules.to_retry(self.state, task_id)
                self.note(TaskRetried(task_ids=(task_id, *failed_ids), skipped=tuple(skipped)))

    def _start(self, task_id: str) -> None:
        node = self.state.nodes[task_id]
        assert node.status in (TaskStatus.WAITING, TaskStatus.RETRYING), f"{task_id} begins and is {node.status}"
        self.begun.append(task_id)
        if node.task.each is not None:
            self.note(TaskExpanded(task_id=task_id, items=self.items(task_id)))
        else:
            self.note(TaskStarted(task_id=task_id, attempt=node.attempt + 1, run_id=uuid4()))

    def _collect(self, task_id: str, lost: tuple[str, ...]) -> None:
        node = self.state.nodes[task_id]
        if lost:
            again = rules.again_at(node, "items", self.now)
            self.note(TaskFailed(task_id=task_id, kind="items", detail=", ".join(lost), again_at=again))
        else:
            self.note(TaskCompleted(task_id=task_id, output=rules.results(self.state, node)))
