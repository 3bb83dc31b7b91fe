"""kill -9 in the middle of a run with three tools, then a restart."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from bench.harness import Bench, median
from bench.people import People, Person
from bench.rows import Goal, Group, Measured, Results, fixed, times
from bench.servers import Server, product_server
from bench.wire import Connection, Events

_CALL_SECONDS = 0.5
# Three tool calls and an answer are four model calls; the third is under way when the server dies.
_KILLED_IN_CALL = 3
_CALLS_LEFT = 2
_IDEAL_CALLS = 5
_END_SECONDS = 60.0
_ENDED = {"completed", "failed", "cancelled", "timed_out", "dead_lettered"}


@dataclass(frozen=True, slots=True)
class Recovery:
    """One crash: seconds beyond restart and remaining work, model calls in all, answered calls asked again."""

    beyond: float
    calls: int
    repeated: int
    trouble: str


async def _told_on_reconnect(server: Server, person: Person, run: str, after: int) -> bool:
    """Whether a client that comes back with its last position is told of the run's end."""
    told = asyncio.Event()

    def on_event(name: bytes, data: bytes) -> None:
        if name == b"run_completed" and run.encode() in data:
            told.set()

    stream = await Connection.open(server.port, Events(on_event).feed)
    await stream.start(f"/v1/my/events/stream?after={after}", person.headers())
    try:
        await asyncio.wait_for(told.wait(), 5)
    except TimeoutError:
        return False
    finally:
        stream.close()
    return True


async def _send(people: People, person: Person, marker: str) -> tuple[str, str]:
    """Send the message of a run with three tool calls; return session and run."""
    text = f"{marker}\n!delay {_CALL_SECONDS}" + "\n!tool clock {}" * 3
    session = (await people.call("POST", "/v1/my/chat", token=person.token, json={}))["session_id"]
    message = {"content": text, "target_agent": person.agents["tool"]}
    path = f"/v1/my/chat/{session}/messages"
    return session, (await people.call("POST", path, token=person.token, json=message))["run_id"]


async def _run_end(people: People, person: Person, run: str) -> dict[str, Any]:
    deadline = time.monotonic() + _END_SECONDS
    while True:
        found: dict[str, Any] = await people.call("GET", f"/v1/my/runs/{run}", token=person.token)
        if found["status"] in _ENDED or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.01)


async def _crash(bench: Bench, server: Server, people: People, person: Person) -> Recovery:
    marker = f"marker {uuid4()}"
    session, run = await _send(people, person, marker)
    events = await people.call("GET", f"/v1/my/runs/{run}/events", token=person.token)
    await asyncio.to_thread(bench.stub.wait_for_requests, _KILLED_IN_CALL, contains=marker)
    await server.kill()
    started = time.monotonic()
    ready = await server.start()
    found = await _run_end(people, person, run)
    beyond = time.monotonic() - started - ready - _CALLS_LEFT * _CALL_SECONDS
    requests = [one for one in await asyncio.to_thread(lambda: bench.stub.requests) if marker in one["user"]]
    answered = [one["fingerprint"] for one in requests if one["state"] == "answered"]
    messages = await people.call("GET", f"/v1/my/chat/{session}/messages", token=person.token)
    trouble = [] if found["status"] == "completed" else [f"the run is {found['status']}"]
    if not any(marker in message["content"] for message in messages["items"]):
        trouble.append("the user's message is gone")
    if not await _told_on_reconnect(server, person, run, events["items"][0]["position"]):
        trouble.append("the client was not told on reconnect")
    return Recovery(beyond, len(requests), len(answered) - len(set(answered)), "; ".join(trouble))


async def _measure(bench: Bench) -> Results:
    server = product_server(bench.scratch("crash"), bench.stub.environment())
    await server.start()
    people = People(server.port)
    try:
        (person,) = await people.get(1)
        crashes = [await _crash(bench, server, people, person) for _ in range(bench.rounds)]
    finally:
        await people.close()
        await server.stop()
    troubles = [crash.trouble for crash in crashes if crash.trouble]
    note = f"{len(crashes)} crashes in the third of four model calls of {_CALL_SECONDS} s"
    calls = max(crash.calls for crash in crashes)
    return {
        "kill -9, beyond restart and remaining work": Measured(median([crash.beyond for crash in crashes]), note=note),
        "kill -9, answered model calls asked again": Measured(sum(crash.repeated for crash in crashes), note=note),
        "kill -9, model calls in all": Measured(calls, _IDEAL_CALLS, note),
        "kill -9, runs stuck, messages lost or clients not told": Measured(len(troubles), note="; ".join(troubles)),
    }


GROUP = Group(
    "crash",
    (
        Goal("kill -9, beyond restart and remaining work", "s", fixed(1), "1 s", needs_floor=False),
        Goal("kill -9, answered model calls asked again", "", fixed(0), "none", needs_floor=False),
        Goal("kill -9, model calls in all", "", times(1), "the ideal"),
        Goal("kill -9, runs stuck, messages lost or clients not told", "", fixed(0), "none", needs_floor=False),
    ),
    _measure,
)
