"""The main job: a message becomes a durable, streamed, supervised answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


async def test_a_message_is_answered_from_real_files_and_a_write_waits_for_a_person(server: RunningServer) -> None:
    ada = await server.person()
    agent = await ada.agent(tools=["files"])
    session = str(uuid4())
    upload = {"file": ("notes.txt", b"Backups run at night.\nRestoring takes an hour.")}
    await ada.call("POST", f"/v1/my/chat/{session}/files", 201, files=upload)

    answer = await ada.ask(agent, "What do the files say about backups?", session)
    assert answer["run"]["status"] == "completed"
    assert answer["run"]["demo"] is True
    assert "Backups run at night." in answer["message"]["content"]
    assert answer["message"]["content"].startswith("[demo]")

    accepted = await ada.send(agent, "Please write a summary to summary.md", session)
    approval = await ada.approval(accepted["run_id"])
    assert approval["tool"] == "files_write"
    assert (await ada.run(accepted["run_id"]))["status"] == "waiting"
    await ada.decide(approval)
    run = await ada.until(accepted["run_id"])
    assert run["status"] == "completed"
    files = await ada.call("GET", f"/v1/my/chat/{session}/files")
    assert "summary.md" in [one["path"] for one in files["items"]]


async def test_the_stream_shows_the_turn_from_the_request_to_the_answer(server: RunningServer) -> None:
    ada = await server.person()
    agent = await ada.agent()
    accepted = await ada.send(agent, "hello")
    names: list[str] = []
    async with ada.stream(accepted["stream"].removeprefix("/v1/my/events/stream")) as events:
        async for event in events:
            names.append(event["event"])
            if event["event"] == "run_completed":
                break
    assert names[0] == "message_created"
    assert "direct_agent_call" in names
    assert "run_started" in names
    assert names[-1] == "run_completed"
