"""Runs whose workers die: taken over, put aside when that helps nothing, and held where an effect is in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.effects import effect_settings
from tests.story.support import Story, kinds, messages, steps
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer, running_server

pytestmark = pytest.mark.fault

PLUGIN = Path(__file__).parent / "plugin"
DEADLY_TOOLS = ["look_and_die", "act_and_die"]
POLICY = {"act_and_die": "allow"}


@dataclass
class Ward(Story):
    """A server with workers of their own that die of some tools while ``deadly`` exists, and are replaced."""

    deadly: Path

    async def person_and_agent(self, **definition: Any) -> tuple[Person, dict[str, Any]]:
        ada = await self.server.person()
        return ada, await ada.agent(tools=DEADLY_TOOLS, tool_policy=POLICY, **definition)

    def acts(self, run_id: str) -> int:
        """Return how often ``act_and_die`` acted for a run."""
        return sum(run_id in line for line in self.effects.read_text().splitlines())


@pytest.fixture(scope="module")
async def ward(postgres: Cluster, model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    deadly = folder / "deadly"
    settings: dict[str, Any] = effect_settings(
        folder / "effects",
        TEST_DEADLY_FILE=str(deadly),
        OPENAI_BASE_URL=model.base_url,
        RETINUE_DEFAULT_MODEL="openai:stub-0ms",
        RETINUE_BEAT_SECONDS="0.2",
        RETINUE_DEAD_AFTER_SECONDS="1",
    )
    settings["PYTHONPATH"] = str(PLUGIN)
    async with running_server(postgres, worker=False, **settings) as server, _two_workers(server):
        yield Ward(server, model, folder / "effects", deadly)


@asynccontextmanager
async def _two_workers(server: RunningServer) -> AsyncIterator[None]:
    """Keep two workers going: who dies is replaced, as a service manager would do."""

    async def keep() -> None:
        while True:
            for worker in [one for one in server.workers if one.popen is not None and one.popen.poll() is not None]:
                server.workers.remove(worker)
            while len(server.workers) < 2:
                server.start_worker()
            await asyncio.sleep(0.1)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _dead_letters(person: Person) -> list[str]:
    page = await person.call("GET", "/v1/my/deadletters")
    return [one["run_id"] for one in page["items"]]


async def test_a_run_that_takes_down_worker_after_worker_is_put_aside(ward: Ward, tag: str) -> None:
    ada, agent = await ward.person_and_agent(limits={"concurrency": 1})
    ward.deadly.touch()
    poison = await ada.send(agent, f"!tool look_and_die {{}}\n!say survived {tag}")
    harmless = await ada.send(agent, f"!say harmless {tag}")
    run = await ada.until(poison["run_id"], seconds=60)
    assert (run["status"], run["attempts"]) == ("dead_lettered", 3)
    events = await ada.events(poison["run_id"])
    assert kinds(events).count("run.activated") >= 3, "a busy machine may take a living worker for dead"
    assert kinds(events)[-1] == "run.dead_lettered"
    assert (run["error"]["kind"], run["error"]["detail"]) == ("dead_letter", "its worker died each time")
    assert "put aside after 3 attempts" in (await messages(ada, poison["session_id"]))[-1]["content"]
    assert await _dead_letters(ada) == [poison["run_id"]]
    # The place in the lane was not lost with it.
    assert (await ada.until(harmless["run_id"]))["status"] == "completed"

    ward.deadly.unlink()
    await ada.call("POST", f"/v1/my/deadletters/{poison['run_id']}/requeue", 202)
    run = await ada.until(poison["run_id"])
    assert run["status"] == "completed"
    assert await _dead_letters(ada) == []
    assert [one.turn for one in ward.asked(f"survived {tag}")] == [0, 1], "the recorded model call was repeated"
    assert (await messages(ada, poison["session_id"]))[-1]["content"] == f"survived {tag}"


async def test_a_dead_letter_can_be_given_up(ward: Ward) -> None:
    ada, agent = await ward.person_and_agent()
    stranger = await ward.server.person()
    ward.deadly.touch()
    accepted = await ada.send(agent, "!tool look_and_die {}")
    await ada.until(accepted["run_id"], "dead_lettered", seconds=60)
    ward.deadly.unlink()
    path = f"/v1/my/deadletters/{accepted['run_id']}"
    await stranger.call("DELETE", path, 404)
    await stranger.call("POST", f"{path}/requeue", 404)
    await ada.call("DELETE", path, 204)
    assert await _dead_letters(ada) == []
    assert (await ada.run(accepted["run_id"]))["status"] == "cancelled"
    assert kinds(await ada.events(accepted["run_id"]))[-1] == "run.dropped"
    await ada.call("DELETE", path, 409)


async def _in_doubt(ward: Ward, ada: Person, agent: dict[str, Any], text: str) -> tuple[str, str]:
    """Have a worker die between an effect and its result; return the run and the call that nobody knows of."""
    ward.deadly.touch()
    run_id = (await ada.send(agent, f"!tool act_and_die {{}}\n{text}"))["run_id"]
    run = await ada.until(run_id, "waiting", seconds=60)
    ward.deadly.unlink()
    (wait,) = run["waiting_on"]
    assert wait["kind"] == "reconcile"
    assert kinds(await ada.events(run_id))[-2:] == ["tool.unknown", "run.waiting"]
    assert ward.acts(run_id) == 1, "it was repeated although nobody knows whether it happened"
    return run_id, wait["call_id"]


@pytest.mark.parametrize(
    "outcome, result, told, failed, acts",
    [
        ("happened", "receipt 17", "receipt 17", False, 1),
        ("happened", None, "It happened.", False, 1),
        ("again", None, "acted", False, 2),
        ("give_up", None, "It is not known whether this happened; a person gave it up.", True, 1),
    ],
)
async def test_a_person_says_what_became_of_an_effect(
    ward: Ward, tag: str, outcome: str, result: str | None, told: str, failed: bool, acts: int
) -> None:
    ada, agent = await ward.person_and_agent()
    run_id, call_id = await _in_doubt(ward, ada, agent, f"!say I know {tag}")
    path = f"/v1/my/runs/{run_id}/reconcile"
    await ada.call("POST", path, 422, json={"call_id": "another", "outcome": outcome})
    await ada.call("POST", path, 202, json={"call_id": call_id, "outcome": outcome, "result": result})
    run = await ada.until(run_id)
    assert run["status"] == "completed"
    assert ward.acts(run_id) == acts
    (call,) = [one for one in await steps(ada, run_id) if one["kind"] == "tool"]
    assert (call["result"], call["failed"]) == (told, failed)
    assert ward.asked(tag)[-1].body["messages"][-1]["content"] in (told, f'{{"error":"{told}"}}')
    await ada.call("POST", path, 422, json={"call_id": call_id, "outcome": outcome})
