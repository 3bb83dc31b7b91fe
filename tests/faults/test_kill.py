"""Fault 1: workers are killed at random moments; every accepted run ends, nothing is lost or done twice.

TEST_FAULT_KILLS sets how many are killed, RETINUE_TEST_SEED when and which.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.effects import ALLOWED, PLUGIN, TOOLS, effect_settings, effects, problems
from tests.faults.mutants import planted
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import ENDED, Person, Process, RunningServer, running_server
from tests.support.waiting import holds

SEED = int(os.environ.get("RETINUE_TEST_SEED", "20261120"))
KILLS = int(os.environ.get("TEST_FAULT_KILLS", "20"))  # 100 take about two and a half minutes
WORKERS = 3
CLIENTS = 12

TASK = """!tool note_once {"text": "a"}
!tool note_blindly {"text": "b"}
!tool note_once {"text": "c"}"""


Kills = Callable[[RunningServer], Awaitable[None]]
"""Kills workers, and starts others in their place, until it has killed enough."""


async def _storm(
    server: RunningServer,
    ada: Person,
    agents: list[dict[str, Any]],
    kills: Kills,
    *,
    task: str = TASK,
    clients: int = CLIENTS,
    seconds: float = 60,
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Keep runs going while workers are killed; return the events of all runs, and what kept a run from its end."""
    accepted: list[str] = []
    stuck: list[str] = []

    async def keep_going(agent: dict[str, Any]) -> None:
        while not killing.done():
            run_id = (await ada.send(agent, task))["run_id"]
            accepted.append(run_id)
            stuck.extend(await _settle(ada, run_id, seconds))

    killing = asyncio.ensure_future(kills(server))
    await asyncio.gather(*(keep_going(agents[n % len(agents)]) for n in range(clients)))
    await killing
    return {run_id: await ada.events(run_id) for run_id in accepted}, stuck


async def _at_random(server: RunningServer) -> None:
    """Kill one of several workers at a random moment, again and again."""
    dice = random.Random(SEED)
    for _ in range(KILLS):
        await asyncio.sleep(dice.uniform(0.05, 0.5))
        victim = dice.choice(await _several_up(server))
        await asyncio.to_thread(victim.kill)
        server.workers.remove(victim)
        server.start_worker()


async def _several_up(server: RunningServer) -> list[Process]:
    """Wait until two workers at least are up, and return those that are."""

    def up() -> list[Process]:
        return [worker for worker in server.workers if "is ready" in worker.output()]

    await holds(lambda: len(up()) > 1)
    return up()


async def _settle(ada: Person, run_id: str, seconds: float) -> list[str]:
    """Wait for a run's end; say of an unknown effect what the file says (here: that it happened).

    Returns:
        what is wrong with the end: it did not come within ``seconds``, or is not the right one.
    """
    said: set[str] = set()

    def has_news(run: dict[str, Any]) -> bool:
        return run["status"] in ENDED or any(wait["call_id"] not in said for wait in run["waiting_on"])

    try:
        while (run := await ada.until(run_id, has_news, seconds=seconds))["status"] == "waiting":
            for wait in run["waiting_on"]:
                assert wait["kind"] == "reconcile", run
                body = {"call_id": wait["call_id"], "outcome": "happened", "result": "noted"}
                await ada.call("POST", f"/v1/my/runs/{run_id}/reconcile", json=body)
                said.add(wait["call_id"])
    except AssertionError as late:
        return [f"run {run_id}: {late}"]
    return [] if run["status"] == "completed" else [f"run {run_id}: {run['status']} ({run['error']})"]


@pytest.mark.fault
@pytest.mark.timeout(240)
async def test_killed_workers_lose_and_repeat_nothing(postgres: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "effects"
    async with ModelServer() as model:
        settings = effect_settings(file, pause=0.01, OPENAI_BASE_URL=model.base_url, RETINUE_RUN_ATTEMPTS="50")
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
            events, stuck = await _storm(server, ada, agents, _at_random)
    assert stuck + problems(file, events) == []
    activations = sum(event["type"] == "run.activated" for run in events.values() for event in run)
    assert activations > len(events) + KILLS // 4, "hardly any kill hit a run: the test shows nothing"


# The planted bugs: the same storm with one client and one worker, which dies between an effect and its result

EFFECT = '!tool note_blindly {"text": "b"}'
PLANTED = {
    "acts_unannounced": "2 times: blind ",
    "forgets_steps": "step 1 recorded twice",
    "leaves_the_dead": "still running",
}


@pytest.fixture(scope="module")
async def stage(
    postgres: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[RunningServer, Person]]:
    """A server without a worker, and somebody."""
    async with ModelServer() as model:
        settings = effect_settings(
            tmp_path_factory.mktemp("stage") / "effects", OPENAI_BASE_URL=model.base_url, RETINUE_BEAT_SECONDS="0.2"
        )
        async with running_server(postgres, worker=False, **settings) as server:
            yield server, await server.person()


async def _damage(server: RunningServer, ada: Person, file: Path, mutant: str, seconds: float) -> str:
    """Return what the checks of the storm say when the workers have a bug."""
    settings = effect_settings(file) | planted(mutant, path=[PLUGIN])

    async def in_the_middle(server: RunningServer) -> None:
        victim = server.start_worker(**settings | {"TEST_EFFECTS_PAUSE": "60"})
        await holds(lambda: any(line.startswith("blind") for line in effects(file)))
        await asyncio.to_thread(victim.kill)
        server.start_worker(**settings)

    agent = await ada.agent(model="openai:stub-0ms", tools=TOOLS, tool_policy=ALLOWED)
    try:
        events, stuck = await _storm(server, ada, [agent], in_the_middle, task=EFFECT, clients=1, seconds=seconds)
    finally:
        await server.kill_workers()
    return "\n".join(stuck + problems(file, events))


@pytest.mark.fault
@pytest.mark.parametrize("mutant", sorted(PLANTED))
async def test_a_takeover_with_a_bug_is_seen(stage: tuple[RunningServer, Person], tmp_path: Path, mutant: str) -> None:
    seconds = 6 if mutant == "leaves_the_dead" else 60  # nobody waits for what never ends
    assert PLANTED[mutant] in await _damage(*stage, tmp_path / "effects", mutant, seconds)


@pytest.mark.fault
async def test_a_takeover_without_a_bug_leaves_nothing_to_see(
    stage: tuple[RunningServer, Person], tmp_path: Path
) -> None:
    assert await _damage(*stage, tmp_path / "effects", "", seconds=60) == ""


def test_the_check_sees_a_lost_and_a_repeated_effect(tmp_path: Path) -> None:
    file = tmp_path / "effects"
    done = [
        {"type": "tool.completed", "data": {"call_id": "c1", "tool": "note_once"}},
        {"type": "model.responded", "data": {"step": 1}},
    ]
    file.write_text("once r1:c1 a\n")
    assert problems(file, {"r1": done}) == []
    file.write_text("once r1:c1 a\nonce r1:c1 a\n")
    assert problems(file, {"r1": done}) == ["2 times: once r1:c1 a"]
    file.write_text("")
    assert problems(file, {"r1": done}) == ["run r1: r1:c1 is recorded as done and did not happen"]
    file.write_text("once r1:c1 a\n")
    assert len(problems(file, {"r1": done + done})) == 2
