"""What follows from a plan's events, as plain functions."""

from __future__ import annotations

from datetime import timedelta

import pytest

from retinue.planning.checks import check_plan
from retinue.planning.graph import Call, Each, OnFailure, Question, Retry, RunsOn, Task, Waiting
from retinue.planning.outputs import NotAsAsked, output_of
from retinue.planning.state import PlanStatus
from tests.planning.driver import NOW, Carried, agent, plan_of

DIAMOND = (agent("find"), agent("left", "find"), agent("right", "find"), agent("write", "left", "right"))


def test_a_task_begins_when_all_that_it_depends_on_is_done() -> None:
    plan = Carried(plan_of(*DIAMOND))
    plan.go()
    assert plan.running() == ["find"]
    plan.completes("find")
    assert plan.running() == ["left", "right"]
    plan.completes("right")
    assert plan.running() == ["left"]
    plan.completes("left")
    assert plan.running() == ["write"]
    plan.completes("write")
    assert plan.state.status is PlanStatus.COMPLETED
    assert plan.begun == ["find", "left", "right", "write"]


@pytest.mark.parametrize(
    "on_failure, status, right, missing",
    [
        ("continue", PlanStatus.COMPLETED, "completed", ("left", "write")),
        ("stop", PlanStatus.FAILED, "stopped", ("left", "right", "write")),
        ("replan", PlanStatus.FAILED, "stopped", ("left", "right", "write")),
    ],
)
def test_a_failure_means_what_the_plan_says(
    on_failure: OnFailure, status: PlanStatus, right: str, missing: tuple[str, ...]
) -> None:
    plan = Carried(plan_of(*DIAMOND, on_failure=on_failure))
    plan.go()
    plan.completes("find")
    plan.fails("left")
    if on_failure == "continue":
        plan.completes("right")
        assert plan.statuses()["write"] == "dependency"
        assert plan.stopped == []
    else:
        assert plan.stopped == ["right"]
        assert plan.statuses()["write"] == "stopped"
    assert plan.state.status is status
    assert plan.statuses()["right"] == right
    assert plan.state.missing == missing


def test_a_plan_that_achieves_nothing_has_failed_even_if_it_goes_on() -> None:
    plan = Carried(plan_of(agent("a"), agent("b", "a")))
    plan.go()
    plan.fails("a")
    assert plan.state.status is PlanStatus.FAILED
    assert plan.state.missing == ("a", "b")


def test_a_failed_task_is_tried_again_with_doubled_pauses() -> None:
    plan = Carried(plan_of(agent("a", retry=Retry(attempts=3, seconds=10))))
    plan.go()
    plan.fails("a")
    assert plan.state.nodes["a"].again_at == NOW + timedelta(seconds=10)
    plan.later(9)
    assert plan.running() == []
    plan.later(1)
    assert plan.running() == ["a"]
    plan.fails("a")
    assert plan.state.nodes["a"].again_at == plan.now + timedelta(seconds=20)
    plan.later(20)
    plan.fails("a")
    assert plan.state.status is PlanStatus.FAILED
    assert plan.state.nodes["a"].attempt == 3


@pytest.mark.parametrize("kind", ["agent_gone", "declined", "cancelled", "expression"])
def test_what_would_end_the_same_way_is_not_tried_again(kind: str) -> None:
    plan = Carried(plan_of(agent("a", retry=Retry(attempts=3))))
    plan.go()
    plan.fails("a", kind)
    assert plan.state.status is PlanStatus.FAILED


def test_the_failure_of_an_optional_task_is_none_of_the_plan() -> None:
    plan = Carried(plan_of(agent("a", optional=True), agent("b", "a"), on_failure="stop"))
    plan.go()
    plan.fails("a")
    assert plan.running() == ["b"]
    plan.completes("b")
    assert (plan.state.status, plan.state.missing) == (PlanStatus.COMPLETED, ())


