"""A house with a worker for the tests of this folder; each test has a tenant of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from retinue.artifacts import hooks
from retinue.house import House
from tests.artifacts.support import Place, opened_house, place_in
from tests.support.databases import Cluster


@pytest.fixture(scope="session")
async def house(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with opened_house(postgres, tmp_path_factory.mktemp("artifacts")) as found:
        yield found


@pytest.fixture
def place(house: House) -> Place:
    return place_in(house)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This room by itself: what other rooms fill in is left out, unless a test fills it in."""
    for name in ("limits", "charge", "grant_terms", "noted"):
        monkeypatch.setattr(hooks, name, None)
