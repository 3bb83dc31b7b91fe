"""From a wake-up to the start of its work, one at a time on an idle server."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bench.floors.queue_start import start_latencies
from bench.harness import Bench, median
from bench.people import People, Person
from bench.postgres import Postgres
from bench.rows import Goal, Group, Measured, Results, plus


async def _start_latency(people: People, person: Person, session: str) -> float:
    """Make a turn; return the milliseconds from `run.requested` to `run.activated`."""
    path = f"/v1/my/chat/{session}/messages?wait=true"
    message = {"content": "Hello there.", "target_agent": person.agents["plain"]}
    answer = await people.call("POST", path, token=person.token, json=message)
    page = await people.call("GET", f"/v1/my/runs/{answer['run']['run_id']}/events", token=person.token)
    times: dict[str, Any] = {event["type"]: event["recorded_at"] for event in reversed(page["items"])}
    begun, asked = (datetime.fromisoformat(times[name]) for name in ("run.activated", "run.requested"))
    return (begun - asked).total_seconds() * 1000


async def _measure(bench: Bench) -> Results:
    jobs = 20 if bench.quick else 60
    with Postgres(bench.scratch("queue") / "floor") as postgres:
        floor = await start_latencies(postgres.dsn, jobs)
    people = await bench.people()
    (person,) = await people.get(1)
    session = (await people.call("POST", "/v1/my/chat", token=person.token, json={}))["session_id"]
    waits = [await _start_latency(people, person, session) for _ in range(jobs)]
    note = "run.requested to run.activated; the floor from enqueue to the handler's first line"
    return {"wake-up to start, p50": Measured(median(waits), median(floor), note)}


GROUP = Group(
    "wakeup",
    (Goal("wake-up to start, p50", "ms", plus(5), "PgQueuer alone + 5 ms"),),
    _measure,
)
