"""A plan whose every look fails is put aside with the reason, can be seen, and goes on when a person says so."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from retinue.approvals import outcomes
from retinue.kernel import Conflict
from retinue.planning import commands, giving_up, work
from retinue.planning.advancing import Advance
from retinue.planning.events import PlanDeadLettered, PlanLookFailed, PlanRecovered, TaskStarted
from retinue.planning.graph import Question, Task, Waiting
from retinue.planning.orchestrator import ByAPlan
from retinue.planning.state import PlanStatus, TaskStatus
from retinue.planning.views import find_plan, lock_plan
from retinue.runs import Parent, find_run
from retinue.runs import Status as RunStatus
from tests.faults.mutants import planted
from tests.planning.driver import agent, plan_of
from tests.planning.office import Office
from tests.planning.support import nodes, start, task, until
from tests.support.command_line import CommandLine, Ended, fresh_home
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import RunningServer, running_server

LOOKS = len(giving_up.PAUSES) + 1


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The planted bug: looks fail until it is undone."""

    async def run(_self: Advance) -> None:
        raise ArithmeticError("poison in the plan")

    monkeypatch.setattr(Advance, "run", run)
    return monkeypatch


async def fail(office: Office, plan_id: UUID, looks: int = LOOKS) -> None:
    """Look at a plan so many times, each when it is to be looked at again."""
    for attempt in range(looks):
        await office.advance(plan_id)
        office.clock.advance(giving_up.PAUSES[min(attempt, LOOKS - 2)])


async def test_after_looks_with_growing_pauses_a_plan_is_put_aside_with_the_reason(
    office: Office, poison: pytest.MonkeyPatch
) -> None:
    run_id = uuid4()
    value = Task(id="v", kind="value", value=1)
    plan_id = await office.start(plan_of(value), parent=Parent(kind="run", id=run_id, key="call"))
    await fail(office, plan_id)
    failed = [one for one in await office.facts(plan_id) if isinstance(one, PlanLookFailed)]
    assert [one.attempt for one in failed] == [1, 2, 3, 4, 5]
    pauses = [after.again_at - before.again_at for before, after in itertools.pairwise(failed)]
    assert pauses == list(giving_up.PAUSES[1:]), "each is reckoned from the look that failed"
    assert pauses == sorted(pauses)
    state = await office.state(plan_id)
    assert (state.status, state.kind) == (PlanStatus.DEAD_LETTERED, "dead_letter")
    assert state.detail == "The plan was put aside after 6 looks that failed: ArithmeticError: poison in the plan"
    async with office.scope() as scope:
        row = await find_plan(scope, plan_id)
        told = await ByAPlan().outcome(scope, plan_id, lock=False)
    assert (row.status, row.error) == ("dead_lettered", {"kind": "dead_letter", "detail": state.detail})
    assert row.ended_at is not None
    assert told is not None
    assert told.failed
    assert state.detail in told.content
    assert (await office.wake_ups(run_id))["run.advance"] == 1, "whoever waits for it hears of it"
    await office.advance(plan_id)
    assert [type(one) for one in await office.facts(plan_id)].count(PlanDeadLettered) == 1


