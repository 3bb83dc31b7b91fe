"""Very many tasks of a tenant wait for events: how many may, and what an event costs the others."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from retinue.kernel import Scope, Settings
from retinue.ledger import read_stream
from retinue.planning import commands, folding, matching
from retinue.planning.events import PlanRecovered, TaskStarted
from retinue.planning.graph import Task, Waiting
from retinue.planning.state import PlanStatus, TaskStatus
from retinue.planning.views import lock_plan
from tests.planning.driver import plan_of
from tests.planning.office import Office

WAITS = 25


def waits(count: int, **what: Any) -> list[Task]:
    return [Task(id=f"w{n}", kind="wait", wait=Waiting(event="message.sent", **what)) for n in range(count)]


async def begun(office: Office, count: int, **what: Any) -> list[UUID]:
    """Let so many plans of one task wait each."""
    found = [await office.start(plan_of(*waits(1, **what))) for _ in range(count)]
    for plan_id in found:
        await office.advance(plan_id)
    return found


async def test_only_so_many_tasks_of_a_tenant_wait_for_events(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office.services.get(Settings), "event_waits", 3)
    first = await office.start(plan_of(*waits(2)))
    await office.advance(first)
    second = await office.start(plan_of(*waits(3), on_failure="continue"))
    state = await office.advance(second)
    assert [node.status for node in state.top] == [TaskStatus.RUNNING, TaskStatus.FAILED, TaskStatus.FAILED]
    assert state.nodes["w1"].kind == "too_many_waits"
    assert "3 tasks of this tenant wait for events" in (state.nodes["w1"].detail or "")
    assert "RETINUE_EVENT_WAITS" in (state.nodes["w1"].detail or "")
    async with office.scope() as scope:
        await commands.cancel_plan(scope, first, "enough")
    state = await office.advance(await office.start(plan_of(*waits(2))))
    assert [node.status for node in state.top] == [TaskStatus.RUNNING] * 2, "whoever ends makes room"


async def test_every_task_that_waits_takes_an_event_once_page_by_page(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "PAGE", 4)
    found = [*await begun(office, 6), await office.start(plan_of(*waits(7)))]
    await office.advance(found[-1])
    assert await office.offer("message.sent", {"data": {}}) == 13
    assert await office.offer("message.sent", {"data": {}}) == 0
    for plan_id in found:
        assert (await office.advance(plan_id)).status is PlanStatus.COMPLETED


async def test_a_plan_that_cannot_be_read_does_not_keep_an_event_from_the_others(office: Office) -> None:
    found = await begun(office, 3)
    async with office.scope() as scope:
        row = await lock_plan(scope, found[0])
        await commands.record(scope, found[0], row, row.version, TaskStarted(task_id="ghost"))
    assert await office.offer("message.sent", {"data": {}}) == 2


async def test_a_plan_that_has_gone_on_elsewhere_is_not_folded_from_its_beginning(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    [plan_id] = await begun(office, 1, match="false")
    async with office.scope() as scope:
        row = await lock_plan(scope, plan_id)
        await commands.record(scope, plan_id, row, row.version, PlanRecovered())
    read_from = []

    async def noted(scope: Scope, stream: str, *, after: int = 0, upto: int | None = None) -> Any:
        read_from.append(after)
        return await read_stream(scope, stream, after=after, upto=upto)

    monkeypatch.setattr(folding, "read_stream", noted)
    assert await office.offer("message.sent", {"data": {}}) == 0
    assert read_from == [row.version]


@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["gives way", "planted: never gives way"])
async def test_others_get_their_turn_between_expressions(
    office: Office, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(matching, "TURN_SECONDS", seconds)
    await begun(office, WAITS, match="event.data.n == 1")
    turns, seen = 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    matches = matching.matches

    def noted(*given: Any) -> bool:
        seen.append(turns)
        return matches(*given)

    monkeypatch.setattr(matching, "matches", noted)
    beside = asyncio.create_task(others())
    try:
        assert await office.offer("message.sent", {"data": {"n": 2}}) == 0
    finally:
        beside.cancel()
    assert len(seen) == WAITS
    assert (len(set(seen)) == WAITS) is (seconds == 0.0)


def test_what_a_match_may_cost_is_bounded() -> None:
    once, each_with_each = "event.data.n.all(a, a >= 0)", "event.data.n.all(a, event.data.n.all(b, a + b >= 0))"
    assert matching.matches(once, {}, {"data": {"n": list(range(2_000))}})
    assert not matching.matches(each_with_each, {}, {"data": {"n": list(range(90))}}), "8,100 rounds, which CEL allows"
    assert matching.matches("event.data.text.contains('x')", {}, {"data": {"text": "x" * 200_000}})
