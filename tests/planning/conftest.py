"""One started server and one scripted model server for the stories of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from retinue.database import Database
from retinue.dispatch import Dispatcher
from retinue.house import ROOMS
from retinue.kernel import Settings
from retinue.planning.room import start as start_planning
from retinue.runs import Delegations
from retinue.runs.room import start as start_runs
from retinue.tools import Plugins, Toolbox
from tests.planning.office import Office
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import RunningServer, running_server
from tests.support.scopes import ledger_services


@pytest.fixture(scope="session")
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as found:
        yield found


@pytest.fixture(scope="session")
async def server(postgres: Cluster, model: ModelServer) -> AsyncIterator[RunningServer]:
    """A server whose agents ask ``model``. Tests keep apart by tenant and by ``tag``."""
    settings: dict[str, Any] = {
        "OPENAI_BASE_URL": model.base_url,
        "OPENAI_API_KEY": "stub-key",
        "RETINUE_DEFAULT_MODEL": "openai:stub-0ms",
    }
    async with running_server(postgres, **settings) as found:
        yield found


@pytest.fixture
def tag() -> str:
    """A word that no other test uses."""
    return f"tag{uuid4().hex[:10]}"


@pytest.fixture
async def office(database: Database) -> Office:
    services = ledger_services(database, [one for room in ROOMS for one in room.projections])
    settings = services.add(Settings, Settings())
    services.add(Toolbox, Toolbox(settings, Plugins()))
    services.add(Dispatcher, Dispatcher(database, settings, services))  # not opened: it takes no work
    await start_runs(services)
    await start_planning(services)
    assert services.get(Delegations) is not None
    return Office(services)