@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_a_failure_that_another_task_takes_up_is_none_of_the_plan(on_failure: OnFailure) -> None:
    plan = Carried(
        plan_of(
            agent("a"),
            agent("b", "a"),
            agent("mend", "a", runs_on="failure"),
            agent("after", "b", "mend", runs_on="end"),
            on_failure=on_failure,
        )
    )
    plan.go()
    plan.fails("a")
    assert plan.running() == ["mend"]
    plan.completes("mend")
    assert plan.running() == ["after"]
    plan.completes("after")
    assert plan.statuses()["b"] == "dependency"
    assert (plan.state.status, plan.state.missing) == (PlanStatus.COMPLETED, ())


def test_a_failure_whose_mending_fails_is_one_of_the_plan() -> None:
    plan = Carried(plan_of(agent("a"), agent("mend", "a", runs_on="failure"), on_failure="stop"))
    plan.go()
    plan.fails("a")
    plan.fails("mend")
    assert (plan.state.status, plan.state.missing) == (PlanStatus.FAILED, ("a", "mend"))


@pytest.mark.parametrize(
    "runs_on, a_fails, then",
    [
        ("success", False, "running"),
        ("success", True, "dependency"),
        ("failure", False, "condition"),
        ("failure", True, "running"),
        ("end", False, "running"),
        ("end", True, "running"),
    ],
)
def test_a_task_runs_on_what_it_wants(runs_on: RunsOn, a_fails: bool, then: str) -> None:
    plan = Carried(plan_of(agent("other"), agent("a"), agent("b", "a", runs_on=runs_on)))
    plan.go()
    if a_fails:
        plan.fails("a")
    else:
        plan.completes("a")
    assert plan.statuses()["b"] == then


EACH = Task(id="all", kind="each", each=Each(items="[1]", body=(agent("x"), agent("y", "x")), at_once=2))


def test_a_body_is_carried_out_for_each_item_so_many_at_once() -> None:
    plan = Carried(plan_of(EACH, agent("after", "all")), lambda _: ["p", "q", "r"])
    plan.go()
    assert plan.running() == ["all[0].x", "all[1].x"]
    plan.completes("all[1].x", "x1")
    assert plan.running() == ["all[0].x", "all[1].y"]
    plan.completes("all[1].y", "y1")
    assert plan.running() == ["all[0].x", "all[2].x"]
    for task_id in ("all[0].x", "all[0].y", "all[2].x", "all[2].y"):
        plan.completes(task_id, task_id)
    assert plan.running() == ["after"]
    assert plan.state.nodes["all"].output == [
        {"x": "all[0].x", "y": "all[0].y"},
        {"x": "x1", "y": "y1"},
        {"x": "all[2].x", "y": "all[2].y"},
    ]


def test_an_each_without_items_is_done_at_once() -> None:
    plan = Carried(plan_of(EACH))
    plan.go()
    assert plan.state.status is PlanStatus.COMPLETED
    assert plan.state.nodes["all"].output == []


def test_an_each_whose_item_failed_is_tried_again_for_that_item_alone() -> None:
    each = Task(id="all", kind="each", each=EACH.each, retry=Retry(attempts=2, seconds=5))
    plan = Carried(plan_of(each), lambda _: ["p", "q"])
    plan.go()
    plan.completes("all[0].x")
    plan.completes("all[0].y")
    plan.fails("all[1].x")
    assert plan.statuses()["all"] == "retrying"
    plan.later(5)
    assert plan.running() == ["all[1].x"]
    plan.fails("all[1].x")
    assert plan.statuses()["all"] == "failed"
    assert plan.state.status is PlanStatus.FAILED
    assert plan.begun.count("all[0].x") == 1


def test_a_failure_in_a_body_stops_that_body_and_no_other_task() -> None:
    plan = Carried(
        plan_of(EACH, agent("mend", "all", runs_on="failure"), agent("other"), on_failure="stop"), lambda _: [1, 2]
    )
    plan.go()
    plan.fails("all[0].x")
    assert plan.stopped == ["all[1].x"]
    assert plan.running() == ["mend", "other"]


def test_results_of_an_earlier_plan_are_there_from_the_start() -> None:
    plan = Carried(plan_of(agent("b", "a"), given={"a": "done before"}))
    plan.go()
    assert plan.running() == ["b"]