async def test_it_goes_on_from_where_it_was_when_a_person_says_so(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.hire()
    asks = Task(id="ask", kind="approval", question=Question(text="Well?", seconds=86_400))
    done = Task(id="done", kind="value", value="kept")
    plan_id = await office.start(plan_of(agent("work"), asks, done, agent("after", "work")))
    before = await office.advance(plan_id)
    run_id, approval_id = before.nodes["work"].run_id, before.nodes["ask"].approval_id
    assert run_id is not None
    assert approval_id is not None
    with monkeypatch.context() as patch:
        patch.setattr(Advance, "run", _poisoned)
        await fail(office, plan_id)
    async with office.scope() as scope:
        assert (await find_run(scope, run_id)).status is RunStatus.CANCELLED, "nothing goes on below it"
        assert (await outcomes(scope, [approval_id]))[approval_id].status == "cancelled"
        with pytest.raises(Conflict, match="Requeue it"):
            await commands.retry_plan(scope, plan_id)
        assert not await commands.cancel_plan(scope, plan_id, "enough")
    async with office.scope() as scope:
        await giving_up.requeue_plan(scope, plan_id)
    state = await office.advance(plan_id)
    assert (state.status, state.nodes["done"].output) == (PlanStatus.RUNNING, "kept")
    again = {one: state.nodes[one] for one in ("work", "ask")}
    assert {one: node.status for one, node in again.items()} == dict.fromkeys(again, TaskStatus.RUNNING)
    assert again["work"].run_id not in (None, run_id)
    assert again["ask"].approval_id not in (None, approval_id)
    assert again["work"].tries == 1, "what was cancelled was no try of the task"
    started = [one.task_id for one in await office.facts(plan_id) if isinstance(one, TaskStarted)]
    assert sorted(started) == ["ask", "ask", "work", "work"]
    async with office.scope() as scope:
        assert (await find_plan(scope, plan_id)).error is None
        with pytest.raises(Conflict, match="only dead letters"):
            await giving_up.requeue_plan(scope, plan_id)


async def _poisoned(_self: Advance) -> None:
    raise ArithmeticError("poison in the plan")


async def test_looks_during_a_pause_do_not_count(office: Office, poison: pytest.MonkeyPatch) -> None:
    plan_id = await office.start(plan_of(Task(id="v", kind="value", value=1)))
    for _ in range(3 * LOOKS):
        await office.advance(plan_id)
    assert (await office.state(plan_id)).version == 3, "drafted, started, one look that failed"
    poison.undo()
    await office.advance(plan_id)
    assert (await office.state(plan_id)).status is PlanStatus.RUNNING, "it is not looked at before the pause is over"
    office.clock.advance(giving_up.PAUSES[0])
    assert (await office.advance(plan_id)).status is PlanStatus.COMPLETED


async def test_a_look_that_goes_well_lets_the_count_begin_anew(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_id = await office.start(plan_of(Task(id="ask", kind="approval", question=Question(text="Well?"))))
    await office.advance(plan_id)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Advance, "run", _poisoned)
            await fail(office, plan_id, LOOKS - 1)
        state = await office.advance(plan_id)
        assert (state.status, state.look_failed) == (PlanStatus.RUNNING, None)
    assert [type(one) for one in await office.facts(plan_id)].count(PlanRecovered) == 2


async def test_a_plan_whose_events_cannot_be_read_is_put_aside_and_what_is_below_it_ends(office: Office) -> None:
    await office.hire()
    parent = Parent(kind="run", id=uuid4(), key="call")
    plan_id = await office.start(plan_of(agent("work")), parent=parent)
    run_id = (await office.advance(plan_id)).nodes["work"].run_id
    assert run_id is not None
    async with office.scope() as scope:
        row = await lock_plan(scope, plan_id)
        await commands.record(scope, plan_id, row, row.version, TaskStarted(task_id="ghost"))
    for attempt in range(LOOKS):
        await work.advance(office.services, office.tenant_id, plan_id)
        office.clock.advance(giving_up.PAUSES[min(attempt, LOOKS - 2)])
    async with office.scope() as scope:
        row = await find_plan(scope, plan_id)
        assert (row.status, (row.error or {})["kind"]) == ("dead_lettered", "dead_letter")
        assert "KeyError: 'ghost'" in (row.error or {})["detail"]
        assert (await find_run(scope, run_id)).status is RunStatus.CANCELLED
        told = await ByAPlan().outcome(scope, plan_id, lock=False)
        assert told is not None
        assert told.failed
        with pytest.raises(Conflict, match="cannot be read"):
            await giving_up.requeue_plan(scope, plan_id)
        with pytest.raises(Conflict, match="Requeue it"):
            await commands.retry_plan(scope, plan_id)


async def test_a_hook_that_fails_at_every_end_does_not_keep_the_plan_from_being_put_aside(office: Office) -> None:
    async def hook(*_: object) -> None:
        raise ArithmeticError("poison in the hook")

    plan_id = await office.start(plan_of(Task(id="v", kind="value", value=1)))
    commands.end_hooks.append(hook)
    try:
        await fail(office, plan_id)
    finally:
        commands.end_hooks.remove(hook)
    state = await office.state(plan_id)
    assert state.status is PlanStatus.DEAD_LETTERED
    assert "poison in the hook" in (state.detail or "")


async def test_a_plan_that_waits_for_approval_is_asked_for_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(Task(id="v", kind="value", value=1))
    plan_id = await office.start(plan, ask=("it is risky",), approval_seconds=86_400)
    first = (await office.state(plan_id)).approval_id
    with monkeypatch.context() as patch:
        patch.setattr(Advance, "run", _poisoned)
        await fail(office, plan_id)
    async with office.scope() as scope:
        await giving_up.requeue_plan(scope, plan_id)
    state = await office.advance(plan_id)
    assert (state.status, state.started_at) == (PlanStatus.WAITING, None)
    assert state.approval_id not in (None, first)


async def test_the_deadline_begins_anew(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = office.clock.now() + timedelta(minutes=10)
    rest = Task(id="rest", kind="wait", wait=Waiting(seconds=86_400))
    plan_id = await office.start(plan_of(rest, deadline=deadline))
    await office.advance(plan_id)
    with monkeypatch.context() as patch:
        patch.setattr(Advance, "run", _poisoned)
        await fail(office, plan_id)
    assert office.clock.now() > deadline
    async with office.scope() as scope:
        await giving_up.requeue_plan(scope, plan_id)
    state = await office.advance(plan_id)
    assert (state.status, state.deadline) == (PlanStatus.RUNNING, office.clock.now() + timedelta(minutes=10))
    assert (await office.wake_ups(plan_id))["plan.advance"] >= 2, "the new deadline is kept, too"


# Over HTTP, with a server that has the bug


@pytest.fixture
async def poisoned(postgres: Cluster, model: ModelServer, tmp_path: Path) -> AsyncIterator[tuple[RunningServer, Path]]:
    file = tmp_path / "poison"
    settings: dict[str, Any] = {
        "OPENAI_BASE_URL": model.base_url,
        "OPENAI_API_KEY": "stub-key",
        "RETINUE_DEFAULT_MODEL": "openai:stub-0ms",
    } | planted("tests.planning.poison:every_look_fails", TEST_POISON=str(file))
    async with running_server(postgres, **settings) as server:
        yield server, file


async def test_a_dead_plan_shows_in_the_api_the_command_and_the_stream_and_goes_on(
    poisoned: tuple[RunningServer, Path],
    model: ModelServer,
    tag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server, file = poisoned
    ada = await server.person()
    fresh_home(tmp_path, monkeypatch)
    key = (await ada.call("POST", "/v1/my/keys", 201, json={"name": "cli"}))["key"]

    def plans(*words: str) -> Ended:
        access = {"RETINUE_SERVER": server.base_url, "RETINUE_API_KEY": key, "COLUMNS": "200"}
        return CommandLine(monkeypatch, capfd)("plans", *words, **access)

    worker = await ada.agent()
    async with ada.stream() as stream:
        plan = await start(
            ada,
            [
                task("done", worker, f"{tag}-done\n!hold {tag}-done\n!say done"),
                task("held", worker, f"{tag}-held\n!hold {tag}-held\n!say held at last"),
                task("last", worker, f"{tag}-last\n!say last", "done", "held"),
            ],
        )
        await model.wait_for_requests(1, contains=f"{tag}-done")
        await model.wait_for_requests(1, contains=f"{tag}-held")
        file.touch()
        model.release(f"{tag}-done")  # its end has the plan looked at
        dead = await until(ada, plan, "dead_lettered")
        seen = [await _next(stream, plan["plan_id"], "run_failed")]
    assert dead["error"]["kind"] == "dead_letter"
    assert "ArithmeticError: poison in the plan" in dead["error"]["detail"]
    assert (seen[0]["status"], seen[0]["attempts"]) == ("dead_lettered", LOOKS)
    page = await ada.call("GET", "/v1/my/plans?status=dead_lettered")
    assert [one["plan_id"] for one in page["items"]] == [plan["plan_id"]]
    held = nodes(dead)["held"]["run_id"]
    assert (await ada.until(held))["status"] == "cancelled"
    refused = await ada.call("POST", f"/v1/my/plans/{plan['plan_id']}/retry", 409)
    assert "Requeue it" in refused["detail"]

    shown = plans("show", plan["plan_id"])
    assert (shown.code, "poison in the plan" in shown.out, "dead_lettered" in shown.out) == (0, True, True)
    listed = plans("list", "--status", "dead_lettered", "--json").json()
    assert [one["plan_id"] for one in listed["items"]] == [plan["plan_id"]]
    file.unlink()
    model.release(f"{tag}-held")
    ended = plans("requeue", plan["plan_id"])
    assert (ended.code, ended.out) == (0, "The plan is running again.\n"), ended.err
    graph = await until(ada, plan, "completed")
    assert graph["output"] == {"done": "done", "held": "held at last", "last": "last"}
    asked = [one.user for one in model.requests if f"{tag}-done" in one.user and f"{tag}-last" not in one.user]
    assert len(asked) == 1, "what was done is not done again"
    ended = plans("requeue", plan["plan_id"])
    assert (ended.code, "only dead letters" in ended.err) == (1, True)


async def _next(stream: AsyncIterator[dict[str, Any]], plan_id: str, name: str) -> dict[str, Any]:
    async for one in stream:
        payload = one["data"].get("payload") or {}
        if one["event"] == name and payload.get("plan_id") == plan_id:
            found: dict[str, Any] = payload
            return found
    raise AssertionError("the stream ended")
