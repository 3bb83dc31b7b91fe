"""What every provider must do, as tests that plugin authors run too.

Subclass :class:`ProviderSuite` in a test module and give it a fixture ``stage``, an object with the methods of
:class:`Stage`: a scripted server that speaks the provider's wire format, and :class:`~retinue.providers.Providers`
pointed at it with ``model_attempts=1``. The tests are coroutines; run them with pytest-asyncio in its automatic mode.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

from retinue.providers.failures import KINDS, ModelFailed
from retinue.providers.messages import Message, ModelAnswer, ModelRequest, Text, ToolCall, ToolResult, ToolSpec
from retinue.providers.providers import Providers

KEY = "sk-conformance-0123456789"
"""The key the stage's providers must use, so that the suite can look for it where it must not be."""

SPEC = ToolSpec(
    "look_up",
    "Look something up.",
    {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


class Stage(Protocol):
    """What the suite needs: a provider to ask, and a way to say what its endpoint answers next."""

    providers: Providers
    model: str

    def says(self, text: str, *, deltas: int = 1) -> None:
        """The next answer is this text, in so many pieces."""
        ...

    def calls(self, name: str, arguments: dict[str, Any]) -> None:
        """The next answer is a call of a tool."""
        ...

    def gives(self, value: Any) -> None:
        """The next answer is structured data."""
        ...

    def fails(self, status: int) -> None:
        """The next answer is an error with this HTTP status, or what stands for it on the wire."""
        ...

    def hangs(self) -> None:
        """The next request gets no answer."""
        ...

    def breaks_off(self, after: int) -> None:
        """The next answer's connection closes after so many pieces of text."""
        ...

    async def until_asked(self) -> None:
        """Return once a request has arrived."""
        ...

    async def until_left(self, seconds: float) -> None:
        """Return once the client has closed a connection before the answer's end; TimeoutError if it does not."""
        ...


class ProviderSuite:
    """The tests. Each asks once; retries and fallbacks are not the provider's business."""

    async def test_it_answers_and_counts_tokens(self, stage: Stage) -> None:
        stage.says("Hello there.")
        answer = await _ask(stage)
        assert answer.text == "Hello there."
        assert answer.model == stage.model
        assert answer.finish == "stop"
        assert answer.input_tokens > 0
        assert answer.output_tokens > 0

    async def test_it_streams_each_piece_once_and_in_order(self, stage: Stage) -> None:
        text = "one two three four five six seven eight nine ten"
        stage.says(text, deltas=8)
        pieces: list[str] = []
        answer = await _ask(stage, pieces=pieces)
        assert len(pieces) > 1
        assert "".join(pieces) == text == answer.text

    async def test_it_keeps_every_character(self, stage: Stage) -> None:
        text = 'Grüße 你好 👩‍🚀 \u202eabc \\ "quoted" <|im_start|> \n\ttabs'
        stage.says(text, deltas=5)
        assert (await _ask(stage, "Say it: " + text)).text == text

    async def test_it_calls_tools_and_takes_their_results(self, stage: Stage) -> None:
        stage.calls(SPEC.name, {"what": 'the "answer" ü'})
        first = await _ask(stage, tools=[SPEC])
        assert [(call.name, json.loads(call.arguments)) for call in first.calls] == [
            (SPEC.name, {"what": 'the "answer" ü'})
        ]
        assert first.calls[0].id
        assert first.finish == "tool_call"
        stage.says("It is 42.")
        second = await _ask(
            stage,
            tools=[SPEC],
            after=[
                Message("assistant", list(first.parts)),
                Message("user", [ToolResult(first.calls[0].id, SPEC.name, "42")]),
            ],
        )
        assert second.text == "It is 42."

    async def test_it_carries_on_a_conversation_with_a_failed_tool_and_broken_arguments(self, stage: Stage) -> None:
        stage.says("I see.")
        answer = await _ask(
            stage,
            tools=[SPEC],
            after=[
                Message("assistant", [Text("Let me look."), ToolCall("call-1", SPEC.name, '{"what": ')]),
                Message("user", [ToolResult("call-1", SPEC.name, "no such thing", failed=True)]),
                Message("assistant", [Text("It failed.")]),
                Message("user", [Text("And now?")]),
            ],
        )
        assert answer.text == "I see."

    async def test_it_gives_structured_answers(self, stage: Stage) -> None:
        stage.gives({"city": "Ulm", "people": 126000})
        answer = await _ask(stage, output_schema=SCHEMA)
        assert answer.structured == {"city": "Ulm", "people": 126000}
        assert not answer.calls

    async def test_it_names_its_failures(self, stage: Stage) -> None:
        wanted = {401: "bad_key", 404: "unknown_model", 429: "rate_limited", 500: "overloaded", 400: "refused"}
        for status, kind in wanted.items():
            stage.fails(status)
            failed = await _failure(stage)
            assert failed.kind == kind, (status, failed.kind, failed.detail)
            assert failed.kind in KINDS
            assert failed.model == stage.model
            assert failed.attempts == 1
            _shows_no_key(failed)

    async def test_it_notices_an_answer_that_breaks_off(self, stage: Stage) -> None:
        stage.breaks_off(2)
        pieces: list[str] = []
        failed = await _failure(stage, pieces=pieces)
        assert failed.kind in ("unreachable", "bad_answer")
        assert failed.retryable
        assert pieces
        _shows_no_key(failed)

    async def test_it_gives_up_when_the_time_is_over(self, stage: Stage) -> None:
        stage.hangs()
        failed = await _failure(stage, timeout=0.3)
        assert failed.kind == "timeout"
        await stage.until_left(1.0)

    async def test_cancelling_closes_the_connection_within_a_second(self, stage: Stage) -> None:
        stage.hangs()
        asking = asyncio.create_task(_ask(stage))
        await stage.until_asked()
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        await stage.until_left(1.0)

    async def test_many_calls_at_once_do_not_mix(self, stage: Stage) -> None:
        count = 20
        for number in range(count):
            stage.says(f"answer {number}", deltas=3)
        answers = await asyncio.gather(*(_ask(stage) for _ in range(count)))
        assert sorted(answer.text for answer in answers) == sorted(f"answer {number}" for number in range(count))


async def _ask(
    stage: Stage,
    text: str = "Tell me.",
    *,
    pieces: list[str] | None = None,
    tools: list[ToolSpec] | None = None,
    after: list[Message] | None = None,
    **more: Any,
) -> ModelAnswer:
    request = ModelRequest(
        models=[stage.model],
        instructions="Answer shortly.",
        messages=[Message("user", [Text(text)]), *(after or [])],
        tools=tools or [],
        **more,
    )
    heard = [] if pieces is None else pieces
    return await stage.providers.ask(request, on_text=lambda piece, _: heard.append(piece))


async def _failure(stage: Stage, **more: Any) -> ModelFailed:
    try:
        await _ask(stage, **more)
    except ModelFailed as failed:
        return failed
    raise AssertionError("the provider answered")


def _shows_no_key(failed: ModelFailed) -> None:
    told: list[object] = [failed.detail, str(failed), repr(failed), failed.failures]
    error: BaseException | None = failed
    while error is not None:
        told.append(repr(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert KEY not in repr(told)
