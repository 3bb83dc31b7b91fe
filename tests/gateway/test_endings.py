"""How calls end: errors of the provider, silence, cuts on either side, slow readers, answers without usage."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors

from retinue.gateway import Rules, exchange, listening
from retinue.kernel import Settings
from retinue.providers import Tally
from tests.gateway.gateway_setting import DOLLAR, KEY, Setting
from tests.gateway.raw_provider import events, raw_provider, whole
from tests.support.model_server import Step, Usage

_MODEL = "gpt-4o-mini"
_ASKED: list[Any] = [{"role": "user", "content": "Say hello to everybody in this house."}]


def _chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return (
        b"data: "
        + json.dumps(
            {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": _MODEL, "choices": [choice]}
        ).encode()
        + b"\n\n"
    )


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_a_providers_error_comes_through_with_its_status_and_words(setting: Setting, status: int) -> None:
    after = 7.0 if status == 429 else None
    setting.server.script(Step(status=status, message="these are its words", code="its_code", retry_after=after))
    async with setting.line() as line, setting.openai() as client:
        with pytest.raises(openai.APIStatusError, match="these are its words") as failed:
            await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    assert (failed.value.status_code, failed.value.code) == (status, "its_code")
    assert failed.value.response.headers.get("retry-after") == ("7" if after else None)
    assert line.usage.calls == 0


async def test_a_provider_that_is_not_there_is_502_in_every_shape(setting: Setting) -> None:
    setting.point_at("http://127.0.0.1:9")
    async with setting.line():
        async with setting.openai() as client:
            with pytest.raises(openai.InternalServerError, match="could not be reached") as failed:
                await client.chat.completions.create(model=_MODEL, messages=_ASKED)
            assert failed.value.status_code == 502
        async with setting.anthropic() as claude:
            with pytest.raises(anthropic.InternalServerError, match="could not be reached"):
                await claude.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=_ASKED)
        async with setting.gemini() as gemini:
            with pytest.raises(errors.ServerError, match="could not be reached"):
                await gemini.aio.models.generate_content(model="gemini-2.5-flash", contents="x")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_without_usage_is_estimated_and_marked(setting: Setting, stream: bool) -> None:
    text = "x" * 400
    message = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}], "model": _MODEL}
    pieces = events(_chunk(text), b"data: [DONE]\n\n") if stream else whole(json.dumps(message).encode())
    async with raw_provider(lambda _: pieces) as provider:
        setting.point_at(provider.url)
        async with setting.line() as line, setting.http() as http:
            body = {"model": _MODEL, "messages": _ASKED, "stream": stream}
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    used = line.usage
    assert (used.calls, used.estimated, used.unpriced) == (1, 1, 0)
    assert 100 <= used.output_tokens <= 105
    assert used.input_tokens > 10
    assert used.cost == used.input_tokens * 150 + used.output_tokens * 600


async def test_a_stream_that_the_provider_cuts_ends_with_an_error_and_is_counted(setting: Setting) -> None:
    """Bug: the reader takes half an answer for a whole one."""
    setting.server.script(Step(text="one two three four", deltas=4, cut_after=2), then="repeat")
    async with setting.line() as line:
        async with setting.openai() as client:
            stream = await client.chat.completions.create(model=_MODEL, messages=_ASKED, stream=True)
            with pytest.raises((openai.APIError, openai.APIConnectionError)):
                _ = [chunk async for chunk in stream]
        async with setting.anthropic() as claude:
            with pytest.raises(anthropic.APIError):
                async with claude.messages.stream(model="claude-haiku-4-5", max_tokens=9, messages=_ASKED) as messages:
                    await messages.get_final_message()
    assert (line.usage.calls, line.usage.estimated) == (2, 2)


async def _stall(setting: Setting, **step: Any) -> Any:
    setting.server.script(Step(**step))
    async with setting.line() as line, setting.openai() as client:
        with pytest.raises(openai.APIError):
            await _streamed(client)
    return line.usage


async def _streamed(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=_MODEL, messages=_ASKED, stream=True)
    async for _ in stream:
        pass


async def test_a_provider_that_never_answers_is_left(setting: Setting) -> None:
    setting.services.get(Settings).gateway_timeout = 2
    used = await _stall(setting, hang=True)
    assert (used.calls, used.estimated) == (1, 1)
    await setting.server.wait_for_requests(1, state="cut_by_client")


async def test_a_provider_that_stops_in_the_middle_is_left(setting: Setting) -> None:
    setting.services.get(Settings).model_stall = 1
    used = await _stall(setting, text="one two", deltas=2, gap=60)
    assert (used.calls, used.estimated) == (1, 1)
    await setting.server.wait_for_requests(1, state="cut_by_client")


async def test_a_caller_that_leaves_ends_the_call_at_the_provider(setting: Setting) -> None:
    await setting.set_budget(setting.tenant, DOLLAR)
    setting.server.script(Step(text="one two", deltas=2, gap=60))
    async with setting.line() as line, setting.openai() as client:
        stream = await client.chat.completions.create(model=_MODEL, messages=_ASKED, stream=True)
        await anext(stream)
        await stream.close()
        await setting.server.wait_for_requests(1, state="cut_by_client")
        await line.settled()
        budget = await setting.budget(setting.tenant)
    assert (line.usage.calls, line.usage.estimated) == (1, 1)
    assert (budget.reserved, budget.spent) == (0, line.usage.cost)


async def test_a_caller_that_leaves_while_it_waits_ends_the_call_too(setting: Setting) -> None:
    setting.server.script(Step(hang=True))
    async with setting.line(), setting.openai() as client:
        call = asyncio.ensure_future(client.chat.completions.create(model=_MODEL, messages=_ASKED))
        await setting.server.wait_for_requests(1)
        call.cancel()
        await setting.server.wait_for_requests(1, state="cut_by_client")


async def test_a_gateway_that_does_not_look_for_its_caller_would_be_seen(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug of the two tests above: the call goes on when nobody waits for it."""

    async def stay(_receive: Any, work: Any) -> None:
        await work

    monkeypatch.setattr("retinue.gateway.relay.unless_gone", stay)
    monkeypatch.setattr(listening, "_ENDING_SECONDS", 0.1)
    setting.server.script(Step(hang=True))
    async with setting.line(), setting.openai() as client:
        call = asyncio.ensure_future(client.chat.completions.create(model=_MODEL, messages=_ASKED))
        await setting.server.wait_for_requests(1)
        call.cancel()
        with pytest.raises(TimeoutError):
            await setting.server.wait_for_requests(1, state="cut_by_client", timeout=0.5)


