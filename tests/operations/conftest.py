"""One server for the tests of this folder that need no other; tests keep apart by tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.databases import Cluster
from tests.support.running import Person, RunningServer, running_server


@pytest.fixture(scope="session")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture
async def person(server: RunningServer) -> Person:
    return await server.person()
