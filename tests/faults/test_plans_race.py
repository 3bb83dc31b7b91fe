"""Races over plans: people, clocks and stops meet at one plan. Each ends in a named state, and nothing hangs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.faults.mutants import planted
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer, Step, ToolCall
from tests.support.running import ENDED, Person, RunningServer, running_server

PRICED = "openai:gpt-4o-mini"  # 0.15 and 0.60 dollars for a million tokens
ROUNDS = 25


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as found:
        yield found


@pytest.fixture(scope="module")
async def server(postgres: Cluster, model: ModelServer) -> AsyncIterator[RunningServer]:
    settings: dict[str, Any] = {
        "OPENAI_BASE_URL": model.base_url,
        "OPENAI_API_KEY": "stub-key",
        "RETINUE_BEAT_SECONDS": "0.3",
    }
    async with running_server(postgres, **settings) as found:
        yield found


@pytest.fixture
async def ada(server: RunningServer) -> Person:
    return await server.person()


@pytest.fixture
def tag() -> str:
    return f"tag{uuid4().hex[:10]}"


def task(task_id: str, agent: dict[str, Any], says: str, *depends_on: str, **more: Any) -> dict[str, Any]:
    return {"id": task_id, "agent": agent["name"], "instructions": says, "depends_on": list(depends_on), **more}


async def start(person: Person, *tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"title": "a plan", "tasks": list(tasks), **more}
    found: dict[str, Any] = await person.call("POST", "/v1/my/plans", 202, json=body)
    return found


async def until(person: Person, plan: dict[str, Any], seconds: float = 30) -> dict[str, Any]:
    """Wait until a plan has ended."""
    async with asyncio.timeout(seconds):
        while True:
            graph: dict[str, Any] = await person.call("GET", f"/v1/my/plans/{plan['plan_id']}")
            if graph["status"] in ("completed", "failed", "cancelled"):
                return graph
            await asyncio.sleep(0.02)


def errors(graph: dict[str, Any]) -> dict[str, Any]:
    return {node["id"]: node["error"] and node["error"]["kind"] for node in graph["nodes"]}


async def at_once(*requests: tuple[Person, str, Any], apart: float = 0.0) -> list[int]:
    """Send requests, each by somebody and ``apart`` seconds after the one before; return their answers' statuses."""

    async def send(place: int, person: Person, path: str, body: Any) -> httpx.Response:
        await asyncio.sleep(place * apart)
        return await person.client.post(path, json=body)

    answers = await asyncio.gather(*(send(place, *one) for place, one in enumerate(requests)))
    return [answer.status_code for answer in answers]


async def nothing_left(person: Person, plans: Sequence[dict[str, Any]], seconds: float = 15) -> None:
    """Hold everything below ended plans against their ends: no run goes on, no question is open.

    Raises:
        TimeoutError: something does.
    """
    mine = {plan["plan_id"] for plan in plans}

    async def open_ones() -> list[Any]:
        runs = (await person.call("GET", "/v1/my/runs?limit=200"))["items"]
        left = [one for one in runs if one["parent"] and one["parent"]["id"] in mine and one["status"] not in ENDED]
        return left + [one for one in await person.approvals() if one["plan_id"] in mine]

    async with asyncio.timeout(seconds):
        while await open_ones():  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.05)


async def question_of(person: Person, plan: dict[str, Any]) -> str:
    """Wait for a plan's question and return its id."""
    async with asyncio.timeout(20):
        while True:
            for one in await person.approvals():
                if one["plan_id"] == plan["plan_id"]:
                    return str(one["approval_id"])
            await asyncio.sleep(0.01)


async def _facts(person: Person, plan: dict[str, Any]) -> Counter[str]:
    page = await person.call("GET", f"/v1/my/plans/{plan['plan_id']}/events?limit=200")
    return Counter(one["type"] for one in page["items"])


# Two people decide one plan