async def test_closing_a_line_ends_its_calls_and_gives_back_what_they_held(setting: Setting) -> None:
    await setting.set_budget(setting.tenant, DOLLAR)
    setting.server.script(Step(hang=True), then="repeat")
    async with setting.openai() as client:
        async with setting.line() as line:
            calls = [
                asyncio.ensure_future(client.chat.completions.create(model=_MODEL, messages=_ASKED)) for _ in range(3)
            ]
            # The others wait for the first one: there is a budget.
            await setting.server.wait_for_requests(1)
            assert (await setting.budget(setting.tenant)).reserved > 0
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, openai.APIConnectionError) for one in ended)
    await setting.server.wait_for_requests(1, state="cut_by_client")
    budget = await setting.budget(setting.tenant)
    assert (budget.reserved, budget.spent) == (0, line.usage.cost)
    assert not setting.path.exists()


async def test_a_slow_reader_does_not_make_the_gateway_buffer(setting: Setting) -> None:
    """Bug: the whole answer is taken from the provider, whether the caller reads it or not."""
    text, count = "x" * 65_000, 2000  # 130 MB
    async with raw_provider(lambda _: _many(_chunk(text), count)) as provider:
        setting.point_at(provider.url)
        async with setting.line(), setting.http() as http:
            body = {"model": _MODEL, "messages": _ASKED, "stream": True}
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                pieces = answer.aiter_raw()
                got = len(await anext(pieces))
                await _until_still(provider)
                assert provider.written - got < 16_000_000
            async with asyncio.timeout(10):
                await provider.left.wait()


