"""The live stream on a real socket: what it shows, to whom, and that nothing is lost or shown twice."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from retinue.kernel import Actor, ActorKind, Scope, SystemClock, Unavailable
from retinue.ledger import Event, Feed, append
from retinue.live import Frame
from retinue.web import streams as streams_module
from retinue.web import track as track_module
from retinue.web.channel import Channel
from retinue.web.connection import Connection
from retinue.web.streams import Streams
from retinue.web.track import Track
from tests.support.databases import Cluster
from tests.web.listening import Heard, Listener, listening
from tests.web.paper import (
    House,
    NoteHidden,
    NoteTorn,
    NoteWritten,
    Person,
    eventually,
)


def texts(heard: list[Heard]) -> list[str]:
    return [one.payload["text"] for one in heard]


def streams(house: House) -> Streams:
    return house.services.get(Streams)


# What is shown


async def test_events_arrive_as_they_are_recorded(house: House, ann: Person) -> None:
    session, run = uuid4(), uuid4()
    async with listening(house.url, ann.headers) as listener:
        assert listener.status == 200
        assert listener.headers["content-type"].startswith("text/event-stream")
        assert "no-cache" in listener.headers["cache-control"]
        assert listener.headers["x-accel-buffering"] == "no"
        assert listener.last_id == 0
        note = await house.write(ann, 'ä "quoted"\nline', session_id=session, run_id=run)
        heard = await listener.next()
    assert heard.id == 1
    assert heard.event == heard.data["event_type"] == "message_created"
    assert heard.payload == {"note_id": str(note), "text": 'ä "quoted"\nline'}
    assert heard.data["session_id"] == str(session)
    assert heard.data["run_id"] == str(run)
    assert heard.data["timestamp"].endswith("Z")
    assert set(heard.data) == {"event_type", "payload", "timestamp", "session_id", "run_id"}


async def test_only_the_owners_events_are_shown(house: House, ann: Person) -> None:
    colleague = house.gate.add(tenant_id=ann.tenant_id)
    keyed = house.gate.add(tenant_id=ann.tenant_id, scopes=frozenset({"events:read"}))
    async with AsyncExitStack() as stack:
        hers, his, its = [
            await stack.enter_async_context(listening(house.url, person.headers)) for person in (ann, colleague, keyed)
        ]
        await house.write(ann, "hers")
        await house.write(colleague, "his")
        async with house.database.transaction(ann.tenant_id) as uow:
            system = Scope(ann.tenant_id, Actor(ActorKind.SYSTEM), uow, SystemClock(), house.services)
            await append(system, "note:tenant", 0, [_note("everybody's")])
        await house.write(keyed, "its")
        await house.write(ann, "end")
        await house.write(colleague, "end")
        assert texts(await hers.several(3)) == ["hers", "everybody's", "end"]
        assert texts(await his.several(3)) == ["his", "everybody's", "end"]
        assert texts([await its.next()]) == ["its"]  # its scopes do not let it read notes that nobody owns


def _note(text: str) -> Event:
    return NoteWritten(note_id=uuid4(), text=text)


async def test_another_tenants_events_are_never_shown(house: House, ann: Person) -> None:
    """The same user in another tenant: the tenant decides first."""
    elsewhere = house.gate.add(user_id=ann.user_id, tenant_id=uuid4())
    house.gate.people[ann.token] = ann
    async with listening(house.url, ann.headers) as listener:
        await house.write(elsewhere, "elsewhere")
        await house.write(ann, "here")
        assert texts([await listener.next()]) == ["here"]


async def test_unlisted_and_broken_events_hide_no_others(house: House, ann: Person) -> None:
    async with listening(house.url, ann.headers) as listener:
        async with house.scope(ann) as scope:
            await append(scope, "note:x", 0, [NoteHidden(note_id=uuid4()), NoteTorn(note_id=uuid4())])
        await house.write(ann, "shown")
        heard = await listener.next()
    assert (heard.id, heard.payload["text"]) == (3, "shown")


async def test_filters(house: House, ann: Person) -> None:
    session, run = uuid4(), uuid4()
    async with AsyncExitStack() as stack:
        by_session, by_run, by_type, foreign = [
            await stack.enter_async_context(listening(house.url, ann.headers, **query))
            for query in (
                {"session": session},
                {"run": run},
                {"types": "message_delta, system_notice"},
                {"session": uuid4()},
            )
        ]
        await house.write(ann, "neither")
        await house.write(ann, "session", session_id=session)
        await house.write(ann, "run", run_id=run)
        await house.write(ann, "both", session_id=session, run_id=run)
        house.live.publish(frame_of(ann, run, 0, "piece"))
        house.live.publish(frame_of(ann, uuid4(), 0, "other"))
        assert texts(await by_session.several(2)) == ["session", "both"]
        # A frame does not wait for events that are on their way.
        assert sorted(texts(await by_run.several(3))) == ["both", "piece", "run"]
        assert texts(await by_type.several(2)) == ["piece", "other"]
        with pytest.raises(TimeoutError):
            await foreign.next(0.2)


@pytest.mark.parametrize(
    "query, headers, status, field",
    [
        ({"after": "x"}, {}, 422, "after"),
        ({"after": -1}, {}, 422, "after"),
        ({"after": 2**63}, {}, 422, "after"),
        ({"after": 99}, {}, 422, "after"),
        ({}, {"Last-Event-ID": "x"}, 422, "Last-Event-ID"),
        ({}, {"Last-Event-ID": "99999999999999999999"}, 422, "Last-Event-ID"),
        ({}, {"Last-Event-ID": "7" * 30}, 422, "last-event-id"),
        ({"session": "x"}, {}, 422, "session"),
        ({"run": "1"}, {}, 422, "run"),
        ({"types": "nonsense"}, {}, 422, "types"),
        ({"types": ","}, {}, 422, "types"),
        ({"ticket": "x" * 300}, {}, 422, "ticket"),
    ],
)
async def test_nonsense_is_refused(
    house: House, ann: Person, query: dict[str, Any], headers: dict[str, str], status: int, field: str
) -> None:
    async with listening(house.url, {**ann.headers, **headers}, **query) as listener:
        assert listener.status == status
        assert listener.headers["content-type"] == "application/problem+json"
        assert (await listener.body())["errors"][0]["field"] == field
    assert streams(house).count() == 0


async def test_strangers_get_no_stream(house: House) -> None:
    nobody = house.gate.add(scopes=frozenset())
    for headers, status in (({}, 401), ({"Authorization": "Bearer forged"}, 401), (nobody.headers, 403)):
        async with listening(house.url, headers) as listener:
            assert listener.status == status


# Resuming


async def test_a_stream_resumes_without_gap_or_duplicate(house: House, ann: Person) -> None:
    await house.write(ann, "one")
    await house.write(ann, "two", copies=700)  # more than a page
    async with listening(house.url, ann.headers, after=0) as listener:
        heard = await listener.several(701)
    assert [one.id for one in heard] == list(range(1, 702))
    ways: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({"Last-Event-ID": "699"}, {}),
        ({}, {"after": 699}),
        ({"Last-Event-ID": "699"}, {"after": 1}),
    ]
    for headers, query in ways:
        async with listening(house.url, {**ann.headers, **headers}, **query) as listener:
            assert listener.last_id == 699
            await house.write(ann, "new")
            first, second, third = await listener.several(3)
        assert (first.id, second.id) == (700, 701)
        assert third.id is not None
        assert third.id > 701


async def test_nothing_is_lost_between_the_past_and_the_present(house: House, ann: Person) -> None:
    """Clients come at any moment while events are recorded; each sees every one exactly once, in order."""
    await house.write(ann, "before", copies=300)
    total = 300 + 40 * 5
    writing = asyncio.Event()

    async def write() -> None:
        for n in range(40):
            await house.write(ann, f"during {n}", copies=5)
            writing.set()

    async def listen(after: int) -> list[int | None]:
        async with listening(house.url, ann.headers, after=after) as listener:
            return [one.id for one in await listener.several(total - after, 30)]

    writer = asyncio.create_task(write())
    await writing.wait()
    waves = []
    for wave in range(5):
        waves += [asyncio.create_task(listen(after)) for after in (0, 50, 299, 305)]
        await asyncio.sleep(0.005 * wave)
    results = await asyncio.gather(*waves)
    await writer
    for n, after in enumerate((0, 50, 299, 305) * 5):
        assert results[n] == list(range(after + 1, total + 1))


async def test_the_test_would_notice_a_gap(house: House, ann: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: a stream that joins after it has read the past misses what is recorded in between."""
    await house.write(ann, "before", copies=10)
    original = Connection._begin

    async def late(self: Connection, track: Track, start: int, after: int | None, texts: Any) -> None:
        await original(self, track, start, after, texts)
        self.cursor = track.end

    async def slow_past(self: Connection, after: int, upto: int) -> None:
        await house.write(ann, "in between")
        self.cursor = self._track.end if self._track else 0

    monkeypatch.setattr(Connection, "_begin", late)
    monkeypatch.setattr(Connection, "_send_past", slow_past)
    async with listening(house.url, ann.headers, after=0) as listener:
        await house.write(ann, "last")
        seen = [one.id for one in [await listener.next()]]
    assert seen != [1]


