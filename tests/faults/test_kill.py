"""Fault 1: workers are killed at random moments; every accepted run ends, nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.effects import ALLOWED, TOOLS, effect_settings, problems
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import ENDED, Person, Process, RunningServer, running_server
from tests.support.waiting import holds

SEED = int(os.environ.get("RETINUE_TEST_SEED", "20261120"))
KILLS = int(os.environ.get("TEST_FAULT_KILLS", "20"))  # 100 take about two minutes
WORKERS = 3
CLIENTS = 12

TASK = """!tool note_once {"text": "a"}
!tool note_blindly {"text": "b"}
!tool note_once {"text": "c"}"""


async def _storm(server: RunningServer, ada: Person, agents: list[dict[str, Any]]) -> list[str]:
    """Keep runs going while workers are killed; return the ids of all runs, which have ended."""
    dice = random.Random(SEED)
    accepted: list[str] = []

    async def kill() -> None:
        for _ in range(KILLS):
            await asyncio.sleep(dice.uniform(0.05, 0.5))
            victim = dice.choice(await _several_up(server))
            await asyncio.to_thread(victim.kill)
            server.workers.remove(victim)
            server.start_worker()

    async def keep_going(agent: dict[str, Any]) -> None:
        while not killing.done():
            run_id = (await ada.send(agent, TASK))["run_id"]
            accepted.append(run_id)
            await _settle(ada, run_id)

    killing = asyncio.create_task(kill())
    await asyncio.gather(*(keep_going(agents[n % len(agents)]) for n in range(CLIENTS)))
    await killing
    return accepted


async def _several_up(server: RunningServer) -> list[Process]:
    """Wait until two workers at least are up, and return those that are."""

    def up() -> list[Process]:
        return [worker for worker in server.workers if "is ready" in worker.output()]

    await holds(lambda: len(up()) > 1)
    return up()


async def _settle(ada: Person, run_id: str) -> None:
    """Wait for a run's end; say of an unknown effect what the file says (here: that it happened)."""
    said: set[str] = set()

    def has_news(run: dict[str, Any]) -> bool:
        return run["status"] in ENDED or any(wait["call_id"] not in said for wait in run["waiting_on"])

    while (run := await ada.until(run_id, has_news, seconds=60))["status"] == "waiting":
        for wait in run["waiting_on"]:
            assert wait["kind"] == "reconcile", run
            body = {"call_id": wait["call_id"], "outcome": "happened", "result": "noted"}
            await ada.call("POST", f"/v1/my/runs/{run_id}/reconcile", json=body)
            said.add(wait["call_id"])
    assert run["status"] == "completed", run


@pytest.mark.fault
@pytest.mark.timeout(240)
async def test_killed_workers_lose_and_repeat_nothing(postgres: Cluster, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    async with ModelServer() as model:
        settings = effect_settings(effects, pause=0.01, OPENAI_BASE_URL=model.base_url, RETINUE_RUN_ATTEMPTS="50")
        async with running_server(postgres, worker=False, **settings) as server:
            for _ in range(WORKERS):
                server.start_worker()
            ada = await server.person()
            agents = [
                await ada.agent(
                    model="openai:stub-0ms", tools=TOOLS, tool_policy=ALLOWED, limits={"concurrency": 20, "queue": 500}
                )
                for _ in range(3)
            ]
            accepted = await _storm(server, ada, agents)
            events = {run_id: await ada.events(run_id) for run_id in accepted}
    assert problems(effects, events) == []
    activations = sum(event["type"] == "run.activated" for run in events.values() for event in run)
    assert activations > len(accepted) + KILLS // 4, "hardly any kill hit a run: the test shows nothing"


def test_the_check_sees_a_lost_and_a_repeated_effect(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    done = [
        {"type": "tool.completed", "data": {"call_id": "c1", "tool": "note_once"}},
        {"type": "model.responded", "data": {"step": 1}},
    ]
    effects.write_text("once r1:c1 a\n")
    assert problems(effects, {"r1": done}) == []
    effects.write_text("once r1:c1 a\nonce r1:c1 a\n")
    assert problems(effects, {"r1": done}) == ["2 times: once r1:c1 a"]
    effects.write_text("")
    assert problems(effects, {"r1": done}) == ["run r1: r1:c1 is recorded as done and did not happen"]
    effects.write_text("once r1:c1 a\n")
    assert len(problems(effects, {"r1": done + done})) == 2
