"""Times, events and callbacks below HTTP, where the test moves the clock: each once, whatever happens twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from retinue.database import Database
from retinue.dispatch import Dispatcher
from retinue.house import ROOMS
from retinue.kernel import BadInput, Conflict, ManualClock, Scope, Services, Settings
from retinue.planning import PlanRow, PlanStatus, list_plans
from retinue.planning.work import advance
from retinue.tools import Toolbox
from retinue.workflows import callbacks, commands, secrets, triggers, views, work
from retinue.workflows.reading import read_text
from retinue.workflows.times import CronLine
from tests.support.databases import Cluster
from tests.support.scopes import scope_of
from tests.support.site import Account, Site, open_site


class Place:
    """A tenant with one admin, a clock that stands still, and no worker: the test does what one would do."""

    def __init__(self, services: Services, clock: ManualClock, account: Account) -> None:
        self.services = services
        self.clock = clock
        self.account = account

    def scope(self, *, system: bool = False) -> AbstractAsyncContextManager[Scope]:
        user = None if system else self.account.user_id
        return scope_of(self.services, self.account.tenant_id, user_id=user, clock=self.clock)

    async def apply(self, text: str) -> views.Stored:
        async with self.scope() as scope:
            source = read_text(text.encode())
            assert source.workflow is not None, source.mistakes
            if commands.listens(source):
                await commands.listen(scope)
            present = await views.by_name(scope, source.workflow.name, lock=True)
            return (await commands.apply(scope, source, present)).stored

    async def trigger(self, stored: views.Stored) -> views.StoredTrigger:
        async with self.scope() as scope:
            return (await views.triggers_of(scope, stored.workflow_id))[0]

    async def plans(self, stored: views.Stored) -> list[PlanRow]:
        async with self.scope() as scope:
            return await list_plans(scope, None, before=None, limit=100, workflow_id=stored.workflow_id)

    async def due(self, key: UUID) -> UUID | None:
        async with self.scope(system=True) as scope:
            return await triggers.on_time(scope, key)

    async def listen(self) -> int:
        """Look at new events as a worker does; return by how many positions it came on."""
        before = await self._position()
        await work.on_listen(self.services, self.account.tenant_id, self.account.tenant_id)
        return await self._position() - before

    async def _position(self) -> int:
        async with self.scope(system=True) as scope:
            return await views.position(scope) or 0

    async def look(self) -> int:
        async with self.scope(system=True) as scope:
            return await triggers.on_events(scope, 2**62)


@pytest.fixture(scope="module")
async def site(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    name = await postgres.clone()
    database = Database(postgres.dsn(name), size=8)
    await database.open()
    try:
        async with open_site(database, tmp_path_factory.mktemp("data"), ROOMS, allow_private_fetch=True) as found:
            services = found.services
            toolbox = services.add(Toolbox, Toolbox(services.get(Settings)))
            services.add(Dispatcher, Dispatcher(database, services.get(Settings), services))
            for room in ROOMS:
                if room.start is not None:
                    await room.start(services)
            yield found
            await toolbox.close()
    finally:
        await database.close()
        await postgres.drop(name)


@pytest.fixture
async def place(site: Site) -> Place:
    return Place(site.services, site.clock, await site.sign_up())


def cron(line: str, timezone: str = "UTC", step: str = "{id: a, value: 1}") -> str:
    name = f"w{uuid4().hex[:8]}"
    trigger = f"{{id: t, cron: '{line}', timezone: {timezone}}}"
    return f"spec_version: 1\nname: {name}\nsteps: [{step}]\ntriggers: [{trigger}]\n"


async def test_a_due_time_starts_one_plan_however_often_it_is_said(place: Place) -> None:
    stored = await place.apply(cron("*/10 * * * *"))
    first = await place.trigger(stored)
    assert first.next_at is not None
    assert await place.due(first.key) is None  # too early
    place.clock.advance(first.next_at - place.clock.now())
    found = await asyncio.gather(*(place.due(first.key) for _ in range(4)))
    assert len([one for one in found if one is not None]) == 1
    assert len(await place.plans(stored)) == 1
    second = await place.trigger(stored)
    assert second.next_at == first.next_at + timedelta(minutes=10)
    assert second.last_plan_id == (await place.plans(stored))[0].plan_id


async def test_times_that_were_missed_are_made_up_for_once(place: Place) -> None:
    stored = await place.apply(cron("0 * * * *"))
    before = await place.trigger(stored)
    place.clock.advance(timedelta(hours=5))
    assert await place.due(before.key) is not None
    assert await place.due(before.key) is None
    after = await place.trigger(stored)
    assert after.next_at is not None
    assert place.clock.now() < after.next_at <= place.clock.now() + timedelta(hours=1)


async def test_what_cannot_start_is_told_and_the_next_time_stays(place: Place) -> None:
    stored = await place.apply(cron("*/5 * * * *", step="{id: a, agent: Nobody, instructions: x}"))
    trigger = await place.trigger(stored)
    place.clock.advance(timedelta(minutes=10))
    assert await place.due(trigger.key) is None
    after = await place.trigger(stored)
    assert after.last_error is not None
    assert "Nobody" in after.last_error
    assert after.next_at is not None
    assert after.next_at > place.clock.now()
    assert await place.plans(stored) == []


async def test_a_trigger_that_is_as_it_was_keeps_its_time_and_another_does_not(place: Place) -> None:
    text = cron("*/10 * * * *")
    first = await place.trigger(await place.apply(text))
    same = await place.trigger(await place.apply(text.replace("value: 1", "value: 2")))
    assert (same.key, same.next_at) == (first.key, first.next_at)
    other = await place.trigger(await place.apply(text.replace("*/10", "*/20")))
    assert other.key != first.key
    place.clock.advance(timedelta(hours=1))
    assert await place.due(first.key) is None  # the wake-up of a trigger that is gone


async def test_a_deleted_workflow_is_set_off_by_nothing(place: Place) -> None:
    stored = await place.apply(cron("*/10 * * * *"))
    trigger = await place.trigger(stored)
    async with place.scope() as scope:
        found = await views.by_name(scope, stored.name, lock=True)
        assert found is not None
        await commands.delete(scope, found)
    place.clock.advance(timedelta(hours=1))
    assert await place.due(trigger.key) is None
    assert await place.plans(stored) == []


async def test_nothing_starts_for_an_owner_who_may_not_any_more(place: Place) -> None:
    stored = await place.apply(cron("*/10 * * * *"))
    trigger = await place.trigger(stored)
    place.clock.advance(timedelta(hours=1))
    async with place.scope() as scope:
        await scope.queries.execute("UPDATE members SET role = 'viewer'")
    assert await place.due(trigger.key) is None
    after = await place.trigger(stored)
    assert after.last_error is not None
    assert "may not start" in after.last_error


@pytest.mark.parametrize(
    "line, zone, after, expected",
    [
        # Clocks go forward: 02:30 does not exist that day.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z"),
        # Clocks go back: 02:30 comes twice and is taken once.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T00:30:00Z"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ("0 7 * * 1-5", "America/New_York", "2026-11-20T13:00:00Z", "2026-11-23T12:00:00Z"),
        ("0 0 29 2 *", "UTC", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
    ],
)
def test_times_in_their_zone(line: str, zone: str, after: str, expected: str) -> None:
    found = CronLine(line, zone).after(datetime.fromisoformat(after))
    assert found == datetime.fromisoformat(expected)


@pytest.mark.parametrize("line", ["", "* * * * * *", "@daily", "60 * * * *", "a b c d e", "*/0 * * * *", "1-0 * * * *"])
def test_nonsense_is_no_cron_line(line: str) -> None:
    with pytest.raises(BadInput):
        CronLine(line, "UTC")


def listening(name: str) -> str:
    return (
        f"spec_version: 1\nname: {name}\nsteps: [{{id: a, value: 1}}]\n"
        "triggers: [{id: t, event: {type: agent.created}}]\n"
    )


async def test_an_event_that_is_looked_at_twice_starts_one_plan(place: Place) -> None:
    """The position moves in the transaction of the plan: one that is rolled back leaves neither."""
    stored = await place.apply(listening(f"w{uuid4().hex[:8]}"))
    answer = await place.account.client.post("/v1/my/agents", json={"name": "Ada", "instructions": "x"})
    assert answer.status_code == 201

    async def killed_before_the_commit() -> None:
        async with place.scope(system=True) as scope:
            assert await triggers.on_events(scope, 2**62) > 0
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        await killed_before_the_commit()
    assert await place.plans(stored) == []
    await asyncio.gather(*(place.look() for _ in range(3)))
    assert len(await place.plans(stored)) == 1


async def test_a_position_that_stays_would_start_a_second_plan(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: without the move of the position, the test above would see two plans."""
    stored = await place.apply(listening(f"w{uuid4().hex[:8]}"))
    await place.account.client.post("/v1/my/agents", json={"name": "Bob", "instructions": "x"})

    async def stay(_scope: Scope, _position: int, _listening: bool) -> None:
        return None

    monkeypatch.setattr(views, "set_listener", stay)
    await place.look()
    await place.look()
    assert len(await place.plans(stored)) == 2


