"""OpenAI's own client through the gateway."""

from __future__ import annotations

from typing import Any

from tests.gateway.gateway_setting import KEY, Setting
from tests.support.model_server import Step, Usage

_ASKED: list[Any] = [{"role": "user", "content": "Say hello."}]
_MODEL = "gpt-4o-mini"


async def test_an_answer_comes_whole_and_is_metered(setting: Setting) -> None:
    setting.server.script(Step(text="hello", usage=Usage(1000, 100)))
    async with setting.line() as line, setting.openai() as client:
        answer = await client.chat.completions.create(model=_MODEL, messages=_ASKED)
        assert answer.choices[0].message.content == "hello"
        assert answer.usage is not None
        assert answer.usage.total_tokens == 1100
    assert (line.usage.calls, line.usage.input_tokens, line.usage.output_tokens) == (1, 1000, 100)
    cost = 1000 * 150 + 100 * 600  # $0.15 and $0.60 a million
    assert (line.usage.cost, line.usage.unpriced, line.usage.estimated) == (cost, 0, 0)
    assert await setting.rows() == [(f"openai:{_MODEL}", 1, 1000, 100, cost, 0)]


async def test_the_real_key_goes_to_the_provider_and_the_callers_headers_do_not(setting: Setting) -> None:
    async with setting.line(), setting.openai(default_headers={"x-secret": "1", "cookie": "a=b"}) as client:
        await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    sent = setting.server.requests[0].headers
    assert sent["authorization"] == f"Bearer {KEY}"
    assert not {"x-secret", "cookie", "x-stainless-lang"} & sent.keys()


async def test_a_stream_comes_in_pieces_without_the_usage_nobody_asked_for(setting: Setting) -> None:
    setting.server.script(Step(text="one two three four", deltas=4, usage=Usage(10, 4)))
    async with setting.line() as line, setting.openai() as client:
        stream = await client.chat.completions.create(model=_MODEL, messages=_ASKED, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three four"
    assert all(chunk.usage is None for chunk in chunks)
    assert (line.usage.input_tokens, line.usage.output_tokens, line.usage.estimated) == (10, 4, 0)
    body = setting.server.requests[0].body
    assert body is not None
    assert body["stream_options"] == {"include_usage": True}


async def test_a_stream_has_its_usage_when_it_was_asked_for(setting: Setting) -> None:
    setting.server.script(Step(text="one two", deltas=2, usage=Usage(10, 4)))
    async with setting.line(), setting.openai() as client:
        stream = await client.chat.completions.create(
            model=_MODEL, messages=_ASKED, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 10