def test_a_plan_ends_at_its_deadline_and_when_its_money_is_spent() -> None:
    plan = Carried(plan_of(agent("a"), deadline=NOW + timedelta(seconds=60)))
    plan.go()
    plan.later(59)
    assert plan.state.status is PlanStatus.RUNNING
    plan.later(1)
    assert (plan.state.status, plan.state.kind) == (PlanStatus.FAILED, "deadline")


# What is wrong with a graph


def wrong(*tasks: Task, most: int = 50) -> list[str]:
    return [str(one) for one in check_plan(plan_of(*tasks), agents={"a"}, most=most)]


def test_a_good_graph_has_no_mistakes() -> None:
    assert wrong(*DIAMOND, EACH) == []


@pytest.mark.parametrize(
    "tasks, said",
    [
        ((), "tasks: A plan has at least one task."),
        ((agent("a"), agent("a")), "tasks[1].id: There is another task 'a'."),
        ((agent("a b"),), "tasks[0].id: An id is 1 to 64 letters, digits, _ and -."),
        ((agent("a", "b"),), "tasks[0].depends_on[0]: There is no task 'b' here."),
        ((agent("a", "a"),), "tasks: These tasks wait for each other: a -> a."),
        ((agent("a", "b"), agent("b", "a")), "tasks: These tasks wait for each other:"),
        ((Task(id="a", agent="b", instructions="x"),), "tasks[0].agent: There is no agent 'b'."),
        ((Task(id="a", instructions="x"),), "tasks[0].agent: A task of the kind agent names its agent."),
        ((Task(id="a", agent="a"),), "tasks[0].instructions: A task of the kind agent says what is to be done."),
        ((Task(id="a", agent="a", kind="tool"),), "tasks[0].call: A task of the kind tool has a call."),
        ((agent("a", call=Call(tool="x")),), "tasks[0].call: Only a task of the kind tool has a call"),
        ((Task(id="a", kind="wait", wait=Waiting()),), "tasks[0].wait: Exactly one of seconds, until and event."),
        ((Task(id="a", kind="wait", wait=Waiting(until="1 +")),), "tasks[0].wait.until: "),
        ((agent("a", when="nobody"),), "tasks[0].when: "),
        ((agent("a", retry=Retry(attempts=99)),), "tasks[0].retry.attempts: 1 to 20 tries."),
        ((Task(id="a", kind="approval", question=Question(text="?", seconds=0)),), "tasks[0].question.seconds: "),
        (
            (Task(id="a", kind="each", each=Each(items="[1]", body=(agent("x", "y"),))),),
            "tasks[0].each.body[0].depends_on[0]: There is no task 'y' here.",
        ),
        ((agent("t", template=True, expected="", when="true"), agent("u", "t", "v")), "tasks[1].depends_on[1]: "),
    ],
)
def test_each_mistake_is_named_with_its_path(tasks: tuple[Task, ...], said: str) -> None:
    assert any(one.startswith(said) for one in wrong(*tasks)), wrong(*tasks)


def test_all_mistakes_are_named_at_once_and_a_cycle_by_its_tasks() -> None:
    found = wrong(agent("a", "c"), agent("b", "a"), agent("c", "b", "nowhere"), Task(id="d", agent="?"))
    assert len(found) == 4
    [cycle] = [one for one in found if "wait for each other" in one]
    assert {"a", "b", "c"} == set(cycle.split(": ")[-1].rstrip(".").split(" -> "))


def test_tasks_in_bodies_count() -> None:
    assert wrong(EACH, most=3) == []
    assert wrong(EACH, most=2) == ["tasks: There are 3 tasks; a plan has at most 2."]


@pytest.mark.parametrize("depth", [33, 900, 100_000])
def test_a_result_nested_too_deep_stays_text(depth: int) -> None:
    """A page that a tool fetched must not keep its plan from going on."""
    text = "[" * depth + "]" * depth
    assert output_of(Task(id="a", kind="tool", agent="a", call=Call(tool="x")), text) == text
    assert output_of(Task(id="a", kind="tool", agent="a", call=Call(tool="x")), "[[1]]") == [[1]]
    with pytest.raises(NotAsAsked):
        output_of(agent("a", output_schema={"type": "array"}), text)
