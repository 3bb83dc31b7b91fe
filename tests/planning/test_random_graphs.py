"""Random graphs with random failures: the order holds, nothing happens twice, and a state thrown away comes back."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.planning import rules
from retinue.planning.checks import check_plan
from retinue.planning.events import TaskCompleted, TaskRetried
from retinue.planning.graph import Each, Plan, Retry, Task
from retinue.planning.state import Node, TaskStatus, fold
from tests.planning.driver import Carried, plan_of

_MOST = 12


@st.composite
def tasks_of(draw: st.DrawFn, depth: int = 0) -> tuple[Task, ...]:
    """Draw a graph: each task depends on some of those before it; some hold a body."""
    made: list[Task] = []
    for number in range(draw(st.integers(1, _MOST if depth == 0 else 3))):
        before = [task.id for task in made]
        depends_on = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
        common: dict[str, Any] = {
            "id": f"t{number}",
            "depends_on": tuple(depends_on),
            "runs_on": draw(st.sampled_from(["success", "success", "success", "failure", "end"])),
            "optional": draw(st.integers(0, 5)) == 0,
            "retry": Retry(attempts=draw(st.integers(1, 3)), seconds=1),
        }
        if depth < 2 and draw(st.integers(0, 5)) == 0:
            body = draw(tasks_of(depth + 1))
            made.append(Task(kind="each", each=Each(items="[1]", body=body, at_once=draw(st.integers(1, 3))), **common))
        else:
            made.append(Task(agent="a", instructions="do it", **common))
    draw(st.randoms(use_true_random=False)).shuffle(made)  # the order of the list says nothing
    return tuple(made)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    return plan_of(*draw(tasks_of()), on_failure=draw(st.sampled_from(["continue", "stop", "replan"])))


class Watched(Carried):
    """A plan whose every step is held against what must be true."""

    def __init__(self, plan: Plan, chance: random.Random, failing: float) -> None:
        super().__init__(plan, lambda _: list(range(chance.randint(0, 3))))
        self.chance = chance
        self.failing = failing

    def _start(self, task_id: str) -> None:
        node = self.state.nodes[task_id]
        before = rules.dependencies(self.state, node)
        assert all(one.ended for one in before), f"{task_id} began too early"
        if node.task.runs_on == "success":
            assert all(one.succeeded for one in before), f"{task_id} began after a failure"
        if node.task.runs_on == "failure":
            assert any(one.status is TaskStatus.FAILED for one in before), f"{task_id} began without a failure"
        self._check_at_once(node)
        super()._start(task_id)

    def _check_at_once(self, node: Node) -> None:
        if node.parent is None:
            return
        each = self.state.nodes[node.parent].task.each
        assert each is not None
        busy = {one.index for one in self.state.body(node.parent) if self._works(one) or one.id == node.id}
        assert len(busy) <= each.at_once, f"{len(busy)} items at once"
        self._check_at_once(self.state.nodes[node.parent])

    def _works(self, node: Node) -> bool:
        """An ``each`` that is tried again has its items, but works only when something in it does."""
        if node.items is not None:
            return any(self._works(one) for one in self.state.body(node.id))
        return node.status in (TaskStatus.RUNNING, TaskStatus.RETRYING)

    def drive(self) -> None:
        """Let runs end in any order, well or badly, until the plan has ended."""
        self.go()
        for _ in range(5_000):
            if self.state.ended:
                return
            if self.chance.random() < 0.3:
                was = self.state
                self.refold()
                assert self.state == was, "the events do not tell all of the state"
                assert not rules.next_actions(self.state, self.now), "a fresh look finds something left to do"
            running = self.running()
            if not running:
                self.later(1)
                continue
            task_id = self.chance.choice(running)
            if self.chance.random() < self.failing:
                self.fails(task_id, self.chance.choice(["provider", "provider", "cancelled"]))
            else:
                self.completes(task_id, task_id)
        raise AssertionError(f"the plan does not end: {self.statuses()}")


@settings(max_examples=120, deadline=None)
@given(plans(), st.integers(0, 2**32), st.sampled_from([0.0, 0.2, 0.6]))
def test_any_graph_ends_in_an_order_that_respects_what_depends_on_what(plan: Plan, seed: int, failing: float) -> None:
    assert check_plan(plan, agents={"a"}, most=10_000) == []
    carried = Watched(plan, random.Random(seed), failing)
    carried.drive()
    state = carried.state
    assert not state.open
    completed = [one.event.task_id for one in carried.recorded if isinstance(one.event, TaskCompleted)]
    assert len(completed) == len(set(completed)), "a finished task was finished again"
    for node in state.nodes.values():
        assert node.ended
        begun = carried.begun.count(node.id)
        if node.status is TaskStatus.COMPLETED:
            assert begun >= 1
        if node.status is TaskStatus.SKIPPED and node.reason in ("condition", "dependency"):
            assert begun == 0
        assert begun <= node.task.retry.attempts or node.parent is not None, f"{node.id} began {begun} times"
        if state.graph.on_failure == "continue" and node.reason == "dependency":
            assert not all(one.succeeded for one in rules.dependencies(state, node))
    if failing == 0.0:
        assert state.missing == ()
    assert fold(carried.recorded) == state


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 2**32))
def test_what_failed_can_be_tried_again_and_what_is_done_stays_done(plan: Plan, seed: int) -> None:
    carried = Watched(plan, random.Random(seed), 0.4)
    carried.drive()
    done = {one.id for one in carried.state.nodes.values() if one.status is TaskStatus.COMPLETED}
    failed, skipped = rules.to_retry(carried.state)
    assert not done & {*failed, *skipped}
    if not failed and not skipped:
        return
    carried.begun.clear()
    carried.failing = 0.0
    carried.note(TaskRetried(task_ids=tuple(failed), skipped=tuple(skipped)))
    carried.drive()
    assert not done & set(carried.begun)
    assert carried.state.missing == ()
