"""The board over HTTP, on a started server."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.board.support import Office, office_on
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture
async def office(server: RunningServer) -> Office:
    return await office_on(server)


async def test_an_item_is_made_shown_and_changed(office: Office) -> None:
    made = await office.item(
        "Fix the login page", labels=["web", "bug"], priority="high", due="2026-12-01T12:00:00+02:00"
    )
    assert (made["version"], made["state"], made["labels"]) == (1, "open", ["bug", "web"])
    assert made["due"] == "2026-12-01T10:00:00Z"
    answer = await office.mia.client.get(f"/v1/board/items/{made['item_id']}")
    assert answer.headers["ETag"] == '"1"'
    changed = await office.change(office.mia, made, state="review", due=None)
    assert (changed["state"], changed["due"], changed["version"]) == ("review", None, 2)
    # What is so already is no change.
    assert (await office.change(office.mia, made, state="review"))["version"] == 2
