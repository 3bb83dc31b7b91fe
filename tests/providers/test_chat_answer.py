"""Chunks as the many servers of OpenAI's format send them, each a little different."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai.profiles.openai import OpenAIModelProfile

from retinue.providers import ModelFailed, Reply, Text, Thinking, ToolCall
from retinue.providers.chat_answer import ChatAnswer


def read(*deltas: dict[str, Any], finish: str | None = "stop", complete: bool = True, **last: Any) -> Reply:
    answer = ChatAnswer(OpenAIModelProfile(), "openai", lambda _: None)
    for delta in deltas:
        answer.add({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    answer.add({"choices": [{"delta": {}, "finish_reason": finish}], **last})
    return answer.reply(complete=complete)


def call(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [fields]}


def test_text_and_usage() -> None:
    reply = read(
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": None},
        {"content": "b"},
        usage={
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    )
    assert reply.parts == [Text("ab")]
    assert (reply.input_tokens, reply.output_tokens, reply.cached_tokens, reply.measured) == (3, 2, 1, True)


def test_a_server_that_counts_nothing() -> None:
    assert read({"content": "a"}).measured is False
    assert read({"content": "a"}, usage=None).measured is False


def test_text_as_a_list_of_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "reference"}, "b"]
    assert read({"content": parts}).parts == [Text("ab")]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thoughts_in_a_field(field: str) -> None:
    reply = read({field: "hm"}, {field: "mm"}, {"content": "a"})
    assert reply.parts == [Thinking("hmmm", None, "openai", field), Text("a")]


def test_thoughts_between_tags() -> None:
    reply = read(*({"content": piece} for piece in ("<think>", "h", "m", "</think>", "a")))
    assert reply.parts == [Thinking("hm", None, "openai", "content"), Text("a")]


def test_calls_in_pieces_and_side_by_side() -> None:
    reply = read(
        {"content": "let me"},
        call(index=0, id="1", function={"name": "look", "arguments": ""}),
        call(index=1, id="2", function={"name": "find", "arguments": '{"x"'}),
        call(index=0, function={"arguments": '{"y": 1}'}),
        call(index=1, function={"arguments": ": 2}"}),
        finish="tool_calls",
    )
    assert reply.parts == [Text("let me"), ToolCall("1", "look", '{"y": 1}'), ToolCall("2", "find", '{"x": 2}')]
    assert reply.finish == "tool_call"


def test_calls_without_an_index() -> None:
    reply = read(
        call(id="1", function={"name": "look", "arguments": "{}"}),
        call(id="2", function={"name": "find", "arguments": '{"x":'}),
        call(function={"arguments": "2}"}),
    )
    assert reply.parts == [ToolCall("1", "look", "{}"), ToolCall("2", "find", '{"x":2}')]


def test_calls_without_an_id_and_with_arguments_as_data() -> None:
    [part] = read(call(index=0, function={"name": "look", "arguments": {"x": 1}})).parts
    assert isinstance(part, ToolCall)
    assert part.id
    assert part.arguments == '{"x":1}'


def test_what_a_gateway_adds_to_a_call_is_kept() -> None:
    extra = {"google": {"thought_signature": "c2ln"}}
    [part] = read(call(index=0, id="1", function={"name": "look", "arguments": "{}"}, extra_content=extra)).parts
    assert part == ToolCall("1", "look", "{}", "openai", {"extra_content": extra})


def test_the_output_tool_is_the_answer() -> None:
    assert read(call(index=0, id="1", function={"name": "final_result", "arguments": "{}"})).parts == [Text("{}")]


def test_chunks_without_anything() -> None:
    answer = ChatAnswer(OpenAIModelProfile(), "openai", lambda _: None)
    chunks: list[dict[str, Any]] = [{}, {"choices": None}, {"choices": []}, {"choices": [{}]}]
    for chunk in [*chunks, {"choices": [{"delta": None}]}]:
        answer.add(chunk)
    assert answer.reply(complete=True).parts == []


def test_an_answer_without_its_end() -> None:
    assert read({"content": "a"}, finish="length", complete=False).finish == "length"
    assert read({"content": "a"}, finish=None, complete=True).finish == "stop"
    with pytest.raises(ModelFailed) as caught:
        read({"content": "a"}, finish=None, complete=False)
    assert caught.value.kind == "bad_answer"


def test_a_refusal() -> None:
    with pytest.raises(ModelFailed) as caught:
        read({"refusal": "I will "}, {"refusal": "not."})
    assert caught.value.kind == "refused"
    assert "I will not." in caught.value.detail


@pytest.mark.parametrize(
    "error, kind",
    [
        ({"message": "slow down", "code": "rate_limit_exceeded"}, "rate_limited"),
        ({"message": "slow down", "code": 429}, "rate_limited"),
        ({"message": "no", "code": "401"}, "bad_key"),
        ({"message": "no", "type": "invalid_request_error"}, "refused"),
        ({"message": "no", "code": "model_not_found"}, "unknown_model"),
        ({"message": "oops"}, "overloaded"),
        ("oops", "overloaded"),
    ],
)
def test_errors_inside_the_stream(error: Any, kind: str) -> None:
    answer = ChatAnswer(OpenAIModelProfile(), "openai", lambda _: None)
    with pytest.raises(ModelFailed) as caught:
        answer.add({"error": error})
    assert caught.value.kind == kind
