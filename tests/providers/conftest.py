"""A model server and providers that talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from retinue.providers import Providers
from tests.providers.stub import settings_for
from tests.support.model_server import ModelServer


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """A scripted model server of the test's own."""
    async with ModelServer() as running:
        yield running


@pytest.fixture
async def providers(server: ModelServer) -> AsyncIterator[Providers]:
    """Providers with the usual settings."""
    made = Providers(settings_for(server))
    yield made
    await made.close()
