"""Plans under races and kills, on several processes: one end each, nothing left open, nothing done twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.planning.support import events, look, start, task, until
from tests.story.support import untruths
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer, running_server

ROUNDS = 24
ENDS = {"plan.completed", "plan.failed", "plan.cancelled"}


@pytest.fixture(scope="module")
async def crowd(postgres: Cluster, model: ModelServer) -> AsyncIterator[RunningServer]:
    """A server whose plans are advanced by three processes."""
    settings: dict[str, Any] = {
        "OPENAI_BASE_URL": model.base_url,
        "OPENAI_API_KEY": "stub-key",
        "RETINUE_DEFAULT_MODEL": "openai:stub-0ms",
        "RETINUE_BEAT_SECONDS": "0.2",
        "RETINUE_DEAD_AFTER_SECONDS": "1",
    }
    async with running_server(postgres, **settings) as found:
        found.start_worker()
        found.start_worker()
        yield found


@pytest.fixture
async def ada(crowd: RunningServer) -> Person:
    return await crowd.person()


async def check_end(person: Person, plan: dict[str, Any]) -> str:
    """Wait for a plan's end; hold its events and its runs against what must be true; return how it ended."""
    graph = await until(person, plan)
    happened = [one["type"] for one in await events(person, plan)]
    assert sum(one in ENDS for one in happened) == 1, happened
    assert happened[-1] in ENDS
    done = Counter(one["data"]["task_id"] for one in await events(person, plan) if one["type"] == "task.completed")
    assert all(count == 1 for count in done.values()), done
    for node in graph["nodes"]:
        if node["run_id"] is not None:
            await person.until(node["run_id"])
    return str(graph["status"])


async def test_cancel_meets_the_end_and_one_of_them_is_first(crowd: RunningServer, ada: Person) -> None:
    agent = await ada.agent(limits={"concurrency": 50})
    chance = random.Random(7)

    async def race(delay: float) -> tuple[str, int]:
        plan = await start(ada, [task("a", agent, "!say a"), task("b", agent, "!say b", "a")])
        await asyncio.sleep(delay)
        answer = await ada.client.post(f"/v1/my/plans/{plan['plan_id']}/cancel")
        return await check_end(ada, plan), answer.status_code

    told = await asyncio.gather(*(race(chance.random() * 0.5) for _ in range(ROUNDS)))
    assert set(told) <= {("cancelled", 202), ("completed", 409)}
    assert await untruths(crowd) == []


async def test_two_people_decide_one_plan_at_once_and_one_of_them_does(crowd: RunningServer, ada: Person) -> None:
    agent = await ada.agent(limits={"concurrency": 50})

    async def race() -> None:
        plan = await start(ada, [task("a", agent, "!say a")], approval=True)
        path = f"/v1/my/approvals/{plan['approval_id']}/confirm"
        edit = {"decision": "approve", "edited_arguments": {"tasks": [{"id": "a", "instructions": "!say edited"}]}}
        answers = await asyncio.gather(
            ada.client.post(path, json=edit),
            ada.client.post(path, json={"decision": "reject"}),
            ada.client.post(f"/v1/my/plans/{plan['plan_id']}/cancel"),
        )
        approve, reject, cancel = (one.status_code for one in answers)
        assert sorted([approve, reject]) in ([200, 409], [409, 409]), answers
        status = await check_end(ada, plan)
        assert (cancel == 202) == (status == "cancelled")
        if status == "completed":
            assert approve == 200
            assert (await look(ada, plan))["output"] == {"a": "edited"}
        if status == "failed":
            assert reject == 200

    await asyncio.gather(*(race() for _ in range(ROUNDS)))
    assert await untruths(crowd) == []


async def test_agents_are_deleted_while_their_plans_run(crowd: RunningServer, ada: Person) -> None:
    chance = random.Random(11)

    async def race(number: int, delay: float) -> None:
        stays, goes = await ada.agent(f"stays {number}"), await ada.agent(f"goes {number}", limits={"concurrency": 1})
        plan = await start(
            ada,
            [
                task("a", goes, "!say a"),
                task("b", goes, "!say b"),
                task("c", stays, "!say c"),
                task("d", goes, "!say d", "a", "c", runs_on="end"),
            ],
            on_failure=chance.choice(["continue", "stop"]),
        )
        await asyncio.sleep(delay)
        for _ in range(20):  # two transactions that wait for each other are told to try again
            answer = await ada.client.delete(f"/v1/my/agents/{goes['agent_id']}?force=true")
            if answer.status_code != 503:
                break
        assert answer.status_code == 204, answer.text
        await check_end(ada, plan)

    await asyncio.gather(*(race(number, chance.random() * 0.3) for number in range(12)))
    assert await untruths(crowd) == []


async def test_a_plan_goes_on_when_its_workers_are_killed_and_nothing_is_done_twice(
    postgres: Cluster, model: ModelServer, tag: str
) -> None:
    settings: dict[str, Any] = {
        "OPENAI_BASE_URL": model.base_url,
        "OPENAI_API_KEY": "stub-key",
        "RETINUE_DEFAULT_MODEL": "openai:stub-0ms",
        # Kills in quick succession take a run down again and again: that alone must not make it poison here.
        "RETINUE_RUN_ATTEMPTS": "50",
    }
    async with running_server(postgres, worker=False, **settings) as server:
        server.start_worker()
        ada = await server.person()
        agent = await ada.agent(limits={"concurrency": 10})
        tasks = [
            task(f"t{n}", agent, f"{tag}\n!delay 0.05\n!say {n}", *([f"t{n - 2}"] if n > 1 else [])) for n in range(12)
        ]
        plan = await start(ada, tasks)
        for _ in range(4):
            await asyncio.sleep(0.4)
            await server.kill_workers()
            server.start_worker()
        assert await check_end(ada, plan) == "completed"
        graph = await look(ada, plan)
        assert graph["output"] == {f"t{n}": str(n) for n in range(12)}
        started = Counter(one["data"]["task_id"] for one in await events(ada, plan) if one["type"] == "task.started")
        assert started == {f"t{n}": 1 for n in range(12)}
        assert len({node["run_id"] for node in graph["nodes"]}) == 12
        assert await untruths(server) == []
