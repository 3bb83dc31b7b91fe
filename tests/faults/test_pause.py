"""Fault 7: a worker is stopped (SIGSTOP) for longer than the heartbeat allows, then goes on."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.effects import ALLOWED, TOOLS, effect_settings, effects, problems
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Process, running_server
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
            file, OPENAI_BASE_URL=model.base_url, RETINUE_BEAT_SECONDS="0.2", RETINUE_DEAD_AFTER_SECONDS="1"
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
    assert after["run"]["status"] == "completed"
    assert problems(file, {run_id: events}) == []
    assert sum(effects(file).values()) == 1
    activations = [event["data"]["worker_id"] for event in events if event["type"] == "run.activated"]
    assert len(activations) == 2
    assert len(set(activations)) == 2
