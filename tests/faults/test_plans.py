"""Fault 2 for plans: a worker is killed at every boundary of a plan; it ends as if nothing had happened.

A message that names no agent becomes a diamond of four tasks, one of which writes; a person approves it; the
orchestrator answers. Several servers share the boundaries, since most of the time goes into noticing the dead.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.effects import effect_settings, effects, problems
from tests.faults.forks import Forks, is_alive, stop
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer, Step, ToolCall
from tests.support.running import ENDED, Person, running_server

STAGES = 3
AT_ONCE = 2  # tasks of the diamond that are under way together, each perhaps with a model call

TASKS = {"find": (), "left": ("find",), "right": ("find",), "join": ("left", "right")}


def _plan() -> Step:
    tasks = [
        {"id": one, "title": one, "agent": one, "instructions": f"do {one}", "depends_on": list(before), "risk": risk}
        for (one, before), risk in zip(TASKS.items(), ("low", "high", "low", "low"), strict=True)
    ]
    return Step(tool_calls=(ToolCall("plan", {"title": "A diamond", "tasks": tasks}),))


def _script(model: ModelServer) -> None:
    scripts = {
        "lead": (_plan(), Step(text="All four are done.")),
        "find": (Step(text="found"),),
        "left": (Step(tool_calls=(ToolCall("note_once", {"text": "a"}),)), Step(text="noted")),
        "right": (Step(text="looked"),),
        "join": (Step(text="joined"),),
    }
    for name, steps in scripts.items():
        model.script(*steps, model=f"{name}-model", by="turn", then="repeat")


@dataclass
class Stage:
    """A server without a worker, a person with a team, and workers that die where they are told to."""

    model: ModelServer
    ada: Person
    forks: Forks
    file: Path
    trace: Path
    journeys: list[Journey] = field(default_factory=list)

    def boundaries(self) -> list[str]:
        """Name the boundaries that were passed since the trace was cleared."""
        return [line.split(maxsplit=1)[1] for line in self.trace.read_text().splitlines()]


@dataclass(frozen=True)
class Journey:
    """One request that was sent, and what became of it."""

    tag: str
    session_id: str
    run_id: str


@pytest.fixture(scope="module")
async def stages(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Stage]]:
    async with AsyncExitStack() as stack:
        opening = [_stage(postgres, tmp_path_factory.mktemp("plans")) for _ in range(STAGES)]
        yield list(await asyncio.gather(*(stack.enter_async_context(one) for one in opening)))


@asynccontextmanager
async def _stage(postgres: Cluster, folder: Path) -> AsyncIterator[Stage]:
    file, trace = folder / "effects", folder / "trace"
    async with ModelServer() as model:
        _script(model)
        settings = effect_settings(file, OPENAI_BASE_URL=model.base_url, RETINUE_BEAT_SECONDS="0.2")
        async with running_server(postgres, worker=False, **settings) as server:
            ada = await server.person()
            await ada.call("PUT", "/v1/my/planning/policy", json={"seconds": 600})  # only the model writes plans
            await ada.agent("orchestrator", model="openai:lead-model", tools=["plan"])
            for name in TASKS:
                acts = {"tools": ["note_once"], "tool_policy": {"note_once": "allow"}} if name == "left" else {}
                await ada.agent(name, model=f"openai:{name}-model", **acts)
            yield Stage(model, ada, Forks(server, trace), file, trace)


async def _journey(stage: Stage, fatal: int, mutant: str = "", seconds: float = 25) -> Journey:
    """Send a request to a worker that dies at a boundary, approve the plan, and see the run to its end.

    Raises:
        TimeoutError: it does not end.
    """
    ada, forks = stage.ada, stage.forks
    tag, session = f"tag{uuid4().hex[:10]}", str(uuid4())
    worker = forks.worker(fatal, mutant)
    body = {"content": f"Go round the diamond {tag}."}
    run_id: str = (await ada.call("POST", f"/v1/my/chat/{session}/messages", 202, json=body))["run_id"]
    journey = Journey(tag, session, run_id)
    try:
        async with asyncio.timeout(seconds):
            while (run := await ada.run(run_id))["status"] not in ENDED:
                if not is_alive(worker):
                    worker = forks.worker(0, mutant)
                if run["status"] == "waiting":
                    for approval in await ada.approvals():
                        await ada.decide(approval)
                await asyncio.sleep(0.1)
    finally:
        await stop(worker)
    stage.journeys.append(journey)
    return journey


async def _end_state(stage: Stage, journey: Journey) -> dict[str, Any]:
    """Return what must not depend on where a worker died: of the run, of the plan, and of everything below it."""
    ada = stage.ada
    run = await ada.run(journey.run_id)
    steps = (await ada.call("GET", f"/v1/my/runs/{journey.run_id}/steps"))["items"]
    messages = await ada.call("GET", f"/v1/my/chat/{journey.session_id}/messages")
    plans = (await ada.call("GET", f"/v1/my/plans?session={journey.session_id}"))["items"]
    graphs = [await ada.call("GET", f"/v1/my/plans/{one['plan_id']}") for one in plans]
    kept = ("id", "status", "attempt", "output", "error", "skipped")
    return {
        "status": run["status"],
        "steps": [(step["kind"], step["name"], step["status"], step["result"]) for step in steps],
        "messages": [(one["role"], one["status"], _plain(journey, one["content"])) for one in messages["items"]],
        "plans": [(one["status"], one["output"], one["missing"], one["completed"], one["failed"]) for one in graphs],
        "tasks": [{name: node[name] for name in kept} for one in graphs for node in one["nodes"]],
        "facts": [sorted(await _facts(ada, one["plan_id"])) for one in plans],
        "runs": sorted((one["status"], one["parent"]["key"]) for one in await _task_runs(stage, journey)),
    }


def _plain(journey: Journey, text: str) -> str:
    return text.replace(journey.tag, "TAG")


async def _facts(ada: Person, plan_id: str) -> list[tuple[str, str, int]]:
    """Return what a plan recorded; of tasks side by side the order is free."""
    page = await ada.call("GET", f"/v1/my/plans/{plan_id}/events?limit=200")
    nothing = ("plan.look_failed", "plan.recovered")  # they change nothing
    facts = [one for one in page["items"] if one["type"] not in nothing]
    return [(one["type"], one["data"].get("task_id", ""), one["data"].get("attempt", 0)) for one in facts]


async def _task_runs(stage: Stage, journey: Journey) -> list[dict[str, Any]]:
    page = await stage.ada.call("GET", f"/v1/my/runs?session={journey.session_id}&limit=200")
    return [one for one in page["items"] if one["parent"]]


async def _calls_again(stage: Stage, journey: Journey) -> list[str]:
    """Hold the model's requests against the runs' records.

    A call may be repeated when its worker died before the answer was recorded, and for no other reason.
    """
    found: list[str] = []
    runs = {one["parent"]["key"]: one["run_id"] for one in await _task_runs(stage, journey)}
    asked = [one for one in stage.model.requests if journey.tag in json.dumps(one.body)]
    extra = 0
    for name, run_id in {**runs, "lead": journey.run_id}.items():
        answered = [one for one in await stage.ada.events(run_id) if one["type"] == "model.responded"]
        mine = [one for one in asked if one.model == f"{name}-model"]
        extra += len(mine) - len(answered)
        for event in answered:
            recorded = datetime.fromisoformat(event["recorded_at"]).timestamp()
            late = [one for one in mine if one.turn + 1 == event["data"]["step"] and one.at > recorded]
            if late:
                found.append(f"{name}: step {event['data']['step']} was recorded, and asked for again")
    if not 0 <= extra <= AT_ONCE:
        found.append(f"{extra} calls of the model more than recorded answers")
    return found


async def _against(stage: Stage, expected: dict[str, Any], fatal: int, name: str, mutant: str) -> list[str]:
    """Kill a worker at a boundary; return what is not as if nothing had happened."""
    seconds = 6.0 if mutant else 25.0  # nobody waits for what never ends
    try:
        journey = await _journey(stage, fatal, mutant, seconds)
    except TimeoutError:
        return [f"killed {name} ({fatal}): it does not end"]
    state = await _end_state(stage, journey)
    found = [f"{part} are {state[part]}, not {expected[part]}" for part in expected if state[part] != expected[part]]
    found += await _calls_again(stage, journey)
    return [f"killed {name} ({fatal}): {one}" for one in found]


async def _undisturbed(stage: Stage, mutant: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return the end of a journey that nothing happened to, and the boundaries it passed."""
    stage.file.write_text("")
    stage.trace.write_text("")
    stage.journeys.clear()
    journey = await _journey(stage, 0, mutant)
    names = stage.boundaries()
    expected = await _end_state(stage, journey)
    assert (expected["status"], len(expected["runs"])) == ("completed", len(TASKS)), expected
    assert expected["messages"][-1][2] == "All four are done."
    assert await _calls_again(stage, journey) == []
    assert {name.split()[1] for name in names} == {"model", "tool", "journal", "commit", "claim", "plan", "append"}
    return expected, names


