"""The paper house, served once for all tests of the web that need nothing special."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from retinue.database import Database
from retinue.web.streams import Streams
from tests.web.paper import House, Person, eventually, served, settings_for_tests


@pytest.fixture(scope="session")
async def house(database: Database) -> AsyncIterator[House]:
    async with served(database, settings_for_tests(body_limit=65_536, upload_limit=200_000)) as found:
        yield found


@pytest.fixture
async def ann(house: House) -> Person:
    """A new user with a tenant of her own, once the server has seen that earlier tests' streams were hung up."""
    await eventually(lambda: house.services.get(Streams).count() == 0, 60)
    return house.gate.add()
