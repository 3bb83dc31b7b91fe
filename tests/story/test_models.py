"""Models that fail, answer in a shape, or are not there: what a run makes of it, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.story.support import Story, kinds, messages
from tests.support.model_server import ModelServer, Step
from tests.support.running import Person, free_port


@pytest.fixture
async def own() -> AsyncIterator[ModelServer]:
    """A model server of one test, so that the breaker that its failures open is nobody else's."""
    async with ModelServer() as found:
        yield found


async def _keyed(story: Story, address: str, key: str = "tenant-key") -> Person:
    """Sign somebody up whose tenant has a key and an address of its own."""
    person = await story.server.person()
    path = f"/v1/tenants/{person.tenant_id}/secrets/openai"
    await person.call("PUT", path, json={"api_key": key, "base_url": address})
    return person


async def test_a_tenants_own_key_is_used_and_shown_to_nobody(story: Story, own: ModelServer) -> None:
    ada = await _keyed(story, own.base_url, "sk-very-secret-1234567890")
    answer = await ada.ask(await ada.agent(), "!say mine")
    assert answer["message"]["content"] == "mine"
    (request,) = own.requests
    assert request.key == "sk-very-secret-1234567890"
    assert "sk-very-secret" not in str(await ada.events(answer["run"]["run_id"]))
    assert "sk-very-secret" not in story.server.log()


async def test_another_try_replaces_a_failed_one(story: Story, own: ModelServer) -> None:
    ada = await _keyed(story, own.base_url)
    answer = await ada.ask(await ada.agent(), "!status 503 1\n!say second try")
    assert answer["message"]["content"] == "second try"
    assert [one.status for one in own.requests] == [503, 200]
    (responded,) = [e for e in await ada.events(answer["run"]["run_id"]) if e["type"] == "model.responded"]
    assert responded["data"]["answer"]["attempts"] == 2
    assert "503" in responded["data"]["answer"]["failures"][0]


async def test_a_fallback_answers_when_the_first_model_does_not(story: Story, own: ModelServer) -> None:
    ada = await _keyed(story, own.base_url)
    agent = await ada.agent(model="openai:fail-500", fallbacks=["openai:no-such-thing", "openai:stub-0ms"])
    answer = await ada.ask(agent, "!say from the third")
    assert answer["message"]["content"] == "from the third"
    (responded,) = [e for e in await ada.events(answer["run"]["run_id"]) if e["type"] == "model.responded"]
    said = responded["data"]["answer"]
    assert said["model"] in ("stub-0ms", "openai:stub-0ms")
    assert any("fail-500" in one for one in said["failures"])
    assert any("no-such-thing" in one for one in said["failures"])


@pytest.mark.parametrize(
    "name, key, kind, hint",
    [
        ("openai:stub-0ms", "bad-key", "bad_key", "Check the key"),
        ("openai:no-such-model", "a-key-of-its-own", "unknown_model", "Check its name"),
        ("openai:fail-500", "a-key-of-its-own", "overloaded", "server error"),
        ("openai:fail-broken", "a-key-of-its-own", "bad_answer", "could not be used"),
        ("openai:fail-close", "a-key-of-its-own", "unreachable", "connection broke"),
    ],
)
async def test_a_failure_is_named_in_the_run_and_in_the_conversation(
    story: Story, own: ModelServer, name: str, key: str, kind: str, hint: str
) -> None:
    ada = await _keyed(story, own.base_url, key)
    answer = await ada.ask(await ada.agent(model=name), "hello")
    assert (answer["run"]["status"], answer["run"]["error"]["kind"]) == ("failed", kind)
    assert hint in answer["run"]["error"]["detail"]
    assert hint in answer["message"]["content"]
    last = (await ada.events(answer["run"]["run_id"]))[-1]
    assert (last["type"], last["data"]["kind"]) == ("run.failed", kind)


async def test_nobody_listening_is_unreachable(story: Story) -> None:
    ada = await _keyed(story, f"http://127.0.0.1:{free_port()}/v1")
    run = (await ada.ask(await ada.agent(), "hello"))["run"]
    assert run["error"]["kind"] == "unreachable"


async def test_a_fresh_try_takes_back_the_text_of_the_broken_one(story: Story, own: ModelServer) -> None:
    ada = await _keyed(story, own.base_url)
    text = "one two three four five six"
    own.script(Step(text=text, deltas=6, gap=0.1, cut_after=3), Step(text=text, deltas=6, gap=0.1))
    agent = await ada.agent()
    accepted = await ada.send(agent, "count")
    shown: dict[int, str] = {}
    async with asyncio.timeout(20), ada.stream(f"?run={accepted['run_id']}&after=0") as events:
        async for event in events:
            if event["event"] == "message_delta":
                piece = event["data"]["payload"]
                before = shown.get(piece["attempt"], "")
                assert piece["offset"] == len(before)
                shown[piece["attempt"]] = before + piece["text"]
            elif event["event"] == "run_completed":
                break
    assert len(shown) == 2, "the client cannot tell the two tries apart"
    assert shown[max(shown)] == text
    assert text.startswith(shown[min(shown)])
    assert (await messages(ada, accepted["session_id"]))[-1]["content"] == text


async def test_an_answer_in_a_shape_is_checked_and_repaired_once(story: Story, own: ModelServer) -> None:
    ada = await _keyed(story, own.base_url)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"people": {"type": "integer"}},
        "required": ["people"],
        "additionalProperties": False,
    }
    agent = await ada.agent(output_schema=schema)
    own.script(Step(value={"people": "many"}), Step(value={"people": 7}))
    answer = await ada.ask(agent, "How many?")
    assert answer["run"]["status"] == "completed"
    assert answer["message"]["content"].replace(" ", "") == '{"people":7}'
    assert len(own.requests) == 2
    own.script(Step(value={"people": "many"}, times=2))
    answer = await ada.ask(agent, "And now?")
    assert (answer["run"]["status"], answer["run"]["error"]["kind"]) == ("failed", "bad_answer")


async def test_the_demo_provider_says_that_it_is_one(story: Story) -> None:
    ada = await story.server.person()
    answer = await ada.ask(await ada.agent(model="demo:assistant"), "Hello?")
    assert answer["message"]["content"].startswith("[demo]")
    assert answer["run"]["demo"] is True
    assert kinds(await ada.events(answer["run"]["run_id"])) == [
        "run.requested",
        "run.activated",
        "model.responded",
        "run.completed",
    ]
