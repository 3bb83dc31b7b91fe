"""The application for these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from retinue.database import Database
from tests.support.site import Site, open_site


@pytest.fixture
async def site(database: Database, data_folder: Path) -> AsyncIterator[Site]:
    async with open_site(database, data_folder) as found:
        yield found
