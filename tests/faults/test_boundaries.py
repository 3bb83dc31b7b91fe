"""Fault 2: a worker is killed at every boundary of a run; the run ends as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.effects import TOOLS, effect_settings, effects, problems
from tests.faults.forks import Zygote, is_alive, zygote
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import ENDED, Person, running_server

TASK = """!tool note_once {"text": "a"}
!tool note_blindly {"text": "b"}
!tool files_write {"path": "c.txt", "content": "c"}
!say All is noted."""


@dataclass(frozen=True)
class Stage:
    """A server without a worker, somebody, and workers that die where they are told to."""

    ada: Person
    agent: dict[str, Any]
    forks: Zygote
    file: Path
    trace: Path

    def clear(self) -> None:
        """Forget earlier effects and boundaries; nothing is at work."""
        self.file.write_text("")
        self.trace.write_text("")

    def boundaries(self) -> list[str]:
        """Name the boundaries that the last run passed, in their order."""
        return [line.split(maxsplit=1)[1] for line in self.trace.read_text().splitlines()]


@pytest.fixture(scope="module")
async def stage(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("boundaries")
    file, trace = folder / "effects", folder / "trace"
    async with ModelServer() as model:
        settings = effect_settings(file, OPENAI_BASE_URL=model.base_url, RETINUE_BEAT_SECONDS="0.2")
        async with running_server(postgres, worker=False, **settings) as server, zygote(server, trace) as forks:
            ada = await server.person()
            agent = await ada.agent(
                model="openai:stub-0ms",
                tools=[*TOOLS, "files"],
                tool_policy={"note_once": "allow", "note_blindly": "allow"},
            )
            yield Stage(ada, agent, forks, file, trace)


async def _journey(stage: Stage, task: str, fatal: int, mutant: str = "") -> str:
    """Send the task to a worker that dies at a boundary, help as a person would, and return the ended run's id.

    Raises:
        TimeoutError: it does not end.
    """
    ada, forks = stage.ada, stage.forks
    pid = await forks.worker(fatal, mutant)
    run_id: str = (await ada.send(stage.agent, task, str(uuid4())))["run_id"]
    said: set[str] = set()
    try:
        async with asyncio.timeout(20):
            while (run := await ada.run(run_id))["status"] not in ENDED:
                if not is_alive(pid):
                    pid = await forks.worker(0, mutant)
                await _help(stage, run, said)
                await asyncio.sleep(0.02)
    finally:
        if is_alive(pid):
            await forks.stop(pid)
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


async def _differences(stage: Stage, task: str, where: Callable[[str], bool], mutant: str = "") -> list[str]:
    """Kill a worker at every boundary of a task that is asked for; return what is not as if nothing had happened."""
    stage.clear()
    undisturbed = await _journey(stage, task, 0, mutant)
    expected = await _end_state(stage.ada, undisturbed)
    noted = _noted(stage)
    names = stage.boundaries()
    assert expected["status"] == "completed"
    assert noted
    assert set(noted.values()) == {1}
    assert {name.split()[1] for name in names} == {"model", "tool", "journal", "commit", "claim"}
    runs, found = [undisturbed], list[str]()
    for boundary, name in enumerate(names, 1):
        if not where(name):
            continue
        try:
            run_id = await _journey(stage, task, boundary, mutant)
        except TimeoutError:
            found.append(f"killed {name} ({boundary}): the run does not end")
            continue
        runs.append(run_id)
        state = await _end_state(stage.ada, run_id)
        found += [
            f"killed {name} ({boundary}): {part} are {state[part]}, not {expected[part]}"
            for part in expected
            if state[part] != expected[part]
        ]
    found += problems(stage.file, {run_id: await stage.ada.events(run_id) for run_id in runs})
    if _noted(stage) != {text: len(runs) for text in noted}:
        found.append(f"{len(runs)} runs noted {_noted(stage)}")
    return found


def _noted(stage: Stage) -> dict[str, int]:
    """Count the different effects by their text."""
    return dict(Counter(line.split()[2] for line in effects(stage.file)))


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_kill_at_every_boundary_changes_nothing(stage: Stage) -> None:
    assert await _differences(stage, TASK, lambda name: True) == []


EFFECT = """!tool note_blindly {"text": "b"}
!say It is noted."""
# The bug, the boundaries at which a kill brings it out, and what is said of it.
PLANTED = {
    "repeats_lost_calls": ("after tool", "2 times: blind "),
    "tells_apart": ("after commit", "messages are "),
}


@pytest.mark.fault
@pytest.mark.parametrize("mutant", sorted(PLANTED))
async def test_a_step_in_two_commits_or_twice_is_seen(stage: Stage, mutant: str) -> None:
    boundary, seen = PLANTED[mutant]
    found = await _differences(stage, EFFECT, lambda name: name == boundary, mutant)
    assert any(seen in one for one in found), found
