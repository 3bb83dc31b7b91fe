"""A database for every test of dispatch: its tables are shared by all tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from retinue.database import Database
from tests.dispatch.support import Plant
from tests.support.databases import Cluster


@pytest.fixture
async def plant(postgres: Cluster) -> AsyncIterator[Plant]:
    name = await postgres.clone()
    database = Database(postgres.dsn(name), size=12)
    await database.open()
    yield Plant(database)
    await database.close()
    await postgres.drop(name)
