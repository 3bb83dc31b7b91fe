"""Fault 7: a worker is stopped (SIGSTOP) for longer than the heartbeat allows, then goes on."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.effects import ALLOWED, TOOLS, effect_settings, effects, problems
from tests.faults.mutants import planted
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer, Step
from tests.support.running import Person, Process, RunningServer, running_server
from tests.support.waiting import holds

TASK = """!hold gate
!tool note_blindly {"text": "b"}
!say done"""


async def _until_logged(process: Process, text: str) -> None:
    await holds(lambda: text in process.output())


@pytest.mark.fault
async def test_a_worker_that_comes_back_has_lost_its_run(postgres: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "effects"
    async with ModelServer() as model:
        settings = effect_settings(
            file, OPENAI_BASE_URL=model.base_url, RETINUE_BEAT_SECONDS="0.2", RETINUE_DEAD_AFTER_SECONDS="4"
        )
        async with running_server(postgres, worker=False, **settings) as server:
            ada = await server.person()
            agent = await ada.agent(model="openai:stub-0ms", tools=TOOLS, tool_policy=ALLOWED)
            paused = server.start_worker()
            await _until_logged(paused, "is ready")
            run_id = (await ada.send(agent, TASK))["run_id"]
            await holds(lambda: len(model.requests) == 1)
            paused.signal(signal.SIGSTOP)
            other = server.start_worker()
            await _until_logged(other, "is ready")
            await holds(lambda: len(model.requests) == 2)
            # Both have asked the model; the stopped one hears the answer when it goes on.
            paused.signal(signal.SIGCONT)
            model.release("gate")
            run = await ada.until(run_id)
            await _until_logged(paused, "declared dead")
            # The one that came back is a worker again: it takes work under a new name.
            await asyncio.to_thread(other.stop)
            after = await ada.ask(agent, "hello")
            events = await ada.events(run_id)
    assert run["status"] == "completed"
    assert late_appends(events) == []
    assert after["run"]["status"] == "completed"
    assert problems(file, {run_id: events}) == []
    assert sum(effects(file).values()) == 1
    activations = [event["data"]["worker_id"] for event in events if event["type"] == "run.activated"]
    assert len(activations) == 2
    assert len(set(activations)) == 2


# Only the fence: the worker that comes back hears its answer first, and no beat tells it that it was given up


@dataclass(frozen=True)
class Stage:
    """A server without a worker, its model, and somebody."""

    server: RunningServer
    model: ModelServer
    ada: Person


@pytest.fixture(scope="module")
async def stage(postgres: Cluster) -> AsyncIterator[Stage]:
    async with (
        ModelServer() as model,
        # The second worker takes over, not the server, which would not wait for it.
        running_server(
            postgres,
            worker=False,
            OPENAI_BASE_URL=model.base_url,
            RETINUE_BEAT_SECONDS="0.2",
            RETINUE_DEAD_AFTER_SECONDS="60",
        ) as server,
    ):
        yield Stage(server, model, await server.person())


async def _late_answer(stage: Stage, folder: Path, mutant: str) -> tuple[list[str], list[str]]:
    """Let a worker hear the model's answer when another has its run, and both go on.

    Returns:
        what became of the late worker's records, and what is wrong with the run.
    """
    server, model, ada = stage.server, stage.model, stage.ada
    records, bug = folder / "records", planted(mutant)
    agent = await ada.agent(model="openai:stub-0ms")
    model.reset()
    model.script(Step(text="too late", hold="late"), Step(text="in time", hold="soon"))
    try:
        late = server.start_worker(**bug, TEST_RECORDS=str(records), RETINUE_BEAT_SECONDS="60")
        await _until_logged(late, "is ready")
        run_id = (await ada.send(agent, "hello"))["run_id"]
        await holds(lambda: len(model.requests) == 1)
        late.signal(signal.SIGSTOP)
        server.start_worker(**bug, RETINUE_DEAD_AFTER_SECONDS="1")
        await holds(lambda: len(model.requests) == 2)
        late.signal(signal.SIGCONT)
        model.release("late")
        await holds(lambda: records.exists() and records.read_text() != "")
        model.release("soon")
        await ada.until(run_id)
    finally:
        await server.kill_workers()
    events = await ada.events(run_id)
    return records.read_text().split(), late_appends(events)


def late_appends(events: list[dict[str, Any]]) -> list[str]:
    """Return what a worker recorded after another one had taken its run over, or that came twice because of it."""
    steps = [event["data"]["step"] for event in events if event["type"] == "model.responded"]
    found = [f"step {step} recorded {count} times" for step, count in Counter(steps).items() if count > 1]
    ends = [event["type"] for event in events if event["type"] == "run.completed"]
    if len(ends) != 1 or events[-1]["type"] != "run.completed":
        found.append(f"the end of the run: {[event['type'] for event in events]}")
    return found + [f"recorded: {event['data']}" for event in events if "too late" in str(event["data"])]


@pytest.mark.fault
async def test_late_appends_are_refused(stage: Stage, tmp_path: Path) -> None:
    assert await _late_answer(stage, tmp_path, "") == (["refused"], [])


@pytest.mark.fault
@pytest.mark.parametrize("mutant", ["ignores_version", "ignores_epoch"])
async def test_a_late_append_that_is_taken_is_seen(stage: Stage, tmp_path: Path, mutant: str) -> None:
    records, found = await _late_answer(stage, tmp_path, mutant)
    assert records[0] == "written"
    assert any(one.startswith("recorded: ") for one in found), found
