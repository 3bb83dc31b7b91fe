"""Fault 1 for plans: workers are killed at random moments over many small random graphs.

Every plan ends, in an order that respects what depends on what, and each task is done exactly once.
TEST_FAULT_PLAN_KILLS sets how many are killed at least, RETINUE_TEST_SEED when, and which graphs.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.faults.effects import effect_settings, effects, problems
from tests.faults.forks import Forks, stop
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, running_server
from tests.support.waiting import holds

SEED = int(os.environ.get("RETINUE_TEST_SEED", "20261121"))
KILLS = int(os.environ.get("TEST_FAULT_PLAN_KILLS", "20"))  # 100 take about a minute and a half
GRAPHS = 40
WORKERS = 2
CLIENTS = 6
ENDED = {"completed", "failed", "cancelled"}

Graph = list[dict[str, Any]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph of up to seven tasks: agents that look or write, calls without a model, bodies, some that fail."""
    made: Graph = []
    for number in range(draw(st.integers(1, 7))):
        before = [one["id"] for one in made]
        kind = draw(st.sampled_from(["looks", "looks", "writes", "writes", "calls", "each", "fails"]))
        made.append(
            {
                "id": f"t{number}",
                "does": kind,
                "depends_on": draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else [],
                "items": draw(st.integers(0, 3)) if kind == "each" else 0,
            }
        )
    draw(st.randoms(use_true_random=False)).shuffle(made)  # the order of the list says nothing
    return made


