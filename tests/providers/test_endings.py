"""Answers whose connection ends properly, but in the middle of the answer."""

from __future__ import annotations

import asyncio

import pytest

from retinue.providers import ModelFailed, Providers
from tests.providers.stub import ask_for, settings_for
from tests.support.model_server import ModelServer

HALVES = {
    "openai:gpt-5-mini": 'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"half"}}]}\n\n',
    "anthropic:claude-haiku-4-5": (
        'event: message_start\ndata: {"type":"message_start","message":{"id":"1","type":"message","role":"assistant",'
        '"model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}'
        "\n\n"
        'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
        '{"type":"text","text":""}}\n\n'
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
        '{"type":"text_delta","text":"half"}}\n\n'
    ),
    "google:gemini-2.5-flash": 'data: {"candidates":[{"content":{"role":"model","parts":[{"text":"half"}]}}]}\n\n',
}


@pytest.mark.parametrize("model", HALVES)
@pytest.mark.parametrize("length", [0, None])
async def test_half_an_answer_is_no_answer(server: ModelServer, model: str, length: int | None) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = HALVES[model][:length].encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    providers = Providers(
        settings_for(server, openai_base_url=f"{url}/v1", anthropic_base_url=url, gemini_base_url=url, model_attempts=1)
    )
    heard: list[str] = []
    with pytest.raises(ModelFailed) as caught:
        await providers.ask(ask_for("go", model), on_text=lambda text, _: heard.append(text))
    assert (caught.value.kind, caught.value.retryable) == ("bad_answer", True)
    assert heard == ([] if length == 0 else ["half"])
    await providers.close()
    listener.close()