async def test_a_position_that_is_no_longer_kept_is_gone(house: House, ann: Person, monkeypatch: Any) -> None:
    await house.write(ann, "x", copies=20)

    async def oldest(self: Any, tenant_id: UUID) -> int:
        return 11

    monkeypatch.setattr(Feed, "oldest", oldest)
    async with listening(house.url, ann.headers, after=9) as listener:
        assert listener.status == 410
        document = await listener.body()
        assert document["type"] == "urn:retinue:problem:gone"
        assert document["oldest"] == 11
    async with listening(house.url, ann.headers, after=10) as listener:
        assert [one.id for one in await listener.several(10)] == list(range(11, 21))


async def test_quiet_streams_are_shown_alive(house: House, ann: Person, monkeypatch: Any) -> None:
    monkeypatch.setattr(streams_module, "QUIET_SECONDS", 0.5)
    bob = house.gate.add(tenant_id=ann.tenant_id)
    async with listening(house.url, ann.headers) as listener:
        await house.write(bob, "not for her", copies=3)
        block = await listener.block()
        assert block is not None
        assert (block.event, block.data) == ("", {})
        # The comment moves the resume position on, so that a quiet client has little to catch up with.
        assert block.id == 3


async def test_many_reconnect_at_once(house: House, ann: Person) -> None:
    await house.write(ann, "past", copies=600)

    async def reconnect(after: int) -> None:
        async with listening(house.url, ann.headers, after=after) as listener:
            heard = await listener.several(601 - after, 30)
        assert [one.id for one in heard] == list(range(after + 1, 602))

    waiting = [asyncio.create_task(reconnect(400 + n)) for n in range(150)]
    await eventually(lambda: streams(house).count() > 100)
    await house.write(ann, "present")
    await asyncio.gather(*waiting)
    await eventually(lambda: streams(house).count() == 0)
    assert not streams(house)._seats
    assert not streams(house)._holders