@pytest.mark.fault
async def test_of_two_people_who_decide_one_plan_one_decides(server: RunningServer, ada: Person) -> None:
    bob, org = await server.person("bob"), await ada.call("POST", "/v1/tenants", 201, json={"name": "org"})
    member = {"user_id": bob.account["user_id"], "role": "admin"}
    await ada.call("PUT", f"/v1/tenants/{org['tenant_id']}/members", json=member)
    for person in (ada, bob):
        person.client.headers["Retinue-Tenant"] = org["tenant_id"]
    agent = await ada.agent()
    ends: Counter[str] = Counter()
    plans = []
    for number in range(ROUNDS):
        plan = await start(ada, task("a", agent, "!say a"), task("b", agent, "!say b", "a"), approval=True)
        path = f"/v1/my/approvals/{plan['approval_id']}/confirm"
        rulings = [(ada, path, {"decision": "approve"}), (bob, path, {"decision": "reject"})]
        statuses = await at_once(*rulings[:: 1 if number % 2 else -1])
        assert sorted(statuses) == [200, 409], statuses
        graph = await until(ada, plan)
        facts = await _facts(ada, plan)
        assert facts["plan.decided"] == 1
        if graph["status"] == "completed":
            assert (facts["task.started"], facts["task.completed"]) == (2, 2)
        else:
            assert (graph["status"], graph["error"]["kind"], facts["task.started"]) == ("failed", "declined", 0)
        ends[graph["status"]] += 1
        plans.append(plan)
    assert set(ends) == {"completed", "failed"}, f"{ends}: only one of the two was ever first"
    await nothing_left(ada, plans)


# Approve, cancel, and the clock


