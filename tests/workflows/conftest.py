"""One started server and one scripted model server for the stories of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import RunningServer, running_server


@pytest.fixture(scope="session")
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as found:
        yield found


@pytest.fixture(scope="session")
async def server(postgres: Cluster, model: ModelServer) -> AsyncIterator[RunningServer]:
    """A server whose agents ask ``model``. Tests keep apart by tenant."""
    settings: dict[str, Any] = {
        "OPENAI_BASE_URL": model.base_url,
        "OPENAI_API_KEY": "stub-key",
        "RETINUE_DEFAULT_MODEL": "openai:stub-0ms",
    }
    async with running_server(postgres, **settings) as found:
        yield found