# Frames


def frame_of(person: Person, run: UUID, offset: int, text: str, attempt: int = 1) -> Frame:
    return Frame(person.tenant_id, run, None, person.user_id, None, attempt, offset, text)


async def test_frames_have_no_id_and_come_late_joiners_complete(house: House, ann: Person) -> None:
    run = uuid4()
    async with listening(house.url, ann.headers) as early:
        house.live.publish(frame_of(ann, run, 0, "Hel"))
        house.live.publish(frame_of(ann, run, 3, "lo "))
        async with listening(house.url, ann.headers) as late, listening(house.url, ann.headers, after=0) as resumed:
            house.live.publish(frame_of(ann, run, 6, "Ann"))
            heard = await early.several(3)
            assert texts(heard) == ["Hel", "lo ", "Ann"]
            assert {(one.id, one.event) for one in heard} == {(None, "message_delta")}
            for listener in (late, resumed):
                first, second = await listener.several(2)
                assert first.payload == {"message_id": None, "text": "Hello ", "offset": 0, "attempt": 1}
                assert (second.payload["offset"], second.payload["text"]) == (6, "Ann")
        house.live.publish(frame_of(ann, run, 0, "Bye", attempt=2))
        async with listening(house.url, ann.headers) as later:
            assert (await later.next()).payload == {"message_id": None, "text": "Bye", "offset": 0, "attempt": 2}
        await house.write(ann, "Bye", run_id=run)
        assert (await early.several(2))[1].event == "message_created"
        async with listening(house.url, ann.headers) as after_the_end:
            with pytest.raises(TimeoutError):
                await after_the_end.next(0.2)


