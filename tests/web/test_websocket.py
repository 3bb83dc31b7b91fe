"""The WebSocket twin of the stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from retinue.web.streams import Streams
from tests.web.paper import House, Person, eventually
from tests.web.test_streams import frame_of


def opened(house: House, headers: dict[str, str], query: str = "") -> Any:
    url = house.url.replace("http://", "ws://") + "/v1/my/events/ws" + query
    return connect(url, additional_headers=headers)


async def heard(client: ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        return [json.loads(await client.recv()) for _ in range(count)]


async def test_it_carries_the_same(house: House, ann: Person) -> None:
    session = uuid4()
    await house.write(ann, "past", copies=3)
    async with opened(house, ann.headers, f"?after=1&session={session}") as client:
        (opening,) = await heard(client, 1)
        assert (opening["id"], opening["event_type"]) == (1, "stream_position")
        note = await house.write(ann, "with it", session_id=session)
        await house.write(ann, "without it")
        run = uuid4()
        async with opened(house, ann.headers, f"?run={run}") as other:
            assert (await heard(other, 1))[0]["id"] == 5
            house.live.publish(frame_of(ann, run, 0, "piece"))
            (frame,) = await heard(other, 1)
            assert frame["id"] is None
            assert frame["payload"]["text"] == "piece"
        (message,) = await heard(client, 1)
        assert message["id"] == 4
        assert message["event_type"] == "message_created"
        assert message["payload"] == {"note_id": str(note), "text": "with it"}
        assert message["session_id"] == str(session)
    await eventually(lambda: house.services.get(Streams).count() == 0)


async def test_it_resumes_without_gap_or_duplicate(house: House, ann: Person) -> None:
    await house.write(ann, "past", copies=600)
    async with opened(house, ann.headers, "?after=100") as client:
        await house.write(ann, "present", copies=5)
        messages = await heard(client, 1 + 505)
    assert [one["id"] for one in messages] == [100, *range(101, 606)]


@pytest.mark.parametrize("query, status", [("?after=x", 422), ("?after=99", 422), ("?types=none", 422), ("", 401)])
async def test_refusals_are_problems(house: House, ann: Person, query: str, status: int) -> None:
    headers = {} if status == 401 else ann.headers
    with pytest.raises(InvalidStatus) as refusal:
        async with opened(house, headers, query):
            pass
    response = refusal.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["traceparent"]
    assert json.loads(response.body or b"")["status"] == status


async def test_no_permission_no_stream(house: House) -> None:
    nobody = house.gate.add(scopes=frozenset())
    with pytest.raises(InvalidStatus) as refusal:
        async with opened(house, nobody.headers):
            pass
    assert refusal.value.response.status_code == 403


async def test_a_ticket_opens_it(house: House, ann: Person) -> None:
    async with house.client(ann) as client:
        ticket = (await client.post("/v1/my/events/ticket")).json()["ticket"]
    async with opened(house, {}, f"?ticket={ticket}") as socket:
        await house.write(ann, "by ticket")
        assert (await heard(socket, 2))[1]["payload"]["text"] == "by ticket"
    with pytest.raises(InvalidStatus):
        async with opened(house, {}, f"?ticket={ticket}"):
            pass


async def test_a_lost_right_closes_it(house: House, ann: Person) -> None:
    async with opened(house, ann.headers) as client:
        await heard(client, 1)
        ann.known = False
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(5):
                await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


async def test_what_clients_say_is_ignored(house: House, ann: Person) -> None:
    async with opened(house, ann.headers) as client:
        await client.send("hello")
        await client.send(b"\x00\xff")
        await house.write(ann, "still here")
        assert (await heard(client, 2))[1]["payload"]["text"] == "still here"


async def test_too_much_said_closes_it(house: House, ann: Person) -> None:
    async with opened(house, ann.headers) as client:
        await heard(client, 1)
        await client.send("x" * 10_000)
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(5):
                await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_no_database_connection_is_held(house: House, ann: Person) -> None:
    async with opened(house, ann.headers) as client:
        await heard(client, 1)
        await eventually(lambda: house.database.in_use() == 0)
