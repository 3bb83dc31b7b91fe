"""Whose events a workflow or a waiting task is told: those that its owner may see, as on the live stream."""

from __future__ import annotations

import asyncio
import time

from retinue.house import ROOMS
from tests.board.support import office_on
from tests.support.running import RunningServer
from tests.workflows.test_story import graph, until


async def test_a_wait_takes_no_event_of_a_team_that_its_owner_is_not_in(server: RunningServer) -> None:
    office = await office_on(server)
    wanted = {"title": "wait", "tasks": [{"id": "w", "kind": "wait", "wait": {"event": "item.created"}}]}
    outsider = await office.moe.call("POST", "/v1/my/plans", 202, json=wanted)
    member = await office.mia.call("POST", "/v1/my/plans", 202, json=wanted)
    for person, plan in ((office.moe, outsider), (office.mia, member)):
        await until(person, plan, lambda one: one["nodes"][0]["status"] == "running")
    await office.item("only for reds", team=office.red)
    assert "only for reds" in str(await until(office.mia, member))
    seen_by = time.monotonic() + 2  # whoever looks for mia has looked for moe, too
    while time.monotonic() < seen_by:
        assert (await graph(office.moe, outsider))["status"] == "running"
        await asyncio.sleep(0.1)
    await office.item("for everybody")
    found = await until(office.moe, outsider)
    assert "for everybody" in str(found)
    assert "only for reds" not in str(found)


def test_an_event_with_an_audience_names_it_as_its_team() -> None:
    """What decides for waits and triggers is the field that decides for the live stream."""
    some_id = "01920000-0000-7000-8000-000000000001"
    kept = 0
    for room in ROOMS:
        for name, streamed in room.streamed.items():
            if getattr(streamed, "audience", None) is not None:
                kept += 1
                assert streamed.audience({"team": some_id}) == f"team:{some_id}", name
                assert streamed.audience({}) is None, name
    assert kept
