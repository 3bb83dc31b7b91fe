"""The checks that every story ends with do see what they are there for."""

from __future__ import annotations

import asyncpg
import pytest

from tests.story.support import Story, differences, untruths


@pytest.mark.parametrize(
    "table, damage, mend, seen",
    [
        ("lanes", "running = running + 1", "running = running - 1", "a lane's counters"),
        ("lanes", "queued = queued + 1", "queued = queued - 1", "a lane's counters"),
        ("runs", "has_slot = true", "has_slot = false", "a run has a slot"),
        ("heads", "position = position + 1", "position = position - 1", "a tenant's positions"),
    ],
)
async def test_damage_is_seen(story: Story, table: str, damage: str, mend: str, seen: str) -> None:
    ada = await story.server.person()
    await ada.ask(await ada.agent(), "!say hello")
    assert await untruths(story.server) == []
    assert story.server.cluster is not None
    assert story.server.database is not None
    connection = await asyncpg.connect(story.server.cluster.dsn(story.server.database, "postgres"))
    try:
        await connection.execute(f"UPDATE {table} SET {damage} WHERE tenant_id = $1", ada.account["tenant_id"])
        found = await untruths(story.server)
        await connection.execute(f"UPDATE {table} SET {mend} WHERE tenant_id = $1", ada.account["tenant_id"])
    finally:
        await connection.close()
    assert any(one.startswith(seen) for one in found), found


async def test_a_row_that_differs_from_its_events_is_seen(story: Story) -> None:
    ada = await story.server.person()
    await ada.ask(await ada.agent(), "!say hello")
    assert await differences(ada) == []
    assert story.server.cluster is not None
    assert story.server.database is not None
    connection = await asyncpg.connect(story.server.cluster.dsn(story.server.database, "postgres"))
    try:
        change = "UPDATE runs SET attempts = attempts + $2 WHERE tenant_id = $1"
        await connection.execute(change, ada.account["tenant_id"], 1)
        (found,) = await differences(ada)
        await connection.execute(change, ada.account["tenant_id"], -1)
    finally:
        await connection.close()
    assert found.startswith("attempts of ")
