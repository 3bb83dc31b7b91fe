"""An agent's lane: so many runs at once and no more, the most urgent next, and a queue with an end."""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import uuid4

import pytest

from tests.story.support import Story, look_at, until


@pytest.mark.parametrize("places", [1, 2, 3])
async def test_ten_messages_go_through_so_many_places(story: Story, tag: str, places: int) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": places, "queue": 20})
    texts = [f"!hold {tag}-{n}\n!say done {tag}-{n}" for n in range(10)]
    accepted = [await ada.send(agent, text) for text in texts]
    # The first ones have the places; the others wait in the order they came.
    for released in range(10):
        expected = min(places, 10 - released)
        names = await until(lambda: _open(story, tag), partial(_are, expected))
        assert names == [f"{tag}-{n}" for n in range(released, released + expected)]
        view = await look_at(ada, agent)
        assert (view["running"], view["queued"]) == (expected, 10 - released - expected)
        story.model.release(f"{tag}-{released}")
        await ada.until(accepted[released]["run_id"], "completed")
    assert (await look_at(ada, agent))["status"] == "ready"
    assert len(story.asked(tag)) == 10


async def _open(story: Story, tag: str) -> list[str]:
    return [one.user.splitlines()[0].removeprefix("!hold ") for one in story.open(tag)]


def _are(count: int, names: list[str]) -> bool:
    return len(names) == count


async def test_ten_messages_at_the_same_moment_never_exceed_the_lane(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 3, "queue": 20})
    accepted = await asyncio.gather(*(ada.send(agent, f"!delay 0.4\n!say {tag} {n}") for n in range(10)))
    for one in accepted:
        assert (await ada.until(one["run_id"]))["status"] == "completed"
    spans = [(one.started, one.started + (one.ended or 0)) for one in story.asked(tag)]
    assert len(spans) == 10
    most = max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)
    assert most == 3, "the lane was not used up, or more were under way than it allows"


async def test_the_most_urgent_is_next_and_equals_in_order(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 1, "queue": 20}, priority=1)
    first = await ada.send(agent, f"!hold {tag}\n!say {tag} first")
    await story.model.wait_for_requests(1, contains=tag)
    others = [
        await ada.send(agent, f"!say {tag} {name}", priority=priority)
        for name, priority in [("low", 0), ("agent's", None), ("high", 5), ("high too", 5)]
    ]
    story.model.release(tag)
    for one in [first, *others]:
        await ada.until(one["run_id"], "completed")
    said = [one.user.splitlines()[-1].removeprefix(f"!say {tag} ") for one in story.asked(tag)]
    assert said == ["first", "high", "high too", "agent's", "low"]


async def test_a_full_queue_refuses_and_keeps_nothing_of_the_message(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 1, "queue": 1})
    accepted = [await ada.send(agent, f"!hold {tag}\n!say {n}") for n in range(2)]
    session = str(uuid4())
    path = f"/v1/my/chat/{session}/messages"
    body = {"content": "one too many", "target_agent": agent["agent_id"]}
    answer = await ada.client.post(path, json=body)
    assert answer.status_code == 429, answer.text
    assert answer.json()["detail"].startswith("The agent has 1 runs waiting")
    assert int(answer.headers["Retry-After"]) > 0
    await ada.call("GET", f"/v1/my/chat/{session}", 404)
    view = await look_at(ada, agent)
    assert (view["running"], view["queued"], view["status"]) == (1, 1, "busy")
    story.model.release(tag)
    for one in accepted:
        assert (await ada.until(one["run_id"]))["status"] == "completed"
    assert (await ada.ask(agent, "!say there is room again", session))["message"]["content"] == "there is room again"


async def test_lanes_of_two_agents_do_not_wait_for_each_other(story: Story, tag: str) -> None:
    ada = await story.server.person()
    slow, quick = [await ada.agent(limits={"concurrency": 1}) for _ in range(2)]
    held = await ada.send(slow, f"!hold {tag}")
    assert (await ada.ask(quick, "!say not held up"))["message"]["content"] == "not held up"
    assert (await ada.run(held["run_id"]))["status"] == "running"
    story.model.release(tag)
    await ada.until(held["run_id"], "completed")
