"""Fault 3: the server is killed while it takes a message; the client asks again with the same idempotency key."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.faults.checks import conversation_gaps, views_that_differ
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer, running_server

KILLS = 8


async def _post(ada: Person, path: str, body: dict[str, Any], key: str) -> httpx.Response | None:
    """Send once; None when the server died under it."""
    try:
        return await ada.client.post(path, json=body, headers={"Idempotency-Key": key})
    except httpx.TransportError:
        return None


async def _killed_while_posting(
    server: RunningServer, ada: Person, path: str, body: dict[str, Any], key: str, after: float
) -> httpx.Response | None:
    posting = asyncio.create_task(_post(ada, path, body, key))
    await asyncio.sleep(after)
    await asyncio.to_thread(server.kill)
    return await posting


@pytest.mark.fault
async def test_one_key_is_one_message_whenever_the_server_dies(postgres: Cluster) -> None:
    dice = random.Random(20261120)
    # Kills in quick succession take a run down again and again: that alone must not make it poison here.
    async with (
        ModelServer() as model,
        running_server(postgres, OPENAI_BASE_URL=model.base_url, RETINUE_RUN_ATTEMPTS="50") as server,
    ):
        ada = await server.person()
        agent = await ada.agent(model="openai:stub-0ms")
        session, accepted = str(uuid4()), []
        path = f"/v1/my/chat/{session}/messages"
        for n in range(KILLS):
            body, key = {"content": f"message {n}", "target_agent": agent["agent_id"]}, f"key-{n}"
            first = await _killed_while_posting(server, ada, path, body, key, dice.uniform(0.0, 0.03))
            await server.start()
            again = await _post(ada, path, body, key)
            assert again is not None
            assert again.status_code == 202, again.text
            if first is not None and first.status_code == 202:
                assert first.json()["run_id"] == again.json()["run_id"]
            third = await _post(ada, path, body, key)
            assert third is not None
            assert third.json() == again.json()
            other = await _post(ada, path, body | {"content": "something else"}, key)
            assert other is not None
            assert other.status_code == 422, other.text
            accepted.append(again.json()["run_id"])
        for run_id in accepted:
            assert (await ada.until(run_id))["status"] == "completed"
        messages = (await ada.call("GET", f"{path}?limit=200"))["items"]
        asked = [message["content"] for message in messages if message["role"] == "user"]
        assert asked == [f"message {n}" for n in range(KILLS)]
        assert await conversation_gaps(ada, session) == []
        assert await views_that_differ(ada, accepted) == []
