"""The server as its operators see it: limits, health, metrics, and API and workers as processes of their own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.story.support import Story, differences, until, untruths
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import RunningServer, free_port, running_server

WORDS = "one two three four five six seven eight"


async def test_health_metrics_and_the_description_of_the_api(story: Story) -> None:
    async with httpx.AsyncClient(base_url=story.server.base_url) as client:
        for name in ("live", "ready", "startup"):
            assert (await client.get(f"/health/{name}")).status_code == 200
        ada = await story.server.person()
        await ada.ask(await ada.agent(), "!say counted")
        metrics = (await client.get("/metrics")).text
        lines = [line for line in metrics.splitlines() if line and not line.startswith("#")]
        assert any(line.startswith("retinue_") and float(line.rsplit(" ", 1)[1]) > 0 for line in lines)
        assert ada.tenant_id not in metrics
        described = (await client.get("/v1/openapi.json")).json()
        assert "/v1/my/chat/{session_id}/messages" in described["paths"]


async def test_every_answer_carries_the_trace_that_the_log_names(story: Story) -> None:
    ada = await story.server.person()
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = await ada.client.get("/v1/my/runs/nonsense", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert answer.status_code == 404
    assert answer.json()["trace_id"] == trace
    assert trace in answer.headers["traceparent"]

    async def log() -> str:
        return story.server.log()

    assert trace in await until(log, lambda text: trace in text)


async def test_requests_of_one_user_are_counted_and_limited(postgres: Cluster) -> None:
    settings: dict[str, Any] = {"RETINUE_RATE_LIMIT": "5/minute", "RETINUE_LOGIN_RATE_LIMIT": "off"}
    async with running_server(postgres, **settings) as server:
        ada, eve = await server.person("ada"), await server.person("eve")
        answers = [await ada.client.get("/v1/my/profile") for _ in range(7)]
        assert [one.status_code for one in answers] == [200] * 5 + [429] * 2
        assert answers[0].headers["RateLimit-Policy"] == '"default";q=5;w=60'
        left = [one.headers["RateLimit"].split(";")[1] for one in answers]
        assert left == ["r=4", "r=3", "r=2", "r=1", "r=0", "r=0", "r=0"]
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert (await eve.client.get("/v1/my/profile")).status_code == 200


@asynccontextmanager
async def _split(postgres: Cluster, model: ModelServer, **settings: str) -> AsyncIterator[RunningServer]:
    """Start an API process that runs nothing, and a worker."""
    given: dict[str, Any] = {"OPENAI_BASE_URL": model.base_url, "RETINUE_DEFAULT_MODEL": "openai:stub-0ms", **settings}
    async with running_server(postgres, worker=False, **given) as server:
        server.start_worker()
        yield server


@asynccontextmanager
async def _redis(folder: Path) -> AsyncIterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)


async def _whole_turn(server: RunningServer) -> list[str]:
    """Have a question answered across processes; return the pieces of text that came before the answer."""
    ada = await server.person()
    agent = await ada.agent(tools=["ask_user"])
    accepted = await ada.send(agent, f'!tool ask_user {{"question": "Go on?"}}\n!say {WORDS}\n!deltas 8 0.1')
    await ada.decide(await ada.approval(accepted["run_id"], seconds=30), answer="yes")
    pieces: list[str] = []
    names: list[str] = []
    async with asyncio.timeout(30), ada.stream(f"?run={accepted['run_id']}&after=0") as events:
        async for event in events:
            names.append(event["event"])
            if event["event"] == "message_delta":
                pieces.append(event["data"]["payload"]["text"])
            elif event["event"] == "run_completed":
                break
    assert "approval_required" in names
    hanging = await ada.send(agent, "!hang")
    await ada.until(hanging["run_id"], "running")
    await ada.call("POST", f"/v1/my/runs/{hanging['run_id']}/cancel", 202)
    assert (await ada.until(hanging["run_id"], seconds=30))["status"] == "cancelled"
    assert await untruths(server) == []
    assert await differences(ada) == []
    return pieces


async def test_api_and_workers_as_processes_of_their_own(postgres: Cluster, model: ModelServer) -> None:
    async with _split(postgres, model) as server:
        await _whole_turn(server)


async def test_with_redis_the_text_crosses_processes_piece_by_piece(
    postgres: Cluster, model: ModelServer, tmp_path: Path
) -> None:
    async with _redis(tmp_path) as url, _split(postgres, model, REDIS_URL=url) as server:
        pieces = await _whole_turn(server)
    assert len(pieces) > 1
    # The last of them may come after the answer: frames are in order among themselves, not against events.
    assert WORDS.startswith("".join(pieces))