async def _outside(stage: Stage) -> list[str]:
    """Hold the effects against the records of all journeys: one effect each."""
    events = {}
    for journey in stage.journeys:
        for run in await _task_runs(stage, journey):
            events[run["run_id"]] = await stage.ada.events(run["run_id"])
    found = problems(stage.file, events)
    happened = Counter(line.split()[2] for line in effects(stage.file).elements())
    if happened != {"a": len(stage.journeys)}:
        found.append(f"{len(stage.journeys)} plans noted {dict(happened)}")
    return found


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_kill_at_every_boundary_of_a_plan_changes_nothing(stages: list[Stage]) -> None:
    (expected, names), *_ = await asyncio.gather(*(_undisturbed(stage) for stage in stages))
    assert len(names) > 100
    left = list(enumerate(names, 1))[::-1]
    found: list[str] = []

    async def work(stage: Stage) -> None:
        while left:
            found.extend(await _against(stage, expected, *left.pop(), ""))

    await asyncio.gather(*(work(stage) for stage in stages))
    for stage in stages:
        found += await _outside(stage)
    assert found == []


@pytest.mark.fault
async def test_a_look_at_a_plan_that_fails_in_the_middle_leaves_nothing_behind(stages: list[Stage]) -> None:
    expected, _ = await _undisturbed(stages[0])
    assert await _against(stages[0], expected, 0, "nobody", "misses_something_once") == []
    assert await _outside(stages[0]) == []


# The bug, the boundaries at which a kill brings it out, and what is said of it.
PLANTED: dict[str, tuple[Callable[[str], bool], str]] = {
    "starts_apart": (lambda name: name == "after commit", "runs are "),
    "wakes_apart": (lambda name: name == "after commit", "it does not end"),
    "forgets_ends": (lambda name: name == "after plan", "facts are "),
}


@pytest.mark.fault
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", sorted(PLANTED))
async def test_a_plan_with_a_bug_is_seen(stages: list[Stage], mutant: str) -> None:
    where, seen = PLANTED[mutant]
    expected, names = await _undisturbed(stages[0], mutant)
    found: list[str] = []
    for boundary, name in enumerate(names, 1):
        if where(name) and not any(seen in one for one in found):
            found += await _against(stages[0], expected, boundary, name, mutant)
    assert any(seen in one for one in found), found