async def test_frames_are_for_their_owner(house: House, ann: Person) -> None:
    colleague = house.gate.add(tenant_id=ann.tenant_id)
    async with listening(house.url, colleague.headers) as listener:
        house.live.publish(frame_of(ann, uuid4(), 0, "secret"))
        house.live.publish(frame_of(colleague, uuid4(), 0, "his"))
        assert texts([await listener.next()]) == ["his"]
    async with listening(house.url, colleague.headers) as listener:
        assert texts([await listener.next()]) == ["his"]
    house.live.publish(Frame(ann.tenant_id, uuid4(), None, None, None, 1, 0, "nobody's"))


# Slow clients


async def test_a_slow_client_is_cut_and_resumes(house: House, ann: Person, monkeypatch: Any) -> None:
    monkeypatch.setattr(track_module, "RING_ITEMS", 50)
    filler = "x" * 20_000
    total = 600
    async with AsyncExitStack() as stack:
        quick = [await stack.enter_async_context(listening(house.url, ann.headers)) for _ in range(3)]
        slow = await stack.enter_async_context(listening(house.url, ann.headers, receive_buffer=4096))
        readers = [asyncio.create_task(listener.several(total, 60)) for listener in quick]
        for _ in range(total // 10):
            await house.write(ann, filler, copies=10)
        for reader in readers:
            assert [one.id for one in await reader] == list(range(1, total + 1))
        # It was cut although it never read and never hung up; what it held in memory is gone with it.
        await eventually(lambda: streams(house).count() == 3)
        heard = [one.id for one in await slow.rest()]
        assert len(heard) < total
        last = slow.last_id or 0
        assert heard == list(range(1, last + 1))
    async with listening(house.url, ann.headers, after=last) as resumed:
        assert [one.id for one in await resumed.several(total - last, 30)] == list(range(last + 1, total + 1))


async def test_a_client_that_was_slow_for_a_while_misses_nothing(house: House, ann: Person) -> None:
    filler = "x" * 20_000
    async with listening(house.url, ann.headers, receive_buffer=4096) as listener:
        (holder,) = streams(house)._holders.values()
        (connection,) = holder.connections
        total = 0
        while total < 1000 and not connection.busy_since:  # until the kernel takes no more
            await house.write(ann, filler, copies=10)
            total += 10
        assert connection.busy_since
        for _ in range(4):
            await house.write(ann, filler, copies=10)
        total += 40
        heard = await listener.several(total, 60)
        assert [one.id for one in heard] == list(range(1, total + 1))
        await eventually(lambda: connection.busy_since == 0)
        await house.write(ann, "again quick")
        assert (await listener.next()).payload["text"] == "again quick"


async def test_a_client_that_does_not_move_is_cut(house: House, ann: Person, monkeypatch: Any) -> None:
    monkeypatch.setattr(streams_module, "STALLED_SECONDS", 0.5)
    async with listening(house.url, ann.headers, receive_buffer=4096):
        for _ in range(30):
            await house.write(ann, "x" * 20_000, copies=20)
        await eventually(lambda: streams(house).count() == 0)


async def test_a_burst_larger_than_the_ring_reaches_quick_clients(house: House, ann: Person) -> None:
    async with listening(house.url, ann.headers) as listener:
        reading = asyncio.create_task(listener.several(4000, 60))
        for _ in range(4):
            await house.write(ann, "y" * 1000, copies=1000)
        assert [one.id for one in await reading] == list(range(1, 4001))


# The database away


async def test_streams_survive_the_loss_of_every_database_connection(
    house: House, ann: Person, postgres: Cluster, database_name: str
) -> None:
    async with listening(house.url, ann.headers) as listener:
        await house.write(ann, "before")
        assert texts([await listener.next()]) == ["before"]
        superuser = await asyncpg.connect(postgres.server.dsn("postgres", "postgres"))
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database_name
        )
        await superuser.close()
        for _ in range(20):  # the pool finds out which of its connections are dead by using them
            with contextlib.suppress(Unavailable):
                await house.write(ann, "after")
                break
        assert texts([await listener.next()]) == ["after"]


