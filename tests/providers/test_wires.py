"""What is read of answers that are only passed on: events cut anywhere, usage as real providers send it, prices."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.providers import AnthropicWire, Call, Endpoint, Events, GeminiWire, OpenAIWire, Reader, TooLong
from retinue.providers.prices import price, tokens_of

_CHAT, _RESPONSES = Call("chat", "/chat/completions"), Call("responses", "/responses")
_MESSAGES, _GENERATE = Call("messages", "/v1/messages"), Call("generate", "/x")
_STREAM = (
    b": a comment\n\nevent: first\ndata: {}\n\ndata: one\r\ndata: two\r\n\r\ndata:no space\n\nid: 7\n\ndata: [DONE]\n\n"
)
_DATA = [b"", b"{}", b"one\ntwo", b"no space", b"", b"[DONE]"]


@given(st.lists(st.integers(0, len(_STREAM)), max_size=12))
def test_events_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    """Bug: an end that lies across two reads is not seen, or a byte is lost there."""
    events = Events(1000)
    places = [0, *sorted(cuts), len(_STREAM)]
    found = [one for a, b in itertools.pairwise(places) for one in events.feed(_STREAM[a:b])]
    assert [data for _, data in found] == _DATA
    assert b"".join(event for event, _ in found) == _STREAM
    assert events.rest() == (b"", b"")


def test_what_does_not_end_comes_out_at_the_end_and_not_without_bound() -> None:
    events = Events(10)
    assert list(events.feed(b"data: x")) == []
    assert events.rest() == (b"data: x", b"x")
    with pytest.raises(TooLong):
        list(events.feed(b"data: " + b"x" * 20))


def _read(reader: Reader, *documents: Any) -> tuple[int, int, int, bool]:
    for document in documents:
        reader.event(json.dumps(document).encode())
    tally = reader.tally
    return tally.input_tokens, tally.output_tokens, tally.cached_tokens, tally.measured


def test_openais_running_and_last_totals() -> None:
    reader = OpenAIWire().reader(_CHAT, {})
    delta = {"choices": [{"index": 0, "delta": {"content": "abcd"}}], "usage": None, "model": "gpt-5-2025-08-07"}
    usage = {"prompt_tokens": 50, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 40}}
    assert _read(reader, delta, {"choices": [], "usage": usage}) == (50, 9, 40, True)
    assert (reader.tally.written, reader.tally.served_by) == (4, "gpt-5-2025-08-07")


def test_the_usage_chunk_is_taken_out_only_where_nobody_asked_and_nothing_else_is_in_it() -> None:
    alone = json.dumps({"choices": [], "usage": {"prompt_tokens": 1}}).encode()
    beside = json.dumps({"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1}}).encode()
    unasked = OpenAIWire().reader(_CHAT, {})
    assert not unasked.event(alone)
    assert unasked.event(beside)
    assert unasked.event(b"[DONE]")
    assert OpenAIWire().reader(_CHAT, {"stream_options": {"include_usage": True}}).event(alone)


def test_openais_responses_tell_at_the_end() -> None:
    usage = {"input_tokens": 5, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 2}}
    end = {"type": "response.completed", "response": {"model": "gpt-5", "usage": usage}}
    reader = OpenAIWire().reader(_RESPONSES, {})
    assert _read(reader, {"type": "response.output_text.delta", "delta": "abc"}, end) == (5, 6, 2, True)


def test_anthropics_input_has_three_parts_and_its_output_comes_last() -> None:
    start = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 200,
        "cache_read_input_tokens": 3000,
        "output_tokens": 1,
    }
    reader = AnthropicWire().reader(_MESSAGES, {})
    begun = {"type": "message_start", "message": {"model": "claude-haiku-4-5", "usage": start}}
    assert _read(reader, begun) == (3210, 0, 3000, False)
    assert _read(reader, {"type": "message_delta", "usage": {"output_tokens": 77}}) == (3210, 77, 3000, True)
    assert reader.tally.cache_written == 200


def test_a_cut_anthropic_stream_keeps_what_is_known_and_estimates_the_rest() -> None:
    reader = AnthropicWire().reader(_MESSAGES, {})
    begun = {"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}}
    piece = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 40}}
    _read(reader, begun, piece)
    reader.tally.estimate_rest(1_000_000)
    assert reader.tally.input_tokens == 10
    assert 10 <= reader.tally.output_tokens <= 13


def test_googles_thoughts_and_tool_prompts_count() -> None:
    usage = {
        "promptTokenCount": 10,
        "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 100,
        "cachedContentTokenCount": 4,
    }
    reader = GeminiWire().reader(_GENERATE, {})
    assert _read(reader, {"candidates": [{"content": {}}], "usageMetadata": {"promptTokenCount": 10}})[3] is False
    end = {"candidates": [{"content": {}, "finishReason": "STOP"}], "usageMetadata": usage}
    assert _read(reader, end) == (15, 103, 4, True)


@pytest.mark.parametrize("value", [True, -5, "7", 1.5, None, 2**80, [], {}], ids=range(8))
def test_numbers_that_are_none_count_nothing(value: Any) -> None:
    """Bug: a provider's nonsense becomes a negative or endless cost."""
    reader = OpenAIWire().reader(_CHAT, {})
    assert _read(reader, {"choices": [], "usage": {"prompt_tokens": value, "completion_tokens": value}})[:2] == (0, 0)


@pytest.mark.parametrize(
    "junk", [b"{", b"[]", b"{}", b'{"choices": 5, "usage": 7}', b'{"usage": []}', b"\xff"], ids=range(6)
)
def test_junk_in_a_stream_is_passed_on_and_counts_nothing(junk: bytes) -> None:
    readers = [
        OpenAIWire().reader(_CHAT, {}),
        OpenAIWire().reader(_RESPONSES, {}),
        AnthropicWire().reader(_MESSAGES, {}),
        GeminiWire().reader(_GENERATE, {}),
    ]
    for reader in readers:
        assert reader.event(junk)
        assert not reader.tally.measured


def test_what_goes_into_the_cache_has_its_own_price() -> None:
    endpoint = Endpoint("anthropic", "key")
    plain = price(endpoint, ("claude-sonnet-4-5",), 1000, 0)
    into = price(endpoint, ("claude-sonnet-4-5",), 1000, 0, 0, 1000)
    out_of = price(endpoint, ("claude-sonnet-4-5",), 1000, 0, 1000)
    assert (plain, into, out_of) == (3_000_000, 3_750_000, 300_000)
    assert price(endpoint, ("nobody-sells-this",), 1, 1) is None
    assert price(endpoint, ("nobody-sells-this", "claude-sonnet-4-5"), 1000, 0) == plain


def test_an_estimate_is_bounded_by_what_fits_into_the_model() -> None:
    endpoint = Endpoint("openai", "key")
    assert tokens_of(endpoint, "gpt-4o-mini", 2000) == 1016
    assert tokens_of(endpoint, "gpt-4o-mini", 30_000_000) == 128_000
