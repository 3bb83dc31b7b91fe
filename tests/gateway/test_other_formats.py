"""Anthropic's and Google's own clients through the gateway, and OpenAI's other calls."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from google.genai import errors

from retinue.gateway import Rules
from tests.gateway.gateway_setting import KEY, Setting, types
from tests.gateway.raw_provider import raw_provider, whole
from tests.support.model_server import Step, ToolCall, Usage

_CLAUDE, _GEMINI = "claude-sonnet-4-5", "gemini-2.5-flash"


async def test_anthropics_client_gets_an_answer_and_a_stream(setting: Setting) -> None:
    setting.server.script(
        Step(text="hello", usage=Usage(1000, 100, cached=400)), Step(text="a b c", deltas=3, usage=Usage(20, 3))
    )
    async with setting.line() as line, setting.anthropic() as client:
        message = await client.messages.create(
            model=_CLAUDE, max_tokens=50, messages=[{"role": "user", "content": "Say hello."}]
        )
        assert message.content[0].text == "hello"  # type: ignore[union-attr]  # it is text
        assert (line.usage.input_tokens, line.usage.output_tokens) == (1000, 100)
        first = line.usage.cost
        assert first == 600 * 3000 + 400 * 300 + 100 * 15_000  # $3, $0.30 from the cache, $15 a million
        async with client.messages.stream(
            model=_CLAUDE, max_tokens=50, messages=[{"role": "user", "content": "Count."}]
        ) as stream:
            assert "".join([text async for text in stream.text_stream]) == "a b c"
    assert (line.usage.calls, line.usage.input_tokens, line.usage.output_tokens) == (2, 1020, 103)
    assert line.usage.estimated == 0
    sent = setting.server.requests[0]
    assert (sent.key, sent.path) == (KEY, "/v1/messages")
    assert [row[0] for row in await setting.rows()] == [f"anthropic:{_CLAUDE}"]


async def test_googles_client_gets_an_answer_and_a_stream(setting: Setting) -> None:
    setting.server.script(Step(text="hello", usage=Usage(1000, 100)), Step(text="a b c", deltas=3, usage=Usage(20, 3)))
    async with setting.line() as line, setting.gemini() as client:
        answer = await client.aio.models.generate_content(model=_GEMINI, contents="Say hello.")
        assert answer.text == "hello"
        stream = await client.aio.models.generate_content_stream(model=_GEMINI, contents="Count.")
        assert "".join([part.text or "" async for part in stream]) == "a b c"
    assert (line.usage.calls, line.usage.input_tokens, line.usage.output_tokens) == (2, 1020, 103)
    assert line.usage.cost == 1020 * 300 + 103 * 2500  # $0.30 and $2.50 a million
    assert (setting.server.requests[0].key, line.usage.estimated) == (KEY, 0)


async def test_openais_responses_come_whole_and_streamed(setting: Setting) -> None:
    setting.server.script(Step(text="hello", usage=Usage(10, 5)), Step(text="a b c", deltas=3, usage=Usage(20, 3)))
    async with setting.line() as line, setting.openai() as client:
        answer = await client.responses.create(model="gpt-4o-mini", input="Say hello.")
        assert answer.output_text == "hello"
        stream = await client.responses.create(model="gpt-4o-mini", input="Count.", stream=True)
        kinds = [event.type async for event in stream]
    assert kinds[-1] == "response.completed"
    assert (line.usage.input_tokens, line.usage.output_tokens, line.usage.estimated) == (30, 8, 0)


async def test_a_models_calls_of_tools_come_through_as_they_are(setting: Setting) -> None:
    call = ToolCall("write_file", {"path": "a.txt", "content": "x" * 50})
    setting.server.script(*[Step(tool_calls=(call,))] * 3)
    parameters: dict[str, Any] = {"type": "object", "properties": {"path": {"type": "string"}}}
    async with setting.line():
        async with setting.openai() as openai_client:
            chat = await openai_client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": "Write."}],
                tools=[{"type": "function", "function": {"name": "write_file", "parameters": parameters}}],
            )
        async with setting.anthropic() as claude:
            message = await claude.messages.create(
                model=_CLAUDE,
                max_tokens=50,
                messages=[{"role": "user", "content": "Write."}],
                tools=[{"name": "write_file", "input_schema": parameters}],
            )
        async with setting.gemini() as gemini:
            declared = types.FunctionDeclaration(name="write_file", parameters_json_schema=parameters)
            answer = await gemini.aio.models.generate_content(
                model=_GEMINI,
                contents="Write.",
                config=types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])]),
            )
    assert json.loads(chat.choices[0].message.tool_calls[0].function.arguments) == call.arguments  # type: ignore[index,union-attr]
    assert message.content[0].input == call.arguments  # type: ignore[union-attr]
    assert answer.function_calls is not None
    assert answer.function_calls[0].args == call.arguments


async def test_counting_tokens_is_free_and_embeddings_are_not(setting: Setting) -> None:
    """Bug: a call without an answer to write reserves the price of the longest one, or is not counted at all."""

    def answer(request: bytes) -> list[bytes]:
        if b":countTokens" in request:
            return whole(b'{"totalTokens": 7}')
        if b"/count_tokens" in request:
            return whole(b'{"input_tokens": 8}')
        embedding = {"object": "embedding", "index": 0, "embedding": [0.5]}
        usage = {"prompt_tokens": 9, "total_tokens": 9}
        model = "text-embedding-3-small"
        return whole(json.dumps({"object": "list", "data": [embedding], "model": model, "usage": usage}).encode())

    async with raw_provider(answer) as provider:
        setting.point_at(provider.url)
        async with setting.line(Rules(tokens=100)) as line:
            async with setting.anthropic() as claude:
                count = await claude.messages.count_tokens(
                    model=_CLAUDE, messages=[{"role": "user", "content": "hello"}]
                )
                assert count.input_tokens == 8
            async with setting.gemini() as gemini:
                assert (await gemini.aio.models.count_tokens(model=_GEMINI, contents="hello")).total_tokens == 7
            assert line.usage.calls == 0
            async with setting.openai() as client:
                found = await client.embeddings.create(
                    model="text-embedding-3-small", input="hello", encoding_format="float"
                )
            assert found.data[0].embedding == [0.5]
        assert (line.usage.calls, line.usage.input_tokens, line.usage.output_tokens) == (1, 9, 0)


async def test_the_demo_answers_in_openais_format_and_says_so(setting: Setting) -> None:
    rules = Rules(models=("demo:*",))
    async with setting.line(rules) as line, setting.openai() as client:
        asked: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "What is this?"}]
        answer = await client.chat.completions.create(model="demo:assistant", messages=asked)
        assert (answer.choices[0].message.content or "").startswith("[demo]")
        stream = await client.chat.completions.create(model="demo:assistant", messages=asked, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == answer.choices[0].message.content
        assert [model.id async for model in client.models.list()] == ["demo:assistant"]
    assert (line.usage.calls, line.usage.cost, line.usage.unpriced) == (2, 0, 0)
    assert setting.server.requests == []


async def test_the_list_of_models_has_what_is_allowed_in_each_shape(setting: Setting) -> None:
    rules = Rules(models=("openai:gpt-4o-mini", "anthropic:claude-*", "google:gemini-2.5-flash"))
    async with setting.line(rules):
        async with setting.openai() as client:
            assert [model.id async for model in client.models.list()] == ["gpt-4o-mini"]
        async with setting.anthropic() as claude:
            assert [model.id async for model in claude.models.list()] == [_CLAUDE]
        async with setting.gemini() as gemini:
            assert [model.name async for model in await gemini.aio.models.list()] == [f"models/{_GEMINI}"]


async def test_default_means_the_default_model(setting: Setting) -> None:
    rules = Rules(models=("openai:gpt-4.1-nano",), default_model="openai:gpt-4.1-nano")
    async with setting.line(rules), setting.openai() as client:
        await client.chat.completions.create(model="default", messages=[{"role": "user", "content": "hello"}])
    assert setting.server.requests[0].model == "gpt-4.1-nano"


async def test_a_model_of_another_format_is_refused_and_not_asked(setting: Setting) -> None:
    async with setting.line():
        async with setting.openai() as client:
            with pytest.raises(openai.NotFoundError, match="do not speak"):
                await client.chat.completions.create(model=f"anthropic:{_CLAUDE}", messages=[])
        async with setting.gemini() as gemini:
            with pytest.raises(errors.ClientError, match="do not speak"):
                await gemini.aio.models.generate_content(model="openai:gpt-4o-mini", contents="x")
    assert setting.server.requests == []
