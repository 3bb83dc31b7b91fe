"""One started server and one scripted model server for all modules of a test worker that need nothing special."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.effects import effect_settings
from tests.story.support import Story, differences, untruths
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, running_server


@pytest.fixture(scope="session")
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as found:
        yield found


@pytest.fixture(scope="session")
async def story(
    postgres: Cluster, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Story]:
    """A server whose agents ask ``model``. Tests keep apart by tenant (each signs somebody up) and by ``tag``."""
    file = tmp_path_factory.mktemp("story") / "effects"
    settings: dict[str, Any] = effect_settings(
        file, OPENAI_BASE_URL=model.base_url, OPENAI_API_KEY="stub-key", RETINUE_DEFAULT_MODEL="openai:stub-0ms"
    )
    settings["RETINUE_MCP_STDIO"] = "true"
    settings["PYTHONPATH"] += f"{os.pathsep}{Path(__file__).parent / 'plugin'}"
    async with running_server(postgres, **settings) as server:
        yield Story(server, model, file)


@pytest.fixture
def tag() -> str:
    """A word that no other test uses: for holds, scripts and looking into the model server's log."""
    return f"tag{uuid4().hex[:10]}"


@pytest.fixture(autouse=True)
async def truth(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """After each story, hold what the server shows of runs and lanes against the ledger."""
    served: list[Story] = [request.getfixturevalue(name) for name in ("story", "ward") if name in request.fixturenames]
    before = {client for one in served for client in one.server.clients}
    yield
    for one in served:
        assert await untruths(one.server) == []
        for client in one.server.clients:
            if client not in before:
                assert await differences(Person(client, {})) == []