async def test_a_pump_that_stumbles_goes_on(house: House, ann: Person, monkeypatch: Any) -> None:
    original = Channel._take
    stumbles = [Unavailable("away"), RuntimeError("a mistake")]

    async def take(self: Channel, events: Any) -> None:
        if stumbles:
            raise stumbles.pop()
        await original(self, events)

    async with listening(house.url, ann.headers) as listener:
        monkeypatch.setattr(Channel, "_take", take)
        await house.write(ann, "in spite of it")
        assert texts([await listener.next()]) == ["in spite of it"]
    assert not stumbles


async def test_one_stream_that_fails_takes_no_other_along(house: House, ann: Person, monkeypatch: Any) -> None:
    """Without the net in ``_start`` the others would miss what was being handed on, and everything after it."""
    async with AsyncExitStack() as stack:
        several = [await stack.enter_async_context(listening(house.url, ann.headers)) for _ in range(5)]
        await house.write(ann, "before")
        for listener in several:
            assert texts([await listener.next()]) == ["before"]
        (holder,) = streams(house)._holders.values()
        broken = next(iter(holder.connections))

        async def fails(_message: Any) -> None:
            raise ValueError("a mistake")

        monkeypatch.setattr(broken, "_send", fails)
        await house.write(ann, "after", copies=3)
        assert sorted([await _count(listener) for listener in several]) == [0, 3, 3, 3, 3]
        assert broken.ended == "error"


async def _count(listener: Listener) -> int:
    """Return how many of three events come before the stream ends."""
    try:
        return len(await listener.several(3))
    except AssertionError:
        return 0


async def test_a_past_that_cannot_be_read_in_time_ends_that_stream_alone(
    house: House, ann: Person, monkeypatch: Any
) -> None:
    """A time limit set on the way into the past must strike whoever waits there, not the request around it."""
    await house.write(ann, "past", copies=3)
    ends = []
    original = Connection.end

    def end(self: Connection, reason: str) -> None:
        ends.append(reason)
        original(self, reason)

    async def never(*_: Any) -> Any:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    monkeypatch.setattr(Connection, "end", end)
    monkeypatch.setattr(streams(house)._feed, "read", never)
    monkeypatch.setattr(Channel, "check", _let_pass)
    async with listening(house.url, ann.headers, after=1) as listener:
        assert await listener.rest() == []
    await eventually(lambda: streams(house).count() == 0)
    assert ends == ["error"]


async def _let_pass(self: Channel, after: int) -> None:
    pass
