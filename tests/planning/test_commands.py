"""Plans on a real database, step by step: events that tasks wait for, timers, full lanes, and steps taken at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from retinue import runs
from retinue.approvals import Ruling, decide
from retinue.kernel import Conflict, Scope
from retinue.planning import advancing, commands, folding, views, work
from retinue.planning.events import PlanCancelled, TaskCompleted, TaskStarted
from retinue.planning.graph import Each, Question, Task, Waiting
from retinue.planning.matching import satisfy
from retinue.planning.state import PlanState, PlanStatus
from retinue.runs import Parent
from tests.planning.driver import agent, plan_of
from tests.planning.office import LATER, Office


def wait(task_id: str, *depends_on: str, **what: Any) -> Task:
    return Task(id=task_id, kind="wait", wait=Waiting(**what), depends_on=depends_on)


async def test_a_task_takes_the_event_it_waits_for_and_no_other(office: Office) -> None:
    waits = wait("wait", event="message.sent", match="event.data.text == inputs.word")
    after = Task(
        id="after", kind="value", value="${ steps.wait.output.data.text }", template=True, depends_on=("wait",)
    )
    plan_id = await office.start(plan_of(waits, after, inputs={"word": "go"}))
    await office.advance(plan_id)
    async with office.scope() as scope:
        [wanted] = await views.waits_for(scope, "message.sent", office.clock.now() + LATER, None, 10)
        assert (wanted.plan_id, wanted.task_id) == (plan_id, "wait")
    assert await office.offer("message.created", {"data": {"text": "go"}}) == 0
    assert await office.offer("message.sent", {"data": {"text": "stop"}}) == 0
    assert await office.offer("message.sent", {"other": "shape"}) == 0
    assert await office.offer("message.sent", {"data": {"text": "go"}}) == 1
    async with office.scope() as scope:
        assert await views.events_waited_for(scope) == frozenset()
        assert not await satisfy(scope, wanted, {"data": {"text": "go"}})
    state = await office.advance(plan_id)
    assert (state.status, state.nodes["after"].output) == (PlanStatus.COMPLETED, "go")
    assert state.nodes["after"].tainted, "whoever caused the event may have written anything"


async def test_nobody_is_waiting_once_the_plan_has_ended(office: Office) -> None:
    plan_id = await office.start(plan_of(wait("wait", event="message.sent")))
    await office.advance(plan_id)
    async with office.scope() as scope:
        assert await commands.cancel_plan(scope, plan_id, "enough")
    async with office.scope() as scope:
        assert await views.events_waited_for(scope) == frozenset()


async def test_waits_and_the_deadline_end_by_the_clock(office: Office) -> None:
    plan_id = await office.start(
        plan_of(
            wait("short", seconds=10), wait("long", seconds=60), deadline=office.clock.now() + timedelta(seconds=30)
        )
    )
    await office.advance(plan_id)
    assert (await office.wake_ups(plan_id))["plan.advance"] == 4  # at the start, the deadline, and for each wait
    office.clock.advance(timedelta(seconds=9))
    assert (await office.advance(plan_id)).nodes["short"].status == "running"
    office.clock.advance(timedelta(seconds=1))
    assert (await office.advance(plan_id)).nodes["short"].status == "completed"
    office.clock.advance(timedelta(seconds=20))
    state = await office.advance(plan_id)
    assert (state.status, state.kind, state.missing) == (PlanStatus.FAILED, "deadline", ("long",))
    async with office.scope() as scope:
        await commands.retry_plan(scope, plan_id)
    assert (await office.state(plan_id)).deadline == office.clock.now() + timedelta(seconds=30)


async def test_a_full_lane_makes_tasks_wait_and_is_looked_at_again_once(office: Office) -> None:
    await office.hire(concurrency=1, queue=1)
    plan_id = await office.start(plan_of(agent("x"), agent("y"), agent("z")))
    before = (await office.wake_ups(plan_id))["plan.advance"]
    state = await office.advance(plan_id)
    assert Counter(node.status.value for node in state.nodes.values()) == {"running": 2, "waiting": 1}
    assert (await office.wake_ups(plan_id))["plan.advance"] == before + 1
    await office.advance(plan_id)
    assert (await office.wake_ups(plan_id))["plan.advance"] == before + 1
    async with office.scope() as scope:
        await runs.cancel(scope, state.nodes["x"].run_id or uuid4(), "enough")
    state = await office.advance(plan_id)
    assert {node.id: node.status.value for node in state.nodes.values()} == {
        "x": "failed",
        "y": "running",
        "z": "running",
    }


@pytest.mark.parametrize("forgetful", [False, True], ids=["remembered", "folded anew"])
async def test_steps_taken_at_once_start_each_task_once(office: Office, forgetful: bool) -> None:
    await office.hire(concurrency=100)
    plan_id = await office.start(plan_of(*(agent(f"t{n}") for n in range(10)), wait("w", seconds=3600)))
    for _ in range(3):
        await asyncio.gather(*(work.advance(office.services, office.tenant_id, plan_id) for _ in range(6)))
        if forgetful:
            folding.folded.take((office.tenant_id, plan_id))
    started = Counter(fact.task_id for fact in await office.facts(plan_id) if isinstance(fact, TaskStarted))
    assert started == {**{f"t{n}": 1 for n in range(10)}, "w": 1}


async def test_a_remembered_state_is_what_the_events_say(office: Office) -> None:
    await office.hire()
    plan_id = await office.start(plan_of(agent("x"), agent("y", "x", runs_on="end"), wait("w", seconds=3600)))
    state = await office.advance(plan_id)
    async with office.scope() as scope:
        await runs.cancel(scope, state.nodes["x"].run_id or uuid4(), "enough")
    fresh = await office.advance(plan_id)
    kept = folding.folded.take((office.tenant_id, plan_id))
    assert kept is not None
    assert kept.version == fresh.version
    assert {one.id: one.status for one in kept.nodes.values()} == {one.id: one.status for one in fresh.nodes.values()}


async def test_the_end_wakes_the_run_that_waits_and_tells_the_hooks_once(office: Office) -> None:
    told: list[UUID] = []

    async def hook(_scope: Scope, plan_id: UUID, state: PlanState) -> None:
        assert state.ended
        told.append(plan_id)

    commands.end_hooks.append(hook)
    try:
        run_id = uuid4()
        value = Task(id="v", kind="value", value=1)
        plan_id = await office.start(plan_of(value), parent=Parent(kind="run", id=run_id, key="call"))
        assert (await office.wake_ups(run_id))["run.advance"] == 0
        await office.advance(plan_id)
        await office.advance(plan_id)
        assert (await office.wake_ups(run_id))["run.advance"] == 1
        assert told == [plan_id]
    finally:
        commands.end_hooks.remove(hook)


async def test_a_question_that_nobody_answers_and_a_plan_that_nobody_approves(office: Office) -> None:
    asks = Task(id="ask", kind="approval", question=Question(text="Well?", seconds=5))
    plan_id = await office.start(plan_of(asks, Task(id="v", kind="value", value=1)))
    state = await office.advance(plan_id)
    approval_id = state.nodes["ask"].approval_id
    assert approval_id is not None
    office.clock.advance(timedelta(seconds=6))
    async with office.scope() as scope:
        assert (await decide(scope, approval_id, Ruling("approve"))).status == "expired"
    state = await office.advance(plan_id)
    assert (state.status, state.nodes["ask"].kind) == (PlanStatus.COMPLETED, "expired")

    plan_id = await office.start(plan_of(Task(id="v", kind="value", value=1)), ask=("its risk",), approval_seconds=5)
    state = await office.advance(plan_id)
    assert state.status is PlanStatus.WAITING
    assert state.approval_id is not None
    office.clock.advance(timedelta(seconds=6))
    async with office.scope() as scope:
        await decide(scope, state.approval_id, Ruling("approve"))
    state = await office.advance(plan_id)
    assert (state.status, state.kind, state.detail) == (
        PlanStatus.FAILED,
        "declined",
        "Nobody approved the plan in time.",
    )


async def test_what_has_ended_is_not_ended_again(office: Office) -> None:
    plan_id = await office.start(plan_of(wait("w", seconds=5)))
    async with office.scope() as scope:
        assert await commands.cancel_plan(scope, plan_id, "first")
    async with office.scope() as scope:
        assert not await commands.cancel_plan(scope, plan_id, "second")
    office.clock.advance(timedelta(seconds=6))
    await office.advance(plan_id)
    ends = [fact for fact in await office.facts(plan_id) if isinstance(fact, PlanCancelled)]
    assert [one.reason for one in ends] == ["first"]
    async with office.scope() as scope:
        with pytest.raises(Conflict):
            await commands.retry_plan(scope, await office.start(plan_of(wait("w", seconds=5))))


async def test_what_was_untrusted_stays_so_through_a_failure_and_through_items(office: Office) -> None:
    """A failure quotes what failed, and a list made of untrusted items is none the better for it."""
    told = wait("told", event="message.sent")
    unfit = Task(
        id="unfit",
        kind="value",
        value="${steps.told.output.data.word}",
        template=True,
        output_schema={"type": "integer"},
        depends_on=("told",),
        optional=True,
    )
    each = Each(items="[steps.told.output.data.word]", body=(wait("pause", seconds=0),), output="${item}")
    copied = Task(id="copied", kind="each", each=each, depends_on=("told",))
    plan_id = await office.start(plan_of(told, unfit, copied))
    await office.advance(plan_id)
    assert await office.offer("message.sent", {"data": {"word": "obey me"}}) == 1
    state = await office.advance(plan_id)
    assert state.ended
    failed, made = state.nodes["unfit"], state.nodes["copied"]
    assert "obey me" in (failed.detail or "")
    assert failed.tainted
    assert made.output == ["obey me"]
    assert made.tainted


async def test_a_plan_holds_so_much_and_no_more(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of one long text, made by a few tasks for many items, would fill the memory and the disk."""
    monkeypatch.setattr(advancing, "MOST_HELD", 10_000)
    long = Task(id="long", kind="value", value="x" * 1_000)
    copy = Task(id="copy", kind="value", value="${steps.long.output}", template=True)
    each = Each(items="[1, 2, 3, 4, 5].map(one, one)", body=(copy,), most=5)
    all_of_them = Task(id="each", kind="each", each=each, depends_on=("long",))
    few = await office.advance(await office.start(plan_of(long, all_of_them)))
    assert few.nodes["each"].kind == "too_big", "what an each collects counts as well"
    assert few.held <= 10_000
    monkeypatch.setattr(advancing, "MOST_HELD", 20_000)
    state = await office.advance(await office.start(plan_of(long, all_of_them)))
    assert state.nodes["each"].status == "completed"


async def test_a_look_that_computes_for_long_leaves_the_rest_to_the_next(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of expressions must not hold the server's loop in one piece."""
    monkeypatch.setattr(advancing, "STEP_SECONDS", 0.0)
    values = [Task(id=f"v{n}", kind="value", value=n) for n in range(5)]
    await office.hire()
    plan_id = await office.start(plan_of(*values, agent("x")))
    queued = (await office.wake_ups(plan_id))["plan.advance"]
    looks, state = 0, await office.state(plan_id)
    while not all(node.ended for node in state.nodes.values() if node.task.kind == "value"):
        state = await office.advance(plan_id)
        looks += 1
    assert looks >= 5, "at least one thing is done in each look, and not much more"
    assert (await office.wake_ups(plan_id))["plan.advance"] >= queued + looks - 1, "each asks for the next"
    done = [one.task_id for one in await office.facts(plan_id) if isinstance(one, TaskCompleted)]
    assert sorted(done) == [f"v{n}" for n in range(5)], "each once"
    while state.nodes["x"].run_id is None:
        state = await office.advance(plan_id)
