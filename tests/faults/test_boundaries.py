"""Fault 2: a worker is killed at every boundary of a run; the run ends as if nothing had happened.

Several servers share the boundaries, since most of the time goes into noticing the dead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.effects import TOOLS, effect_settings, effects, problems
from tests.faults.forks import Forks, is_alive, stop
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import ENDED, Person, running_server

STAGES = 3

TASK = """!tool note_once {"text": "a"}
!tool note_blindly {"text": "b"}
!tool files_write {"path": "c.txt", "content": "c"}
!say All is noted."""


@dataclass
class Stage:
    """A server without a worker, somebody, and workers that die where they are told to."""

    ada: Person
    agent: dict[str, Any]
    forks: Forks
    file: Path
    trace: Path
    ended: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """Forget earlier runs, effects and boundaries; nothing is at work."""
        self.ended.clear()
        self.file.write_text("")
        self.trace.write_text("")

    def boundaries(self) -> list[str]:
        """Name the boundaries that the last run passed, in their order."""
        return [line.split(maxsplit=1)[1] for line in self.trace.read_text().splitlines()]


@pytest.fixture(scope="module")
async def stages(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Stage]]:
    async with AsyncExitStack() as stack:
        opening = [_stage(postgres, tmp_path_factory.mktemp("boundaries")) for _ in range(STAGES)]
        yield [await stack.enter_async_context(one) for one in opening]


@asynccontextmanager
async def _stage(postgres: Cluster, folder: Path) -> AsyncIterator[Stage]:
    file, trace = folder / "effects", folder / "trace"
    async with ModelServer() as model:
        settings = effect_settings(file, OPENAI_BASE_URL=model.base_url, RETINUE_BEAT_SECONDS="0.2")
        async with running_server(postgres, worker=False, **settings) as server:
            ada = await server.person()
            agent = await ada.agent(
                model="openai:stub-0ms",
                tools=[*TOOLS, "files"],
                tool_policy={"note_once": "allow", "note_blindly": "allow"},
            )
            yield Stage(ada, agent, Forks(server, trace), file, trace)


async def _journey(stage: Stage, task: str, fatal: int, mutant: str = "", seconds: float = 60) -> str:
    """Send the task to a worker that dies at a boundary, help as a person would, and return the ended run's id.

    Raises:
        TimeoutError: it does not end.
    """
    ada, forks = stage.ada, stage.forks
    worker = forks.worker(fatal, mutant)
    run_id: str = (await ada.send(stage.agent, task, str(uuid4())))["run_id"]
    said: set[str] = set()
    try:
        async with asyncio.timeout(seconds):
            while (run := await ada.run(run_id))["status"] not in ENDED:
                if not is_alive(worker):
                    worker = forks.worker(0, mutant)
                await _help(stage, run, said)
                await asyncio.sleep(0.1)
    finally:
        await stop(worker)
    stage.ended.append(run_id)
    return run_id


async def _help(stage: Stage, run: dict[str, Any], said: set[str]) -> None:
    """Approve what is asked; say once of an unknown effect what the file says."""
    run_id = run["run_id"]
    for wait in run["waiting_on"]:
        if wait["kind"] == "approval":
            for approval in await stage.ada.approvals():
                await stage.ada.decide(approval)
        elif wait["call_id"] not in said:
            said.add(wait["call_id"])
            happened = any(f"{run_id}:{wait['call_id']}" in line for line in effects(stage.file))
            body = {"call_id": wait["call_id"], "outcome": "happened" if happened else "again", "result": "noted"}
            await stage.ada.call("POST", f"/v1/my/runs/{run_id}/reconcile", json=body)


async def _end_state(ada: Person, run_id: str) -> dict[str, Any]:
    """Return what must not depend on where a worker died."""
    run = await ada.run(run_id)
    steps = (await ada.call("GET", f"/v1/my/runs/{run_id}/steps"))["items"]
    messages = await ada.call("GET", f"/v1/my/chat/{run['session_id']}/messages")
    return {
        "status": run["status"],
        "tokens": (run["input_tokens"] > 0, run["output_tokens"] > 0),
        "steps": [(step["kind"], step["name"], step["status"], step["arguments"], step["result"]) for step in steps],
        "messages": [(message["role"], message["status"], message["content"]) for message in messages["items"]],
    }


async def _differences(
    stages: list[Stage], task: str, where: Callable[[str], bool], mutant: str = "", seconds: float = 60
) -> list[str]:
    """Kill a worker at every boundary of a task that is asked for; return what is not as if nothing had happened."""
    for stage in stages:
        stage.clear()
    expected, noted, names = await _undisturbed(stages[0], task, mutant)
    left = [(boundary, name) for boundary, name in enumerate(names, 1) if where(name)][::-1]
    found: list[str] = []

    async def work(stage: Stage) -> None:
        while left:
            boundary, name = left.pop()
            wrong = await _against(stage, task, expected, boundary, mutant, seconds)
            found.extend(f"killed {name} ({boundary}): {one}" for one in wrong)

    await asyncio.gather(*(work(stage) for stage in stages))
    for stage in stages:
        found += problems(stage.file, {run_id: await stage.ada.events(run_id) for run_id in stage.ended})
        if _noted(stage) != Counter(dict.fromkeys(noted, len(stage.ended))):
            found.append(f"{len(stage.ended)} runs noted {dict(_noted(stage))}")
    return found


async def _undisturbed(stage: Stage, task: str, mutant: str) -> tuple[dict[str, Any], set[str], list[str]]:
    """Return the end state of a run that nothing happened to, its effects, and the boundaries it passed."""
    run_id = await _journey(stage, task, 0, mutant)
    expected, noted, names = await _end_state(stage.ada, run_id), _noted(stage), stage.boundaries()
    assert expected["status"] == "completed"
    assert noted
    assert set(noted.values()) == {1}
    assert {name.split()[1] for name in names} == {"model", "tool", "journal", "commit", "claim"}
    return expected, set(noted), names


async def _against(
    stage: Stage, task: str, expected: dict[str, Any], boundary: int, mutant: str, seconds: float
) -> list[str]:
    """Kill a worker at a boundary; return what is not as if nothing had happened."""
    try:
        run_id = await _journey(stage, task, boundary, mutant, seconds)
    except TimeoutError:
        return ["the run does not end"]
    state = await _end_state(stage.ada, run_id)
    return [f"{part} are {state[part]}, not {expected[part]}" for part in expected if state[part] != expected[part]]


def _noted(stage: Stage) -> Counter[str]:
    """Count the different effects by their text."""
    return Counter(line.split()[2] for line in effects(stage.file))


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_kill_at_every_boundary_changes_nothing(stages: list[Stage]) -> None:
    assert await _differences(stages, TASK, lambda name: True) == []


EFFECT = """!tool note_blindly {"text": "b"}
!say It is noted."""
# The bug, the boundaries at which a kill brings it out, and what is said of it.
PLANTED = {
    "repeats_lost_calls": ("after tool", "2 times: blind "),
    "tells_apart": ("after commit", "messages are "),
}


@pytest.mark.fault
@pytest.mark.parametrize("mutant", sorted(PLANTED))
async def test_a_step_in_two_commits_or_twice_is_seen(stages: list[Stage], mutant: str) -> None:
    boundary, seen = PLANTED[mutant]
    found = await _differences(stages[:1], EFFECT, lambda name: name == boundary, mutant)
    assert any(seen in one for one in found), found
