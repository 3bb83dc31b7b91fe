"""Fixtures that every room's tests share: a real database, services and scopes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from retinue.database import Database
from tests.support.databases import Cluster, cluster, run_id
from tests.support.mounts import unmount_below

# A loaded machine may stop an example for seconds: how long one takes is for bench/ to say.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """The test run's PostgreSQL server with a migrated template."""
    with cluster(run_id()) as found:
        yield found


@pytest.fixture(scope="session")
def database_name(postgres: Cluster) -> Iterator[str]:
    """This worker's database. Tests keep apart by tenant: each makes its own."""
    name = asyncio.run(postgres.clone())
    yield name
    asyncio.run(postgres.drop(name))


@pytest.fixture(scope="session")
async def database(postgres: Cluster, database_name: str) -> AsyncIterator[Database]:
    """A pool on this worker's database, as the application's role."""
    found = Database(postgres.dsn(database_name), size=8)
    await found.open()
    yield found
    await found.close()


@pytest.fixture(scope="session", autouse=True)
def unmounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Unmount what sandboxes left below this worker's folder, or pytest fails to remove it later."""
    yield
    unmount_below(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder that belongs to this worker's database: the root key in it opens the server's key."""
    return tmp_path_factory.mktemp("data")
