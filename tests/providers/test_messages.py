"""Messages keep their stored form, and come through Pydantic AI whole."""

from __future__ import annotations

import msgspec

from retinue.providers import (
    AnswerPart,
    Message,
    ModelAnswer,
    ModelRequest,
    Part,
    Providers,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from retinue.providers.convert import to_library, to_parts
from tests.support.model_server import ModelServer, Step

STORED = (
    '[{"type":"text","text":"a"},{"type":"thinking","text":"b","signature":"s","provider":"anthropic"},'
    '{"type":"tool_call","id":"1","name":"n","arguments":"{}"},'
    '{"type":"tool_result","id":"1","name":"n","content":"c"},'
    '{"type":"tool_result","id":"1","name":"n","content":"c","failed":true}]'
)
PARTS: list[Part] = [
    Text("a"),
    Thinking("b", signature="s", provider="anthropic"),
    ToolCall("1", "n", "{}"),
    ToolResult("1", "n", "c"),
    ToolResult("1", "n", "c", failed=True),
]


def test_the_stored_form_of_parts_is_a_promise() -> None:
    assert msgspec.json.encode(PARTS).decode() == STORED
    assert msgspec.json.decode(STORED, type=list[Part]) == PARTS


def test_answers_are_read_back_as_they_were_written() -> None:
    answer = ModelAnswer(
        parts=[Text("x"), ToolCall("1", "n", "{", "google", {"thought_signature": "aGk="})],
        model="google:gemini-2.5-flash",
        provider="google",
        cost=None,
        structured={"a": [1]},
        failures=["openai:gpt-5 overloaded 500"],
    )
    assert msgspec.json.decode(msgspec.json.encode(answer), type=ModelAnswer) == answer


def test_answers_go_through_the_library_unchanged() -> None:
    parts: list[AnswerPart] = [
        Thinking("hm", "sig", "anthropic", "id-1", {"k": 1}),
        Text("said"),
        Text("", "google", {"thought_signature": "aGk="}),
        ToolCall("1", "look", '{"a": 1}'),
        ToolCall("2", "look", '{"broken', "google", {"thought_signature": "aGk="}),
    ]
    [response] = to_library([Message("assistant", list(parts))])
    assert to_parts(response.parts) == parts  # type: ignore[arg-type]  # an assistant's message becomes a response


async def test_signed_thoughts_go_back_to_who_thought_them(server: ModelServer, providers: Providers) -> None:
    history = [
        Message("user", [Text("first")]),
        Message("assistant", [Thinking("deep", "c2lnbmVk", "anthropic"), Text("one")]),
        Message("user", [Text("second")]),
    ]
    server.script(Step(text="fine"), then="repeat")
    for model in ("anthropic:claude-sonnet-4-5", "openai:gpt-5-mini"):
        await providers.ask(ModelRequest(models=[model], messages=history))
    to_anthropic, to_openai = (str(request.body) for request in server.requests)
    assert "c2lnbmVk" in to_anthropic
    assert "c2lnbmVk" not in to_openai


async def test_thought_signatures_of_calls_go_back(server: ModelServer, providers: Providers) -> None:
    call = ToolCall("1", "look", "{}", "google", {"thought_signature": "aGVsbG8="})
    history = [
        Message("user", [Text("go")]),
        Message("assistant", [call]),
        Message("user", [ToolResult("1", "look", "seen")]),
    ]
    spec = ToolSpec("look", "Look.", {"type": "object", "properties": {}})
    await providers.ask(ModelRequest(models=["google:gemini-2.5-flash"], messages=history, tools=[spec]))
    assert "aGVsbG8=" in str(server.requests[0].body)


async def test_what_is_asked_for_is_sent(server: ModelServer, providers: Providers) -> None:
    for model in ("openai:gpt-4o", "anthropic:claude-haiku-4-5", "google:gemini-2.5-flash"):
        await providers.ask(
            ModelRequest(
                models=[model],
                instructions="Be brief, {braces} and all.",
                messages=[Message("user", [Text("hello")])],
                tools=[ToolSpec("look", "Look at it.", {"type": "object", "properties": {"x": {"type": "number"}}})],
                max_tokens=77,
                temperature=0.25,
            )
        )
        body = str(server.requests[-1].body)
        for piece in ("Be brief, {braces} and all.", "hello", "Look at it.", "77", "0.25"):
            assert piece in body, (model, piece)