async def test_an_exchange_that_collects_would_be_seen(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug of the test above: pieces are gathered first and handed on afterwards."""

    async def gathered(pieces: Any, _seconds: float) -> Any:
        for piece in [one async for one in pieces]:
            yield piece

    monkeypatch.setattr(exchange, "_in_time", gathered)
    async with raw_provider(lambda _: _many(_chunk("x" * 65_000), 500)) as provider:
        setting.point_at(provider.url)
        async with setting.line(), setting.http() as http:
            body = {"model": _MODEL, "messages": _ASKED, "stream": True}
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert await anext(answer.aiter_raw())
                assert provider.written > 16_000_000


def _many(piece: bytes, count: int) -> Any:
    yield from events()
    for _ in range(count):
        yield piece


async def _until_still(provider: Any) -> None:
    """Wait until the provider cannot write more for a while."""
    before = -1
    while provider.written != before:
        before = provider.written
        await asyncio.sleep(0.3)


# Keys, prompts and answers are told to nobody


async def test_a_key_that_the_provider_repeats_is_taken_out(setting: Setting) -> None:
    hello = json.dumps({"choices": [], "said": KEY}).encode()
    answers = {
        b"error": whole(json.dumps({"error": {"message": f"bad key {KEY}", KEY: [KEY]}}).encode(), status="401 No"),
        b"escaped": whole(
            b'{"error": {"message": "' + "".join(f"\\u{ord(one):04x}" for one in KEY).encode() + b'"}}', status="401 No"
        ),
        b"html": whole(f"<html>{KEY}</html>".encode(), status="500 No", kind="text/html"),
        b"whole": whole(hello),
        b"stream": events(b"data: " + hello[:30], hello[30:] + b"\n\n"),
        b"away": whole(b"", status="302 Found", location=f"http://127.0.0.1:1/{KEY}"),
    }
    for name, pieces in answers.items():
        async with raw_provider(lambda _, pieces=pieces: pieces) as provider:  # type: ignore[misc]
            setting.point_at(provider.url)
            async with setting.line(), setting.http() as http:
                body = {"model": _MODEL, "messages": _ASKED, "stream": name == b"stream"}
                answer = await http.post("/v1/chat/completions", json=body)
            assert KEY not in answer.text + str(answer.headers), name
            assert KEY.encode() in provider.requests[0]
            assert (answer.status_code == 200) == (name in (b"whole", b"stream"))


async def test_no_key_prompt_or_answer_is_logged(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "canary-of-a-prompt"
    setting.server.script(Step(text="canary-of-an-answer"), Step(status=500, message="canary-of-an-answer"))
    async with setting.line(), setting.openai() as client:
        await client.chat.completions.create(model=_MODEL, messages=[{"role": "user", "content": secret}])
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model=_MODEL, messages=[{"role": "user", "content": secret}])
    # The client, which logs what it sends, is the test's own.
    lines = [one.getMessage() for one in caplog.records if not one.name.startswith(("openai", "httpcore", "httpx"))]
    assert not [line for line in lines if "canary" in line or KEY in line]


async def test_what_was_used_is_written_down_although_the_database_was_away(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retinue.gateway import commands
    from retinue.kernel import Unavailable

    settle, tries = commands.settle, []

    async def flaky(*given: Any) -> None:
        tries.append(given)
        if len(tries) < 3:
            raise Unavailable("away")
        await settle(*given)

    monkeypatch.setattr(commands, "settle", flaky)
    setting.server.script(Step(text="hello", usage=Usage(10, 5)))
    async with setting.line(), setting.openai() as client:
        await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    assert [row[:4] for row in await setting.rows()] == [(f"openai:{_MODEL}", 1, 10, 5)]


def test_an_estimate_fills_in_what_is_missing_and_leaves_what_is_known() -> None:
    known = Tally(input_tokens=7, written=400)
    known.estimate_rest(1000)
    assert (known.input_tokens, known.output_tokens) == (7, 100)
    measured = Tally(input_tokens=7, output_tokens=1, measured=True, written=400)
    measured.estimate_rest(1000)
    assert (measured.input_tokens, measured.output_tokens) == (7, 1)


async def test_rules_are_per_line_and_two_lines_do_not_mix(setting: Setting) -> None:
    other = Setting(setting.services, setting.server, setting.folder.with_name("other"))
    setting.server.script(Step(text="hello", usage=Usage(10, 5)), then="repeat")
    async with setting.line(Rules(calls=1)) as first, other.line() as second:
        async with setting.openai() as client:
            await client.chat.completions.create(model=_MODEL, messages=_ASKED)
        async with other.openai() as client:
            await client.chat.completions.create(model=_MODEL, messages=_ASKED)
            await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    assert (first.usage.calls, second.usage.calls) == (1, 2)
    assert [row[1] for row in await other.rows()] == [2]
