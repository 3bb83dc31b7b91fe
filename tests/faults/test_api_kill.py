"""Fault 3: the server is killed while it takes a message; the client asks again with the same idempotency key."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.faults.checks import conversation_gaps, views_that_differ
from tests.faults.mutants import planted
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer, running_server
from tests.support.waiting import holds

RANDOM_KILLS = 6

Kill = Callable[[RunningServer], Awaitable[None]]
"""Ends the server while it is at work on a request that is sent as soon as this waits for anything."""


def _after(seconds: float) -> Kill:
    """Kill after a time."""

    async def kill(server: RunningServer) -> None:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.kill)

    return kill


def _at(boundary: str) -> Kill:
    """Let the server die at a boundary of the request."""

    async def kill(server: RunningServer) -> None:
        told = Path(server.settings["TEST_DIE"])
        told.write_text(boundary)  # noqa: ASYNC240 - it must be there before the request is sent
        api = server.api
        assert api is not None
        assert api.popen is not None
        popen = api.popen
        await holds(lambda: popen.poll() is not None)
        told.unlink()  # noqa: ASYNC240

    return kill


async def _post(ada: Person, path: str, body: dict[str, Any], key: str) -> httpx.Response | None:
    """Send once; None when the server died under it."""
    try:
        return await ada.client.post(path, json=body, headers={"Idempotency-Key": key})
    except httpx.TransportError:
        return None


async def _again(ada: Person, path: str, body: dict[str, Any], key: str) -> httpx.Response:
    answer = await _post(ada, path, body, key)
    assert answer is not None
    return answer


async def _broken_promises(server: RunningServer, ada: Person, kills: Sequence[Kill]) -> list[str]:
    """Kill the server at one message after the other, ask again, and return what did not hold."""
    agent = await ada.agent(model="openai:stub-0ms")
    session, accepted, found = str(uuid4()), list[str](), list[str]()
    path = f"/v1/my/chat/{session}/messages"
    for n, kill in enumerate(kills):
        body, key = {"content": f"message {n}", "target_agent": agent["agent_id"]}, f"key-{n}"
        posting = asyncio.create_task(_post(ada, path, body, key))
        await kill(server)
        first = await posting
        await server.start()
        again = await _again(ada, path, body, key)
        if again.status_code != 202:
            found.append(f"message {n}: asked again, the answer is {again.status_code} {again.text}")
            continue
        accepted.append(again.json()["run_id"])
        if first is not None and first.status_code == 202 and first.json()["run_id"] != again.json()["run_id"]:
            found.append(f"message {n}: another run when asked again")
        if (third := await _again(ada, path, body, key)).json() != again.json():
            found.append(f"message {n}: asked a third time, the answer is {third.text}, not {again.text}")
        if (other := await _again(ada, path, body | {"content": "something else"}, key)).status_code != 422:
            found.append(f"message {n}: another message under its key is answered {other.status_code}")
    for run_id in accepted:
        if (run := await ada.until(run_id))["status"] != "completed":
            found.append(f"run {run_id} is {run['status']}")
    messages = (await ada.call("GET", f"{path}?limit=200"))["items"] if accepted else []
    asked = [message["content"] for message in messages if message["role"] == "user"]
    if asked != [f"message {n}" for n in range(len(kills))]:
        found.append(f"the session has the messages {asked}")
    if accepted:
        found += await conversation_gaps(ada, session)
    return found + await views_that_differ(ada, accepted)


@asynccontextmanager
async def _server(postgres: Cluster, folder: Path, mutant: str = "") -> AsyncIterator[tuple[RunningServer, Person]]:
    # Kills in quick succession take a run down again and again: that alone must not make it poison here.
    settings = planted(mutant, TEST_DIE=str(folder / "die"), RETINUE_RUN_ATTEMPTS="50")
    async with ModelServer() as model:
        settings["OPENAI_BASE_URL"] = model.base_url
        async with running_server(postgres, worker=True, **settings) as server:
            yield server, await server.person()


@pytest.mark.fault
async def test_one_key_is_one_message_whenever_the_server_dies(postgres: Cluster, tmp_path: Path) -> None:
    dice = random.Random(20261120)
    kills = [_at("before commit"), _at("after commit"), *(_after(dice.uniform(0.0, 0.03)) for _ in range(RANDOM_KILLS))]
    async with _server(postgres, tmp_path) as (server, ada):
        assert await _broken_promises(server, ada, kills) == []


# The bug, the boundary at which a kill brings it out, and what is said of it.
PLANTED = {
    "claims_key_apart": ("before commit", "asked again, the answer is 409"),
    "claims_key_late": ("after commit", "the session has the messages ['message 0', 'message 0'"),  # two, or three
    "ignores_body": ("after commit", "another message under its key is answered 202"),
    "forgets_in_view": ("after commit", "model_calls: 0 in the table, 1 in the events"),
}


@pytest.mark.fault
@pytest.mark.parametrize("mutant", sorted(PLANTED))
async def test_a_key_that_does_not_hold_is_seen(postgres: Cluster, tmp_path: Path, mutant: str) -> None:
    boundary, seen = PLANTED[mutant]
    async with _server(postgres, tmp_path, mutant) as (server, ada):
        found = await _broken_promises(server, ada, [_at(boundary)])
    assert any(seen in one for one in found), found
