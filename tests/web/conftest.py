"""The paper house, served once for all tests of the web that need nothing special."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from retinue.database import Database
from tests.web.paper import House, Person, served, settings_for_tests


@pytest.fixture(scope="session")
async def house(database: Database) -> AsyncIterator[House]:
    async with served(database, settings_for_tests(body_limit=65_536, upload_limit=200_000)) as found:
        yield found


@pytest.fixture
def ann(house: House) -> Person:
    """A new user with a tenant of her own."""
    return house.gate.add()
