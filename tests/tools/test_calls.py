"""The guarded call: whatever a tool does, the loop gets an outcome."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from retinue.kernel import NotFound
from retinue.tools import Effect, Labels, Tool, ToolContext, ToolFault, ToolOutcome, Trust, read_arguments
from retinue.tools.calls import LONGEST_RESULT, Handler

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "pattern": "^[A-Z]"},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 1}},
    },
    "required": ["city"],
    "additionalProperties": False,
}
READS = Labels(effect=Effect.READ, output=Trust.TRUSTED)


def make(handler: Handler, *, labels: Labels = READS, timeout: float = 5.0, schema: dict[str, Any] = SCHEMA) -> Tool:
    return Tool(
        name="suspect", description="A tool.", parameters=schema, labels=labels, handler=handler, timeout=timeout
    )


async def answers(_context: ToolContext, arguments: dict[str, Any]) -> object:
    return arguments["city"]


async def test_a_good_call(context: ToolContext) -> None:
    assert await make(answers).run(context, {"city": "Ulm"}) == ToolOutcome("Ulm")


@pytest.mark.parametrize(
    "arguments, field",
    [
        ({}, "city"),
        ({"city": 5}, "city"),
        ({"city": "ulm"}, "city"),
        ({"city": "Ulm", "days": [1, 0]}, "days[1]"),
        ({"city": "Ulm", "wind": True}, "wind"),
        ({"city": "U\ud800"}, "city"),
        ({"city": "Ulm", "days": ["\udfff"]}, "days[0]"),
        ({"city": "Ulm", "\ud800": 1}, "a name"),
    ],
)
async def test_bad_arguments_name_the_field(context: ToolContext, arguments: dict[str, Any], field: str) -> None:
    called = []

    async def notes(_context: ToolContext, arguments: dict[str, Any]) -> object:
        called.append(arguments)
        return "called"

    outcome = await make(notes).run(context, arguments)
    assert outcome.failed
    assert field in outcome.content
    assert not called


async def test_a_huge_wrong_argument_is_not_repeated_to_the_model(context: ToolContext) -> None:
    outcome = await make(answers).run(context, {"city": ["x" * 1_000_000]})
    assert outcome.failed
    assert len(outcome.content) < 1000


@pytest.mark.parametrize(
    "error, text",
    [
        (ToolFault("There is no such city."), "There is no such city."),
        (NotFound("city"), "There is no such city."),
        (ValueError("bad luck"), "ValueError: bad luck"),
        (RecursionError(), "RecursionError"),
        (SystemExit(3), "SystemExit"),
        (StopIteration(), "StopIteration"),
        (MemoryError(), "MemoryError"),
        (ExceptionGroup("two", [ValueError("a"), KeyError("b")]), "two"),
        (asyncio.CancelledError(), "stopped by itself"),
        (TimeoutError(), "TimeoutError"),
    ],
)
async def test_a_tool_that_raises(context: ToolContext, error: BaseException, text: str) -> None:
    async def raises(_context: ToolContext, _arguments: dict[str, Any]) -> object:
        raise error

    outcome = await make(raises).run(context, {"city": "Ulm"})
    assert outcome.failed
    assert text in outcome.content


async def test_a_result_of_ten_megabytes_is_cut(context: ToolContext) -> None:
    async def floods(_context: ToolContext, _arguments: dict[str, Any]) -> object:
        return "é" * 10_000_000

    outcome = await make(floods).run(context, {"city": "Ulm"})
    assert not outcome.failed
    assert outcome.content.startswith("é" * LONGEST_RESULT)
    assert "10,000,000 characters" in outcome.content
    assert len(outcome.content) < LONGEST_RESULT + 200


@pytest.mark.parametrize(
    "labels, uncertain",
    [
        (READS, False),
        (Labels(effect=Effect.WRITE, idempotent=True), False),
        (Labels(effect=Effect.WRITE), True),
        (Labels(), True),
    ],
)
async def test_a_call_that_never_returns(context: ToolContext, labels: Labels, uncertain: bool) -> None:
    cleaned_up = asyncio.Event()

    async def hangs(_context: ToolContext, _arguments: dict[str, Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    outcome = await make(hangs, labels=labels, timeout=0.05).run(context, {"city": "Ulm"})
    assert outcome.failed
    assert "0.05 seconds" in outcome.content
    assert outcome.uncertain is uncertain
    assert ("not known whether it happened" in outcome.content) is uncertain
    assert cleaned_up.is_set()


async def test_a_call_that_does_not_heed_its_cancellation(context: ToolContext) -> None:
    let_go = asyncio.Event()

    async def stubborn(_context: ToolContext, _arguments: dict[str, Any]) -> object:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    started = time.monotonic()
    outcome = await make(stubborn, timeout=0.05).run(context, {"city": "Ulm"})
    assert outcome.failed
    assert time.monotonic() - started < 3
    let_go.set()


async def test_cancelling_the_run_reaches_the_tool_and_passes_through(context: ToolContext) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def works(_context: ToolContext, _arguments: dict[str, Any]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    call = asyncio.create_task(make(works).run(context, {"city": "Ulm"}))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert stopped.is_set()


@pytest.mark.parametrize(
    "returned, text",
    [
        (None, ""),
        ({"a": [1, 2]}, '{"a":[1,2]}'),
        (3, "3"),
        (ToolOutcome("whole", failed=True), "whole"),
        ("a\0b\ud800c", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"),
    ],
)
async def test_what_is_returned_becomes_text(context: ToolContext, returned: object, text: str) -> None:
    async def returns(_context: ToolContext, _arguments: dict[str, Any]) -> object:
        return returned

    assert (await make(returns).run(context, {"city": "Ulm"})).content == text


async def test_secrets_are_blotted_out(context: ToolContext) -> None:
    async def leaks(context: ToolContext, _arguments: dict[str, Any]) -> object:
        raise RuntimeError(f"401 for {context.secrets['weather']}")

    outcome = await make(leaks).run(replace(context, secrets={"weather": "hunter2!", "short": "x"}), {"city": "Ulm"})
    assert outcome.content.endswith("401 for [secret]")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {},
        {"type": "object", "properties": {"a": {"type": "nonsense"}}},
        {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}},
        {"type": "object", "$defs": {"x": {"items": [{"$dynamicRef": "file:///etc/passwd"}]}}},
    ],
)
def test_a_schema_that_cannot_be_used(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        make(answers, schema=schema)


@pytest.mark.parametrize("name", ["", "a b", "naïve", "x" * 65, "a.b"])
def test_a_name_that_cannot_be_used(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be called"):
        Tool(name=name, description="x", parameters=SCHEMA, labels=READS, handler=answers)


async def test_a_slow_pattern_of_a_schema_does_not_hold_the_server(context: ToolContext) -> None:
    slow = {
        "type": "object",
        "properties": {"city": {"type": "string", "pattern": "^(a|a)*$"}},
        "patternProperties": {"^(b|b)*$": {"type": "string"}},
        "additionalProperties": False,
    }
    started = time.monotonic()
    arguments = {"city": "a" * 5000 + "!", "b" * 5000 + "!": "x"}
    await make(answers, schema=slow).run(context, arguments)
    assert time.monotonic() - started < 5


async def test_a_schema_that_never_ends(context: ToolContext) -> None:
    endless = {"type": "object", "allOf": [{"$ref": "#"}]}
    outcome = await make(answers, schema=endless).run(context, {"city": "Ulm"})
    assert outcome.failed
    assert "cannot be checked" in outcome.content


@pytest.mark.parametrize("text", ["[1]", "{", "nul", '"x"', "[" * 100_000, '{"a": 1} x'])
def test_arguments_that_are_no_json_object(text: str) -> None:
    with pytest.raises(ToolFault):
        read_arguments(text)


@pytest.mark.parametrize("arguments", [{}, {"a": "é\0"}, {"a": {"b": [1.5, None]}}])
def test_arguments_are_read(arguments: dict[str, Any]) -> None:
    assert read_arguments(json.dumps(arguments)) == arguments
    assert read_arguments("  ") == {}
