"""The live stream: nothing lost and nothing twice, however often a client comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import websockets

from tests.story.support import Story
from tests.support.running import PASSWORD, Person

WORDS = "one two three four five six seven eight"


async def _take(events: AsyncIterator[dict[str, Any]], last: str) -> list[dict[str, Any]]:
    """Return what comes, up to and including the first event of type ``last``."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        async for event in events:
            found.append(event)
            if event["event"] == last:
                return found
    raise AssertionError(f"the stream ended before {last}: {[one['event'] for one in found]}")


def _durable(events: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(int(one["id"]), one["event"]) for one in events if one["id"]]


async def test_a_stream_resumes_at_every_point_without_gap_or_repetition(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["clock"])
    runs = [await ada.send(agent, f"!tool clock {{}}\n!say number {n}") for n in range(3)]
    for run in runs:
        await ada.until(run["run_id"], "completed")
    last = await ada.send(agent, "!say the end", priority=7)
    await ada.until(last["run_id"], "completed")
    async with ada.stream("?after=0") as events:
        whole = await _all_of_four_runs(events)
    assert [position for position, _ in whole] == sorted({position for position, _ in whole})
    assert len(whole) > 15
    for n, (position, _) in enumerate(whole[:-1]):
        if n % 5 == 0:
            async with ada.stream(f"?after={position}") as events:
                assert await _until_position(events, whole[-1][0]) == whole[n + 1 :]
    middle = whole[len(whole) // 2]
    async with ada.stream("", **{"Last-Event-ID": str(middle[0])}) as events:
        rest = await _until_position(events, whole[-1][0])
    assert rest == whole[whole.index(middle) + 1 :]


async def _all_of_four_runs(events: AsyncIterator[dict[str, Any]]) -> list[tuple[int, str]]:
    found: list[dict[str, Any]] = []
    for _ in range(4):
        found += await _take(events, "run_completed")
    return _durable(found)


async def _until_position(events: AsyncIterator[dict[str, Any]], position: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    async with asyncio.timeout(20):
        async for event in events:
            found += _durable([event])
            if found and found[-1][0] >= position:
                return found
    raise AssertionError(f"the stream ended at {found[-1:]}")


async def test_a_client_that_reconnects_all_the_time_sees_what_a_calm_one_sees(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["clock"], limits={"concurrency": 5})
    task = "!delay 0.05\n" + "!tool clock {}\n" * 3

    async def work() -> None:
        for one in await asyncio.gather(*(ada.send(agent, task) for _ in range(6))):
            await ada.until(one["run_id"], "completed")

    working = asyncio.create_task(work())
    seen: list[tuple[int, str]] = []
    ends = 0
    while ends < 6:
        after = seen[-1][0] if seen else 0
        async with ada.stream(f"?after={after}") as events:
            async for event in events:
                seen += _durable([event])
                ends += event["event"] == "run_completed"
                if len(seen) % 3 == 0 or ends == 6:
                    break
    await working
    async with ada.stream("?after=0") as events:
        assert await _until_position(events, seen[-1][0]) == seen
    assert all(a < b for (a, _), (b, _) in pairwise(seen))


async def test_the_text_comes_piece_by_piece_also_to_who_joins_late(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    accepted = await ada.send(agent, f"!say {WORDS} {tag}\n!deltas 8 0.25")
    query = f"?run={accepted['run_id']}"
    async with ada.stream(f"{query}&after=0") as early:
        first = await _take(early, "message_delta")
        async with ada.stream(query) as late:
            joined = await _take(late, "run_completed")
        first += await _take(early, "run_completed")
    for seen in (first, joined):
        pieces = [one["data"] for one in seen if one["event"] == "message_delta"]
        assert len(pieces) > 1, "the text came in one piece"
        text = ""
        for piece in pieces:
            payload = piece["payload"]
            assert payload["offset"] == len(text), "a piece is missing or came twice"
            text += payload["text"]
        assert text == f"{WORDS} {tag}"
        assert not any(one["id"] for one in seen if one["event"] == "message_delta")


async def test_filters_let_through_what_was_asked_for(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    one, two = await ada.send(agent, "!say one"), await ada.send(agent, "!say two")
    for run in (one, two):
        await ada.until(run["run_id"], "completed")
    async with ada.stream(f"?run={two['run_id']}&after=0") as events:
        only = await _take(events, "run_completed")
    assert {event["data"]["run_id"] for event in only} == {two["run_id"]}
    async with ada.stream("?types=message_created,run_completed&after=0") as events:
        seen = await _take(events, "run_completed") + await _take(events, "run_completed")
    assert {event["event"] for event in seen} == {"message_created", "run_completed"}
    async with ada.stream(f"?session={one['session_id']}&after=0") as events:
        only = await _take(events, "run_completed")
    assert {event["data"]["session_id"] for event in only} == {one["session_id"]}


async def test_nobody_hears_of_others(story: Story) -> None:
    ada, eve = await story.server.person("ada"), await story.server.person("eve")
    agent, hers = await ada.agent(), await eve.agent()
    async with eve.stream("?after=0") as events:
        await ada.ask(agent, "!say a secret")
        await eve.ask(hers, "!say mine")
        seen = await _take(events, "run_completed")
    assert "secret" not in json.dumps(seen)
    assert any("mine" in json.dumps(event) for event in seen)


async def test_the_websocket_tells_the_same_story(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    accepted = await ada.send(agent, "!say twice told")
    await ada.until(accepted["run_id"], "completed")
    query = f"?run={accepted['run_id']}&after=0&types=direct_agent_call,message_created,run_completed"
    async with ada.stream(query) as events:
        told = [{"id": int(one["id"]), **one["data"]} for one in await _take(events, "run_completed")]
    opening, *heard = await _over_websocket(story, ada, query)
    assert opening["event_type"] == "stream_position"
    assert heard == told


async def _over_websocket(story: Story, person: Person, query: str) -> list[Any]:
    url = f"ws://127.0.0.1:{story.server.port}/v1/my/events/ws{query}"
    headers = {"Authorization": person.client.headers["Authorization"]}
    found: list[Any] = []
    async with websockets.connect(url, additional_headers=headers) as socket, asyncio.timeout(20):
        async for text in socket:
            found.append(json.loads(text))
            if found[-1]["event_type"] == "run_completed":
                break
    return found


async def test_whoever_signs_out_hears_no_more(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    await ada.ask(agent, "!say hello")
    async with ada.stream("?after=0") as events:
        await _take(events, "run_completed")
        await ada.call("POST", "/v1/auth/logout", 204)
        async with asyncio.timeout(10):
            rest = [event["event"] async for event in events]
    assert "run_completed" not in rest
    await ada.call("GET", "/v1/my/profile", 401)
    del ada.client.headers["Authorization"]
    email = ada.account["email"]
    login = await ada.call("POST", "/v1/auth/login", json={"email": email, "password": PASSWORD})
    ada.client.headers["Authorization"] = f"Bearer {login['access_token']}"
    assert (await ada.ask(agent, "!say back"))["message"]["content"] == "back"


async def test_an_impossible_position_is_refused(story: Story) -> None:
    ada = await story.server.person()
    for after in ("999999", "-1", "yesterday"):
        problem = await ada.call("GET", f"/v1/my/events/stream?after={after}", 422)
        assert [one["field"] for one in problem["errors"]] == ["after"]