@pytest.mark.fault
async def test_approve_and_cancel_at_once(ada: Person) -> None:
    """Whoever is first: a cancelled plan does nothing more, and an approval that came too late is refused."""
    agent = await ada.agent()
    plans, seen = [], Counter[tuple[int, ...]]()
    for number in range(ROUNDS):
        plan = await start(ada, task("a", agent, "!say a"), task("b", agent, "!say b", "a"), approval=True)
        approve = (ada, f"/v1/my/approvals/{plan['approval_id']}/confirm", {"decision": "approve"})
        cancel = (ada, f"/v1/my/plans/{plan['plan_id']}/cancel", {"reason": "race"})
        both = [approve, cancel] if number % 2 else [cancel, approve]
        found = dict(zip([one[1] for one in both], await at_once(*both, apart=number // 2 % 6 * 0.004), strict=True))
        statuses = (found[approve[1]], found[cancel[1]])
        seen[statuses] += 1
        # Cancelled after or before the approval; or so late that the plan was through.
        assert statuses in {(200, 202), (409, 202), (200, 409)}, statuses
        graph = await until(ada, plan)
        assert graph["status"] == ("completed" if statuses[1] == 409 else "cancelled")
        facts = await _facts(ada, plan)
        assert facts["plan.cancelled"] + facts["plan.completed"] == 1
        plans.append(plan)
    assert len(seen) > 1, f"{seen}: never a race"
    await nothing_left(ada, plans)


@pytest.mark.fault
async def test_an_answer_a_cancellation_and_the_end_of_the_time_at_once(ada: Person) -> None:
    agent = await ada.agent()
    deadline = 1.0

    async def one(number: int) -> tuple[dict[str, Any], list[int]]:
        question = {"text": "Go on?", "seconds": deadline}
        ask = {"id": "ask", "kind": "approval", "question": question}
        plan = await start(ada, ask, task("then", agent, "!say then", "ask"))
        begun = asyncio.get_running_loop().time()
        path = f"/v1/my/approvals/{await question_of(ada, plan)}/confirm"
        passed = asyncio.get_running_loop().time() - begun
        await asyncio.sleep(max(0.0, deadline + (number % 7 - 3) * 0.02 - passed))
        requests: list[tuple[Person, str, Any]] = [(ada, path, {"decision": "approve"})]
        if number % 2:
            requests.append((ada, f"/v1/my/plans/{plan['plan_id']}/cancel", {"reason": "race"}))
        return plan, await at_once(*requests)

    found = await asyncio.gather(*(one(number) for number in range(ROUNDS)))
    ends: Counter[tuple[str, Any]] = Counter()
    for plan, statuses in found:
        assert set(statuses) <= {200, 202, 409}, statuses
        graph = await until(ada, plan)
        asked = errors(graph)["ask"]
        ends[graph["status"], asked] += 1
        facts = await _facts(ada, plan)
        assert sum(facts[one] for one in ("plan.completed", "plan.failed", "plan.cancelled")) == 1
        if graph["status"] == "completed":
            assert (statuses[0], asked) == (200, None)
        elif graph["status"] == "failed":
            assert asked == "expired"
            assert statuses[0] == 409
        else:
            assert statuses[1] == 202
    assert len(ends) > 1, f"{ends}: never a race"
    await nothing_left(ada, [plan for plan, _ in found])


@pytest.mark.fault
async def test_a_plan_is_approved_its_run_cancelled_and_its_time_up_at_once(
    ada: Person, model: ModelServer, tag: str
) -> None:
    """The plan of a message: locks are taken from the run down to the plan, and from the plan down to its tasks."""
    await ada.call("PUT", "/v1/my/planning/policy", headers={"If-Match": '"0"'}, json={"approval_seconds": 1})
    given = {"title": "t", "agent": "worker", "instructions": "do it", "risk": "high"}
    tasks = [{**given, "id": "a"}, {**given, "id": "b"}, {**given, "id": "c", "depends_on": ["a", "b"]}]
    planned = Step(tool_calls=(ToolCall("plan", {"tasks": tasks}),))
    model.script(planned, Step(text="That is what came of it."), model=f"lead-{tag}", by="turn", then="repeat")
    limits = {"concurrency": 50, "queue": 200}
    await ada.agent("orchestrator", model=f"openai:lead-{tag}", tools=["plan"], limits=limits)
    await ada.agent("worker", model="openai:stub-0ms", limits=limits)

    async def one(number: int) -> tuple[str, str, list[int]]:
        session = str(uuid4())
        path = f"/v1/my/chat/{session}/messages"
        run_id = (await ada.call("POST", path, 202, json={"content": f"number {number}"}))["run_id"]
        await ada.until(run_id, "waiting")
        plan = (await ada.call("GET", f"/v1/my/plans?session={session}"))["items"][0]
        # Some long before the time is up, some just then; some cancel the run, some its plan.
        await asyncio.sleep((0.0, 0.1, 0.8, 0.9, 1.0)[number % 5])
        approve = (ada, f"/v1/my/approvals/{plan['approval_id']}/confirm", {"decision": "approve"})
        what = f"runs/{run_id}" if number % 2 else f"plans/{plan['plan_id']}"
        cancel: tuple[Person, str, Any] = (ada, f"/v1/my/{what}/cancel", {"reason": "race"})
        return run_id, plan["plan_id"], await at_once(approve, cancel)

    found = await asyncio.gather(*(one(number) for number in range(ROUNDS)))
    ends: Counter[tuple[str, str]] = Counter()
    for run_id, plan_id, statuses in found:
        assert set(statuses) <= {200, 202, 409}, statuses
        run = await ada.until(run_id)
        graph = await until(ada, {"plan_id": plan_id})
        ends[run["status"], graph["status"]] += 1
        facts = await _facts(ada, graph)
        assert sum(facts[one] for one in ("plan.completed", "plan.failed", "plan.cancelled")) == 1
        assert run["status"] in ("completed", "cancelled"), run["error"]
        if run["status"] == "cancelled":
            assert statuses[1] == 202
    assert len(ends) > 1, f"{ends}: never a race"
    await nothing_left(ada, [{"plan_id": plan_id} for _, plan_id, _ in found])


# What changes around a plan while it runs


@pytest.mark.fault
async def test_agents_are_deleted_while_their_plans_begin_tasks(ada: Person) -> None:
    """The next task begins just when its agent goes: it is done, cancelled, or has no agent; the plan ends."""
    kinds: Counter[str | None] = Counter()
    plans = []
    for number in range(ROUNDS):
        stays, goes = await ada.agent(), await ada.agent()
        tasks = [task("first", stays, "!say first"), task("then", goes, "!say then", "first")]
        plan = await start(ada, *tasks, task("last", stays, "!say last", "then", runs_on="end"))
        await asyncio.sleep(number * 0.004)
        await ada.call("DELETE", f"/v1/my/agents/{goes['agent_id']}?force=true", 204)
        graph = await until(ada, plan)
        found = errors(graph)
        assert (found["first"], found["last"]) == (None, None), found
        assert found["then"] in (None, "cancelled", "agent_gone"), found
        kinds[found["then"]] += 1
        plans.append(plan)
    assert len(kinds) > 1, f"{kinds}: never a race"
    await nothing_left(ada, plans)


@pytest.mark.fault
async def test_an_emergency_stop_in_the_middle_of_plans(ada: Person, model: ModelServer, tag: str) -> None:
    agent = await ada.agent()
    plans = [
        await start(
            ada,
            task("a", agent, f"{tag}-a\n!delay 0.1\n!say a"),
            task("b", agent, f"{tag}-b\n!delay 0.1\n!say b", "a"),
            task("c", agent, f"{tag}-c\n!delay 0.1\n!say c", "a", "b"),
        )
        for _ in range(8)
    ]
    await model.wait_for_requests(4, contains=f"{tag}-b")
    await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/stop", json={"reason": "fire"})
    await asyncio.sleep(1.0)
    asked = len(model.requests)
    before = [await ada.call("GET", f"/v1/my/plans/{plan['plan_id']}") for plan in plans]
    await asyncio.sleep(1.0)
    assert len(model.requests) == asked, "a model is asked during the emergency stop"
    assert any(graph["status"] == "running" for graph in before), "the stop came too late to show anything"
    await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/resume")
    for plan in plans:
        graph = await until(ada, plan)
        assert (graph["status"], graph["missing"]) == ("completed", []), errors(graph)
        facts = await _facts(ada, plan)
        assert (facts["task.started"], facts["task.completed"]) == (3, 3)


@pytest.mark.fault
async def test_a_cancelled_plan_stays_cancelled_through_an_emergency_stop(
    ada: Person, model: ModelServer, tag: str
) -> None:
    agent = await ada.agent()
    plan = await start(ada, task("a", agent, f"{tag}-a\n!hold {tag}"), task("b", agent, "!say b", "a"))
    await model.wait_for_requests(1, contains=f"{tag}-a")
    await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/stop", json={"reason": "fire"})
    await ada.call("POST", f"/v1/my/plans/{plan['plan_id']}/cancel", 202, json={"reason": "not needed"})
    await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/resume")
    model.release(tag)
    assert (await until(ada, plan))["status"] == "cancelled"
    await nothing_left(ada, [plan])


@pytest.mark.fault
async def test_a_budget_that_is_used_up_in_the_middle_of_a_plan(ada: Person) -> None:
    agent = await ada.agent(model=PRICED, max_tokens=100)
    path = f"/v1/tenants/{ada.tenant_id}/budget"
    await ada.call("PUT", path, json={"limit": "0.0010", "period": "total"})
    spends = "!usage 2000 500\n!say spent"  # 0.0006 dollars
    tasks = [task(one, agent, spends, *before) for one, before in (("a", ""), ("b", "a"), ("c", "b"), ("d", "c"))]
    plan = await start(ada, *tasks)
    graph = await until(ada, plan)
    found = errors(graph)
    assert (found["a"], found["d"]) == (None, None), found
    # Refused before it began, or before its model was asked.
    assert "budget" in {found["b"], found["c"]}, found
    assert graph["status"] == "completed"
    assert "d" in graph["missing"]
    view = await ada.call("GET", path)
    assert view["reserved"] == "0"
    await ada.call("PUT", path, json={"limit": "1", "period": "total"})
    await ada.call("POST", f"/v1/my/plans/{plan['plan_id']}/retry", 202)
    graph = await until(ada, plan)
    assert (graph["status"], graph["missing"]) == ("completed", [])


@pytest.mark.fault
async def test_the_budget_of_a_plan_is_not_exceeded(ada: Person) -> None:
    agent = await ada.agent(model=PRICED, max_tokens=100)
    spends = "!usage 2000 500\n!say spent"
    chain = [task(f"t{n}", agent, spends, *([f"t{n - 1}"] if n else [])) for n in range(5)]
    plan = await start(ada, *chain, budget="0.0012")
    graph = await until(ada, plan)
    assert (graph["status"], graph["error"]["kind"]) == ("failed", "budget")
    assert [node["status"] for node in graph["nodes"]] == ["completed"] * 2 + ["skipped"] * 3, (
        "two cost as much as all may"
    )
    await nothing_left(ada, [plan])


# The planted bugs


@pytest.mark.fault
@pytest.mark.parametrize("mutant", ["leaves_below", "decides_blindly"])
async def test_a_race_that_goes_wrong_is_seen(postgres: Cluster, model: ModelServer, mutant: str) -> None:
    settings: dict[str, Any] = {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "stub-key"} | planted(mutant)
    async with running_server(postgres, **settings) as server:
        ada = await server.person()
        if mutant == "decides_blindly":
            with pytest.raises(AssertionError):
                await test_of_two_people_who_decide_one_plan_one_decides(server, ada)
            return
        agent = await ada.agent()
        plan = await start(
            ada, {"id": "ask", "kind": "approval", "question": {"text": "Go on?"}}, task("a", agent, "x")
        )
        await question_of(ada, plan)
        await ada.call("POST", f"/v1/my/plans/{plan['plan_id']}/cancel", 202)
        with pytest.raises(TimeoutError):
            await nothing_left(ada, [plan], seconds=2)
