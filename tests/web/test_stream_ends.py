"""Who may hold a live stream, for how long, and how it ends."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from retinue.database import Database
from retinue.kernel import Unavailable
from retinue.web import streams as streams_module
from tests.web.listening import STREAM, listening
from tests.web.paper import House, Person, eventually, in_the, served, settings_for_tests
from tests.web.test_streams import streams, texts

# Rights and ends


async def test_a_lost_right_ends_the_stream_within_five_seconds(house: House, ann: Person) -> None:
    colleague = house.gate.add(tenant_id=ann.tenant_id)
    loop = asyncio.get_running_loop()
    for change in ({"known": False}, {"scopes": frozenset({"notes:read"})}, {"role": "member"}):
        victim = house.gate.add()
        async with listening(house.url, colleague.headers) as other:
            async with listening(house.url, victim.headers) as first, listening(house.url, victim.headers) as second:
                await eventually(lambda: streams(house).count() == 3)
                started = loop.time()
                asked = house.gate.standing_asked
                for name, value in change.items():
                    setattr(victim, name, value)
                assert await first.rest() == []
                assert await second.rest() == []
                assert first.ended
                assert loop.time() - started < 5
                assert house.gate.standing_asked - asked <= 3  # once for everybody, not for each stream
            await house.write(colleague, "still here")
            assert texts([await other.next()]) == ["still here"]


async def test_an_expired_token_ends_the_stream(house: House) -> None:
    person = house.gate.add(expires_at=in_the(timedelta(seconds=1.5)))
    async with listening(house.url, person.headers) as listener:
        await listener.rest(5)
        assert listener.ended


async def test_streams_end_when_rights_cannot_be_checked(house: House, ann: Person, monkeypatch: Any) -> None:
    async def away(*args: Any) -> Any:
        raise Unavailable("away")

    monkeypatch.setattr(house.gate, "standing", away)
    async with listening(house.url, ann.headers) as listener:
        with pytest.raises(TimeoutError):
            await listener.rest(4)  # an outage of a few seconds is no reason
        monkeypatch.setattr(streams_module, "UNCHECKED_SECONDS", 1.0)
        await listener.rest(5)
        assert listener.ended


async def test_the_server_takes_no_more_streams_than_it_may(database: Database) -> None:
    async with served(database, settings_for_tests(stream_limit=2)) as house, AsyncExitStack() as stack:
        ann = house.gate.add()
        for _ in range(2):
            await stack.enter_async_context(listening(house.url, ann.headers))
        async with listening(house.url, ann.headers) as third:
            assert third.status == 503
            assert third.headers["retry-after"] == "10"
        await stack.aclose()
        await eventually(lambda: streams(house).count() == 0)
        async with listening(house.url, ann.headers) as again:
            assert again.status == 200


async def test_streams_end_in_good_order_when_the_server_stops(database: Database) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        async with served(database, settings_for_tests()) as house:
            ann = house.gate.add()
            open_ones = [await stack.enter_async_context(listening(house.url, ann.headers)) for _ in range(5)]
            await house.write(ann, "last words")
            stopping = loop.time()
        assert loop.time() - stopping < 2.5  # not the three seconds of patience
        for listener in open_ones:
            assert texts(await listener.rest()) == ["last words"]
            assert listener.ended


async def test_a_client_that_leaves_leaves_nothing_behind(house: House, ann: Person) -> None:
    for _ in range(20):
        async with listening(house.url, ann.headers):
            pass
    await eventually(lambda: streams(house).count() == 0)
    await eventually(lambda: not streams(house)._seats)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "stream-pump"]


# Tickets


async def test_a_ticket_opens_one_stream(house: House, ann: Person) -> None:
    async with house.client(ann) as client:
        response = await client.post("/v1/my/events/ticket")
        assert response.status_code == 201
        assert response.json()["expires_in"] == 30
        ticket = response.json()["ticket"]
        assert ann.token not in ticket
    async with listening(house.url, {}, ticket=ticket) as listener:
        assert listener.status == 200
        await house.write(ann, "by ticket")
        assert texts([await listener.next()]) == ["by ticket"]
        ann.known = False  # a stream by ticket ends with the rights, too
        await listener.rest(5)
        assert listener.ended
    for used in (ticket, "x", f"{ann.tenant_id.hex}.x", f"{uuid4().hex}.{ticket.partition('.')[2]}", "%00"):
        async with listening(house.url, {}, ticket=used) as listener:
            assert listener.status in (401, 422)


async def test_a_ticket_is_for_streams_only_and_short_lived(house: House, ann: Person) -> None:
    async with house.client(ann) as client:
        tickets = [(await client.post("/v1/my/events/ticket")).json()["ticket"] for _ in range(2)]
    async with house.client() as client:
        assert (await client.get("/v1/my/notes", params={"ticket": tickets[0]})).status_code == 401
    async with house.scope(ann) as scope:
        rows = await scope.queries.fetch("SELECT * FROM stream_tickets")
        assert len(rows) == 2
        assert all(tickets[0].partition(".")[2] not in str(row) for row in rows)
        await scope.queries.execute("UPDATE stream_tickets SET expires_at = now() - interval '1 second'")
    async with listening(house.url, {}, ticket=tickets[0]) as listener:
        assert listener.status == 401


async def test_the_path_of_the_stream_is_the_one_of_the_contract(house: House) -> None:
    async with house.client() as client:
        document = json.loads((await client.get("/v1/openapi.json")).text)
    answers = document["paths"][STREAM]["get"]["responses"]
    assert "text/event-stream" in answers["200"]["content"]
    assert {"401", "403", "410", "422", "503"} <= set(answers)
