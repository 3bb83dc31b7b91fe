"""The scripted model server, seen through the real client libraries and Pydantic AI's models."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from pydantic import BaseModel
from pydantic_ai import Agent, AgentRunError, ModelHTTPError
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.support.model_server import ModelServer, ModelServerProcess, Step, ToolCall, Usage

WIRES = ("openai-chat", "openai-responses", "anthropic", "google")


class Clients:
    """Real clients of one server, closed at the end of the test."""

    def __init__(self, server: ModelServer, closing: contextlib.AsyncExitStack) -> None:
        self._server = server
        self._closing = closing

    def openai(self, key: str = "stub-key") -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(base_url=self._server.base_url, api_key=key, max_retries=0)
        self._closing.push_async_callback(client.close)
        return client

    def anthropic(self) -> anthropic.AsyncAnthropic:
        client = anthropic.AsyncAnthropic(base_url=self._server.url, api_key="stub-key", max_retries=0)
        self._closing.push_async_callback(client.close)
        return client

    def google(self) -> genai.Client:
        # As the product has it; by itself this client would take aiohttp, which only the tests bring along.
        http = httpx2.AsyncClient(timeout=60)
        options = genai_types.HttpOptions(base_url=self._server.url, httpx_async_client=http)
        client = genai.Client(api_key="stub-key", http_options=options)
        self._closing.push_async_callback(http.aclose)
        return client

    def model(self, wire: str, name: str = "stub-0ms") -> Model:
        if wire == "openai-chat":
            return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=self.openai()))
        if wire == "openai-responses":
            return OpenAIResponsesModel(name, provider=OpenAIProvider(openai_client=self.openai()))
        if wire == "anthropic":
            return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=self.anthropic()))
        return GoogleModel(name, provider=GoogleProvider(client=self.google()))

    async def chat(self, text: str = "x", *, model: str = "stub-0ms", key: str = "stub-key") -> str:
        answer = await self.openai(key).chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}]
        )
        return answer.choices[0].message.content or ""


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as running:
        yield running


@pytest_asyncio.fixture
async def clients(server: ModelServer) -> AsyncIterator[Clients]:
    async with contextlib.AsyncExitStack() as closing:
        yield Clients(server, closing)


@pytest.mark.parametrize("wire", WIRES)
async def test_agent_gets_the_scripted_text_and_usage(server: ModelServer, clients: Clients, wire: str) -> None:
    server.script(Step(text="Good morning.", usage=Usage(1200, 34, cached=200)))
    result = await Agent(clients.model(wire)).run("Hello?")
    assert result.output == "Good morning."
    usage = result.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (1200, 34, 200)
    (request,) = server.requests
    assert (request.wire, request.user, request.key, request.state) == (
        wire,
        "Hello?",
        "stub-key",
        "answered",
    )


@pytest.mark.parametrize("wire", WIRES)
async def test_stream_arrives_in_deltas_as_they_are_sent(server: ModelServer, clients: Clients, wire: str) -> None:
    server.script(Step(text="one two three four five six ", deltas=6, gap=0.02, usage=Usage(9, 7)))
    seen: list[tuple[str, float]] = []
    async with Agent(clients.model(wire)).run_stream("count") as stream:
        async for delta in stream.stream_text(delta=True, debounce_by=None):
            seen.append((delta, time.monotonic()))
    assert "".join(text for text, _ in seen) == "one two three four five six "
    assert len([text for text, _ in seen if text]) == 6
    assert seen[-1][1] - seen[0][1] > 0.05
    assert stream.usage.output_tokens == 7


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("streamed", [False, True])
async def test_tool_directives_call_the_tools_turn_by_turn(
    server: ModelServer, clients: Clients, wire: str, streamed: bool
) -> None:
    agent = Agent(clients.model(wire))
    calls: list[str] = []

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        calls.append(f"add {a} {b}")
        return a + b

    @agent.tool_plain
    def shout(text: str) -> str:
        calls.append(f"shout {text}")
        return text.upper()

    prompt = 'please\n!tool add {"a": 2, "b": 40}\n!also shout {"text": "x"}\n!tool shout {"text": "bye"}'
    if streamed:
        async with agent.run_stream(prompt) as stream:
            output = await stream.get_output()
    else:
        output = (await agent.run(prompt)).output
    assert sorted(calls[:2]) == ["add 2 40", "shout x"]
    assert calls[2:] == ["shout bye"]
    assert "Result of add: 42" in output
    assert "Result of shout: BYE" in output
    assert [request.turn for request in server.requests] == [0, 1, 2]
    assert not server.repeated()


class City(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize("wire", WIRES)
async def test_structured_answer_goes_through_the_output_tool(server: ModelServer, clients: Clients, wire: str) -> None:
    server.script(Step(value={"name": "Oslo", "people": 700_000}))
    result = await Agent(clients.model(wire), output_type=City).run("Which city?")
    assert result.output == City(name="Oslo", people=700_000)


async def test_structured_answer_as_text_when_json_is_asked(server: ModelServer, clients: Clients) -> None:
    client = clients.openai()
    answer = await client.chat.completions.parse(
        model="stub-0ms",
        response_format=City,
        messages=[{"role": "user", "content": '!json {"name": "Rom", "people": 3}'}],
    )
    assert answer.choices[0].message.parsed == City(name="Rom", people=3)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("status", [401, 404, 429, 500])
async def test_error_status_reaches_the_client(server: ModelServer, clients: Clients, wire: str, status: int) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await Agent(clients.model(wire, f"fail-{status}")).run("Hello?")
    assert caught.value.status_code == status
    assert server.requests[0].state == "failed"


async def test_error_documents_carry_what_clients_read(server: ModelServer, clients: Clients) -> None:
    server.script(Step(status=429, message="slow down", retry_after=2.5, times=2))
    with pytest.raises(openai.RateLimitError, match="slow down") as limited:
        await clients.chat()
    assert limited.value.response.headers["retry-after"] == "2.5"
    with pytest.raises(anthropic.RateLimitError, match="slow down"):
        await clients.anthropic().messages.create(
            model="stub-0ms", max_tokens=5, messages=[{"role": "user", "content": "x"}]
        )
    with pytest.raises(openai.AuthenticationError):
        await clients.chat(key="bad-key")
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        await clients.chat(model="no-such-model")
    with pytest.raises(genai_errors.ClientError, match="no-such-model"):
        await clients.google().aio.models.generate_content(model="no-such-model", contents="x")


async def output_of(agent: Agent, streamed: bool) -> str:
    if not streamed:
        return (await agent.run("Hello?")).output
    async with agent.run_stream("Hello?") as stream:
        return await stream.get_output()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("model", ["fail-cut", "fail-broken", "fail-close"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_broken_answers_are_errors_for_the_client(
    server: ModelServer, clients: Clients, wire: str, model: str, streamed: bool
) -> None:
    agent = Agent(clients.model(wire, model))
    with pytest.raises((AgentRunError, httpx.HTTPError, ValueError)):
        await output_of(agent, streamed)
    assert server.requests[0].state == "cut_by_server"


async def test_a_client_that_goes_away_is_noticed(server: ModelServer, clients: Clients) -> None:
    task = asyncio.create_task(clients.chat("!hang"))
    await server.wait_for_requests(state="waiting")
    task.cancel()
    await server.wait_for_requests(state="cut_by_client")
    (request,) = server.requests
    assert request.first_byte is None
    assert request.ended is not None


async def test_a_client_that_goes_away_in_the_stream_is_noticed(server: ModelServer, clients: Clients) -> None:
    server.script(Step(text="a b c d e f g h", deltas=8, gap=30))
    async with await clients.openai().chat.completions.create(
        model="m", stream=True, messages=[{"role": "user", "content": "x"}]
    ) as stream:
        await anext(aiter(stream))
    await server.wait_for_requests(state="cut_by_client")
    assert 1 <= server.requests[0].deltas < 8


async def test_a_hold_keeps_the_answer_until_it_is_released(server: ModelServer, clients: Clients) -> None:
    task = asyncio.create_task(clients.chat("!hold gate\n!say open"))
    await server.wait_for_requests(state="waiting")
    assert not task.done()
    server.release("gate")
    assert await task == "open"


async def test_the_model_name_sets_the_delay(server: ModelServer, clients: Clients) -> None:
    started = time.monotonic()
    await clients.chat(model="stub-80ms")
    assert time.monotonic() - started >= 0.08


async def test_stamped_deltas_carry_the_time_of_sending(server: ModelServer, clients: Clients) -> None:
    before = time.monotonic_ns()
    stream = await clients.openai().chat.completions.create(
        model="stub-0ms-5x20ms-stamp", stream=True, messages=[{"role": "user", "content": "x"}]
    )
    stamps = [int(text) async for chunk in stream if (text := chunk.choices[0].delta.content)]
    assert len(stamps) == 5
    assert before < stamps[0]
    assert stamps[-1] - stamps[0] >= 4 * 20e6
    assert stamps[-1] < time.monotonic_ns()


async def test_a_counted_failure_ends_after_its_count(server: ModelServer, clients: Clients) -> None:
    text = "!status 500 2\n!say fine"
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            await clients.chat(text)
    assert await clients.chat(text) == "fine"
    assert not server.repeated()


async def test_the_same_call_answered_twice_is_counted(server: ModelServer, clients: Clients) -> None:
    await clients.chat("once")
    assert server.repeated() == {}
    await clients.chat("twice")
    await clients.chat("twice")
    assert list(server.repeated().values()) == [2]
    assert server.log.counts()["requests"] == 3


async def test_scripts_are_chosen_by_text_model_key_and_turn(server: ModelServer, clients: Clients) -> None:
    server.script(Step(text="by text"), contains="needle", then="repeat")
    server.script(Step(text="by key"), key="special", then="repeat")
    server.script(Step(text="first"), Step(text="second", times=2), model="picky", then="error")
    server.script(Step(text="turn zero"), model="turns", by="turn")
    assert await clients.chat("a needle in hay") == await clients.chat("needle again") == "by text"
    assert await clients.chat(key="special") == "by key"
    assert [await clients.chat(model="picky") for _ in range(3)] == ["first", "second", "second"]
    with pytest.raises(openai.InternalServerError, match="no step left"):
        await clients.chat(model="picky")
    assert await clients.chat(model="turns") == await clients.chat(model="turns") == "turn zero"
    server.reset()
    assert await clients.chat(model="picky") not in {"first", "second"}


async def test_arguments_that_are_not_json_are_sent_as_they_are(server: ModelServer, clients: Clients) -> None:
    server.script(Step(tool_calls=(ToolCall("add", '{"a": 1,'),)))
    client = clients.openai()
    answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.arguments == '{"a": 1,'


@pytest.mark.parametrize("wire", WIRES)
async def test_a_length_limit_is_reported(server: ModelServer, clients: Clients, wire: str) -> None:
    server.script(Step(text="cut sho", finish="length"))
    result = await Agent(clients.model(wire)).run("Hello?")
    assert result.response.finish_reason == "length"


async def test_models_are_listed_for_each_client(server: ModelServer, clients: Clients) -> None:
    assert "stub-0ms" in [model.id async for model in clients.openai().models.list()]
    assert "stub-0ms" in [model.id async for model in clients.anthropic().models.list()]


async def test_a_stopped_server_refuses_and_a_started_one_answers_again(server: ModelServer, clients: Clients) -> None:
    await server.stop()
    with pytest.raises(openai.APIConnectionError):
        await clients.chat()
    await server.start()
    assert await clients.chat("!say back") == "back"


@pytest.fixture
def process() -> Iterator[ModelServerProcess]:
    with ModelServerProcess() as running:
        yield running


def ask(process: ModelServerProcess, text: str) -> httpx.Response:
    body = {"model": "stub-0ms", "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{process.base_url}/chat/completions", json=body, headers={"Idempotency-Key": "k1"})


def test_the_process_is_steered_over_http(process: ModelServerProcess) -> None:
    process.script(Step(text="scripted"), contains="hello")
    answer: dict[str, Any] = ask(process, "hello").json()
    assert answer["choices"][0]["message"]["content"] == "scripted"
    process.wait_for_requests(1, state="answered", contains="hello")
    (request,) = process.requests
    assert (request["user"], request["idempotency_key"], request["state"]) == ("hello", "k1", "answered")
    with pytest.raises(TimeoutError):
        process.wait_for_requests(2, timeout=0.05)
    assert process.counts()["requests"] == 1
    process.reset()
    assert process.requests == []


def test_the_process_refuses_what_it_cannot_read(process: ModelServerProcess) -> None:
    assert httpx.post(f"{process.url}/_script", content=b'{"steps": [{"txet": "x"}]}').status_code == 400
    assert httpx.post(f"{process.base_url}/chat/completions", content=b"{").status_code == 400
    assert httpx.post(f"{process.url}/v1/nothing", json={}).status_code == 404
