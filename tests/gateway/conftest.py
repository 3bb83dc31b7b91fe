"""A gateway for each test."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from retinue.database import Database
from tests.gateway.gateway_setting import Setting, open_setting


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder whose name is short enough for a client's socket address."""
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        yield Path(folder) / "line"


@pytest.fixture
async def setting(database: Database, data_folder: Path, socket_folder: Path) -> AsyncIterator[Setting]:
    """A gateway's surroundings."""
    async with open_setting(database, data_folder, socket_folder) as found:
        yield found