def drawn(number: int) -> list[Graph]:
    """Return random graphs, the same ones for the same seed."""
    found: list[Graph] = []

    @seed(SEED)
    @settings(max_examples=number, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(graphs())
    def draw(graph: Graph) -> None:
        found.append(graph)

    draw()
    return found


def tasks_of(graph: Graph, tag: str, agent: str) -> list[dict[str, Any]]:
    """Return the tasks as the API takes them. Every effect has a text of its own."""
    return [_task(one, tag, agent) | {"id": one["id"], "depends_on": one["depends_on"]} for one in graph]


def _task(one: dict[str, Any], tag: str, agent: str) -> dict[str, Any]:
    note = f"{tag}/{one['id']}"
    said = f"{note}\n!say {one['id']} is done"
    writes = f'!tool note_once {{"text": "{note}"}}\n{said}'
    call = {"kind": "tool", "agent": agent, "call": {"tool": "note_once", "arguments": {"text": note}}}
    match one["does"]:
        case "looks":
            return {"agent": agent, "instructions": said}
        case "writes":
            return {"agent": agent, "instructions": writes}
        case "calls":
            return call
        case "fails":
            return {"agent": agent, "instructions": f"{note}\n!status 400"}
    body = call | {"id": "inside", "template": True}
    body["call"] = {"tool": "note_once", "arguments": {"text": f"{note}/${{ string(index) }}"}}
    return {"kind": "each", "each": {"items": str(list(range(one["items"]))), "body": [body], "at_once": 2}}


@dataclass
class Stage:
    """A server without a worker, somebody with agents, and workers that are forked in a blink."""

    model: ModelServer
    ada: Person
    agents: list[str]
    forks: Forks
    file: Path


@pytest.fixture(scope="module")
async def stage(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("plan-kills")
    trace = folder / "trace"
    async with ModelServer() as model:
        more = {"RETINUE_BEAT_SECONDS": "0.3", "RETINUE_RUN_ATTEMPTS": "100"}
        environment = effect_settings(folder / "effects", pause=0.01, OPENAI_BASE_URL=model.base_url, **more)
        async with running_server(postgres, worker=False, **environment) as server:
            ada = await server.person()
            made = [
                await ada.agent(
                    model="openai:stub-10ms",
                    tools=["note_once"],
                    tool_policy={"note_once": "allow"},
                    limits={"concurrency": 8, "queue": 200},
                )
                for _ in range(3)
            ]
            yield Stage(model, ada, [one["name"] for one in made], Forks(server, trace), folder / "effects")


async def _storm(
    stage: Stage, given_graphs: list[Graph], kills: int, mutant: str = "", seconds: float = 60
) -> tuple[list[Any], int]:
    """Carry all graphs out, a few at once, while workers are killed; return ``(graph, tag, plan)`` of each, and kills.

    A plan that does not end is returned as it is.
    """
    dice = random.Random(SEED)
    workers = [stage.forks.worker(0, mutant) for _ in range(WORKERS)]
    left, done = list(given_graphs), list[Any]()
    numbers = count()

    async def client() -> None:
        while left or killed < kills:
            graph = left.pop() if left else given_graphs[next(numbers) % len(given_graphs)]
            tag = f"tag{uuid4().hex[:10]}"
            body = {"title": tag, "tasks": tasks_of(graph, tag, dice.choice(stage.agents))}
            plan = await stage.ada.call("POST", "/v1/my/plans", 202, json=body)
            done.append((graph, tag, await _ended(stage, plan["plan_id"], seconds)))

    killed = 0
    clients = asyncio.gather(*(client() for _ in range(CLIENTS)))
    try:
        while not clients.done() and killed < kills:
            # Between two kills somebody has got as far as a model or an effect, so that the storm comes to an end.
            before = _work_done(stage)
            await holds(lambda: clients.done() or _work_done(stage) >= before + 2, seconds=60)  # noqa: B023
            await asyncio.wait({clients}, timeout=dice.uniform(0.0, 0.4))
            place = dice.randrange(WORKERS)
            await stop(workers[place])
            killed += 1
            workers[place] = stage.forks.worker(0, mutant)
        await clients
    finally:
        clients.cancel()
        for worker in workers:
            await stop(worker)
    return done, killed


def _work_done(stage: Stage) -> int:
    return stage.model.log.total + sum(effects(stage.file).values())


async def _ended(stage: Stage, plan_id: str, seconds: float) -> dict[str, Any]:
    """Return a plan once it has ended, or when the time is up."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found: dict[str, Any] = await stage.ada.call("GET", f"/v1/my/plans/{plan_id}")
        if found["status"] in ENDED or asyncio.get_running_loop().time() > deadline:
            return found
        await asyncio.sleep(0.05)


async def _wrong(stage: Stage, done: list[Any]) -> list[str]:
    """Return what is not as it must be: ends, order, each task once, each effect once, no recorded step again."""
    found: list[str] = []
    happened = Counter(line.split()[2] for line in effects(stage.file).elements())
    runs = await _runs(stage)
    for graph, tag, plan in done:
        wrong = _wrong_end(graph, plan)
        if not wrong:
            page = await stage.ada.call("GET", f"/v1/my/plans/{plan['plan_id']}/events?limit=200")
            wrong = _wrong_order(graph, page["items"])
            wrong += _wrong_effects(graph, plan, tag, happened)
            wrong += await _wrong_runs(stage, plan, [one for one in runs if one["parent"]["id"] == plan["plan_id"]])
        found += [f"{one}, in {json.dumps(graph)}" for one in wrong]
    return found


async def _runs(stage: Stage) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = await stage.ada.call("GET", f"/v1/my/runs?limit=200{after}")
        found += page["items"]
        if not page.get("next_cursor"):
            return found
        after = f"&cursor={page['next_cursor']}"


def _wrong_end(graph: Graph, plan: dict[str, Any]) -> list[str]:
    """Tasks without a failure before them are done; a plan of which nothing is done has failed."""
    by_id = {one["id"]: one for one in graph}

    def is_lost(name: str) -> bool:
        one = by_id[name]
        return one["does"] == "fails" or any(is_lost(before) for before in one["depends_on"])

    lost = {name for name in by_id if is_lost(name)}
    status = "failed" if len(lost) == len(by_id) else "completed"
    if plan["status"] != status:
        return [f"the plan is {plan['status']}, not {status}: { {one['id']: one['status'] for one in plan['nodes']} }"]
    return [] if set(plan["missing"]) == lost else [f"missing are {plan['missing']}, not {sorted(lost)}"]


def _wrong_order(graph: Graph, events: list[dict[str, Any]]) -> list[str]:
    at: dict[tuple[str, str], list[int]] = {}
    for one in events:
        if "task_id" in one["data"]:
            at.setdefault((one["type"], one["data"]["task_id"]), []).append(one["version"])
    found = [f"{name[1]}: {len(versions)} times {name[0]}" for name, versions in at.items() if len(versions) > 1]
    for task in graph:
        began = at.get(("task.started", task["id"])) or at.get(("task.expanded", task["id"]))
        for before in task["depends_on"]:
            ended = at.get(("task.completed", before))
            if began and not (ended and ended[0] < began[0]):
                found.append(f"{task['id']} began before {before} was done")
    return found


def _wrong_effects(graph: Graph, plan: dict[str, Any], tag: str, happened: Counter[str]) -> list[str]:
    wanted: dict[str, int] = {}
    for one in graph:
        times = 0 if one["id"] in plan["missing"] else 1
        if one["does"] in ("writes", "calls"):
            wanted[f"{tag}/{one['id']}"] = times
        wanted |= {f"{tag}/{one['id']}/{index}": times for index in range(one["items"])}
    return [f"{happened[text]} times {text}, not {times}" for text, times in wanted.items() if happened[text] != times]


async def _wrong_runs(stage: Stage, plan: dict[str, Any], runs: list[dict[str, Any]]) -> list[str]:
    """One run for each task that began; no answer of a model that is recorded was asked for again."""
    tasks = Counter(one["parent"]["key"] for one in runs)
    found = [f"{number} runs of {name}" for name, number in tasks.items() if number > 1]
    for run in runs:
        events = await stage.ada.events(run["run_id"])
        found += problems(stage.file, {run["run_id"]: events})
        name = run["parent"]["key"]
        mine = [one for one in stage.model.requests if f"{plan['title']}/{name}\n" in f"{one.user}\n"]
        for event in (one for one in events if one["type"] == "model.responded"):
            recorded = datetime.fromisoformat(event["recorded_at"]).timestamp()
            if any(one.turn + 1 == event["data"]["step"] and one.at > recorded for one in mine):
                found.append(f"{name}: step {event['data']['step']} was recorded, and asked for again")
    return found


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_random_graphs_are_carried_out_once_and_in_order_whoever_is_killed(stage: Stage) -> None:
    done, killed = await _storm(stage, drawn(GRAPHS), KILLS)
    assert len(done) >= GRAPHS
    assert killed >= KILLS
    assert await _wrong(stage, done) == []
    runs = await _runs(stage)
    events = [event for run in runs for event in await stage.ada.events(run["run_id"])]
    activations = sum(event["type"] == "run.activated" for event in events)
    assert activations > len(runs) + KILLS // 4, "hardly any kill hit a run: the test shows nothing"


@pytest.mark.fault
@pytest.mark.timeout(120)
async def test_a_storm_over_plans_with_a_bug_is_seen(stage: Stage) -> None:
    """The plan forgets what it has recorded when another worker reads it: tasks are done once more."""
    done, _ = await _storm(stage, drawn(12), 6, "forgets_ends", seconds=15)
    assert any("times task." in one for one in await _wrong(stage, done))
