"""From a wake-up to the start of its work, one at a time on an idle server, in one process and in two."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.floors.queue_start import start_latencies
from bench.harness import Bench, median
from bench.people import People, Person
from bench.postgres import Postgres
from bench.rows import Goal, Group, Measured, Results, plus
from bench.servers import product_server, worker

_WARM = 3


async def _turn(people: People, person: Person, text: str) -> dict[str, Any]:
    """Make a turn in a session of its own; return when the run's first events of each type were recorded."""
    session = (await people.call("POST", "/v1/my/chat", token=person.token, json={}))["session_id"]
    message = {"content": text, "target_agent": person.agents["plain"]}
    path = f"/v1/my/chat/{session}/messages?wait=true"
    answer = await people.call("POST", path, token=person.token, json=message)
    page = await people.call("GET", f"/v1/my/runs/{answer['run']['run_id']}/events", token=person.token)
    return {event["type"]: datetime.fromisoformat(event["recorded_at"]) for event in reversed(page["items"])}


async def _one_process(bench: Bench, turns: int) -> list[float]:
    """Return the milliseconds from `run.requested` to the arrival of the model call."""
    people = await bench.people()
    (person,) = await people.get(1)
    waits = []
    for _ in range(turns + _WARM):
        marker = f"marker {uuid4()}"
        events = await _turn(people, person, marker)
        requests = await asyncio.to_thread(lambda: bench.stub.requests)
        (arrived,) = [request["at"] for request in requests if marker in request["user"]]
        waits.append((arrived - events["run.requested"].timestamp()) * 1000)
    return waits[_WARM:]


async def _two_processes(bench: Bench, folder: Path, turns: int) -> list[float]:
    """Return the milliseconds from `run.requested` in the server to `run.activated` by a worker beside it."""
    server = product_server(folder, bench.stub.environment(), "--no-worker")
    beside = worker(server, folder)
    await server.start()
    try:
        await beside.spawn()
        people = People(server.port)
        try:
            (person,) = await people.get(1)
            events = [await _turn(people, person, "Hello there.") for _ in range(turns + _WARM)]
        finally:
            await people.close()
    finally:
        await beside.stop()
        await server.stop()
    return [(one["run.activated"] - one["run.requested"]).total_seconds() * 1000 for one in events[_WARM:]]


async def _measure(bench: Bench) -> Results:
    turns, folder = 20 if bench.quick else 60, bench.scratch("wakeup")
    with Postgres(folder / "floor") as postgres:
        floor = median(await start_latencies(postgres.dsn, turns))
    here = await _one_process(bench, turns)
    there = await _two_processes(bench, folder, turns)
    return {
        "wake-up to start, one process, p50": Measured(
            median(here), floor, "run.requested to the arrival of the model call; the floor to the handler's first line"
        ),
        "wake-up to start, worker in another process, p50": Measured(
            median(there), floor, "run.requested to run.activated by the worker"
        ),
    }


GROUP = Group(
    "wakeup",
    (
        Goal("wake-up to start, one process, p50", "ms", plus(5), "PgQueuer alone + 5 ms"),
        Goal("wake-up to start, worker in another process, p50", "ms", plus(5), "PgQueuer alone + 5 ms"),
    ),
    _measure,
)