async def test_events_start_no_endless_row_of_runs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "MOST_A_MINUTE", 3)
    stored = await place.apply(listening(f"w{uuid4().hex[:8]}"))
    for at in range(5):
        await place.account.client.post("/v1/my/agents", json={"name": f"Agent {at}", "instructions": "x"})
    await place.look()
    assert len(await place.plans(stored)) == 3
    assert (await place.trigger(stored)).last_error == "More than 3 runs in a minute."


async def test_a_look_that_takes_long_leaves_the_next_events_to_the_next_look(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant with very much to match gives its place to others between events; none of them is lost."""
    monkeypatch.setattr(triggers, "LOOK_SECONDS", -1)
    stored = await place.apply(listening(f"w{uuid4().hex[:8]}"))
    for at in range(3):
        await place.account.client.post("/v1/my/agents", json={"name": f"Agent {at}", "instructions": "x"})
    looks = 0
    while await place.listen() > 0:
        looks += 1
    assert looks > 3, "one event at a time"
    assert len(await place.plans(stored)) == 3


async def hooked(place: Place) -> tuple[views.Stored, UUID, dict[str, str]]:
    """Apply a workflow with a webhook, and sign a message to it."""
    steps, hook = "[{id: a, value: 1}]", "[{id: t, webhook: true}]"
    stored = await place.apply(f"spec_version: 1\nname: w{uuid4().hex[:8]}\nsteps: {steps}\ntriggers: {hook}\n")
    key = (await place.trigger(stored)).key
    async with place.scope() as scope:
        secret = await secrets.make(scope, secrets.HOOK, key)
    return stored, key, secrets.signed(secret, "m1", datetime.now(UTC), "{}")


async def take(place: Place, key: UUID, headers: dict[str, str]) -> UUID:
    async with place.scope(system=True) as scope:
        return await triggers.on_message(scope, key, headers, b"{}")


async def test_a_message_that_comes_twice_at_once_starts_one_plan(place: Place) -> None:
    stored, key, headers = await hooked(place)
    found = await asyncio.gather(*(take(place, key, headers) for _ in range(4)), return_exceptions=True)
    assert [type(one) for one in found if isinstance(one, Exception)] == [Conflict] * 3
    assert len(await place.plans(stored)) == 1


@pytest.mark.parametrize("depth", [33, 900, 100_000])
async def test_a_message_nested_too_deep_is_refused(place: Place, depth: int) -> None:
    """What can be read in one place could be too deep to be written, or read, in another."""
    stored, key, _ = await hooked(place)
    body = "[" * depth + "]" * depth
    async with place.scope() as scope:
        secret = await secrets.make(scope, secrets.HOOK, key)
    headers = secrets.signed(secret, "deep", datetime.now(UTC), body)
    with pytest.raises(BadInput, match="nested too deep"):
        async with place.scope(system=True) as scope:
            await triggers.on_message(scope, key, headers, body.encode())
    assert await place.plans(stored) == []


async def test_a_message_that_is_not_noted_would_be_taken_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: without the note of its id, a replay is a second plan."""
    stored, key, headers = await hooked(place)

    async def fresh(*_: object) -> bool:
        return True

    monkeypatch.setattr(views, "take_message", fresh)
    await take(place, key, headers)
    await take(place, key, headers)
    assert len(await place.plans(stored)) == 2


async def test_nobody_listens_any_more_when_nothing_waits(place: Place) -> None:
    stored = await place.apply(listening(f"w{uuid4().hex[:8]}"))
    async with place.scope() as scope:
        found = await views.by_name(scope, stored.name, lock=True)
        assert found is not None
        await commands.delete(scope, found)
    await place.look()
    async with place.scope() as scope:
        listener = await views.listener(scope)
    assert listener is not None
    assert listener[1] is False


# Callbacks


async def ended_with_callback(place: Place, url: str) -> views.Callback:
    stored = await place.apply(f"spec_version: 1\nname: w{uuid4().hex[:8]}\nsteps: [{{id: a, value: 1}}]\n")
    async with place.scope() as scope:
        await secrets.make(scope, secrets.CALLBACK, stored.workflow_id)
    async with place.scope() as scope:
        plan_id = await commands.start(scope, stored, {}, callback=url)
    await advance(place.services, place.account.tenant_id, plan_id)
    assert (await place.plans(stored))[0].status is PlanStatus.COMPLETED
    async with place.scope() as scope:
        return (await views.list_callbacks(scope, None, None, None, 1))[0]


async def again(place: Place, callback: views.Callback) -> views.Callback:
    await callbacks.deliver(place.services, place.account.tenant_id, callback.callback_id)
    async with place.scope() as scope:
        return await views.callback(scope, callback.callback_id)


async def test_a_callback_nobody_takes_is_tried_with_growing_pauses_then_dead_then_requeued(place: Place) -> None:
    callback = await ended_with_callback(place, "http://127.0.0.1:9/nobody")
    pauses: list[timedelta] = []
    for attempt in range(1, len(callbacks.PAUSES) + 1):
        callback = await again(place, callback)
        assert (callback.status, callback.attempts) == ("pending", attempt)
        assert callback.reason
        pauses.append(callback.due_at - place.clock.now())
        early = await again(place, callback)
        assert early.attempts == attempt  # not before its time
        place.clock.advance(pauses[-1])
    assert pauses == list(callbacks.PAUSES) == sorted(pauses)
    callback = await again(place, callback)
    assert callback.status == "dead"
    assert callback.reason
    assert (await again(place, callback)).attempts == callback.attempts
    async with place.scope() as scope:
        requeued = await callbacks.requeue(scope, callback.callback_id)
    assert (requeued.status, requeued.attempts) == ("pending", 0)
    async with place.scope() as scope:
        with pytest.raises(Conflict):
            await callbacks.requeue(scope, callback.callback_id)


async def test_two_workers_send_a_callback_once(place: Place) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        await asyncio.sleep(0.3)
        writer.write(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    listening_at = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening_at.sockets[0].getsockname()[1]}/"
    callback = await ended_with_callback(place, url)
    await asyncio.gather(*(again(place, callback) for _ in range(3)))
    assert len(got) == 1
    assert (await again(place, callback)).status == "delivered"
    assert json.loads(callback.body)["data"]["status"] == "completed"
    listening_at.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "https://example.org:8443/",
        "https://me:pw@example.org/",
        "file:///etc/passwd",
        "https://",
    ],
)
def test_callbacks_to_odd_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        callbacks.check_url(url, Settings(data=tmp_path))


async def test_callbacks_reach_no_private_address(place: Place, tmp_path: Path) -> None:
    """The name may be public and lead to a private address: what is connected to is checked."""
    callback = await ended_with_callback(place, "https://127.0.0.1/")
    before = place.services.get(Settings)
    place.services.add(Settings, before.model_copy(update={"allow_private_fetch": False}))
    try:
        found = await again(place, callback)
    finally:
        place.services.add(Settings, before)
    assert found.reason is not None
    assert "cannot be reached" in found.reason
