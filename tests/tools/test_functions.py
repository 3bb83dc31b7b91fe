"""Python functions as tools."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from retinue.tools import UNLABELLED, Effect, Labels, ToolContext, Trust, function_tool, tool
from retinue.tools import functions as module


class Unit(Enum):
    """How warm it is said to be."""

    CELSIUS = "c"
    KELVIN = "k"


class Place(BaseModel):
    """Where."""

    name: str
    height: float = 0.0


@dataclass
class Span:
    """From when to when."""

    start: date
    end: date


@tool(effect=Effect.READ, output=Trust.TRUSTED, private=False, idempotent=True, timeout=7)
async def weather(
    context: ToolContext,
    place: Place,
    unit: Unit = Unit.CELSIUS,
    days: Annotated[int, Field(ge=1, le=14)] = 3,
    span: Span | None = None,
    style: Literal["short", "long"] = "short",
) -> dict[str, Any]:
    """Forecast the weather.

    Uses no oracle.

    Args:
        context: Not for the model.
        place: Where it shall be known.
        days: How many days.
    """
    return {
        "place": place.name,
        "unit": unit.value,
        "days": days,
        "start": span.start if span else None,
        "style": style,
        "key": context.idempotency_key,
    }


def test_schema_and_labels() -> None:
    made = function_tool(weather)
    assert made.name == "weather"
    assert made.description == "Forecast the weather.\n\nUses no oracle."
    assert made.timeout == 7
    assert made.labels == Labels(effect=Effect.READ, output=Trust.TRUSTED, private=False, idempotent=True)
    properties = made.parameters["properties"]
    assert set(properties) == {"place", "unit", "days", "span", "style"}
    assert made.parameters["required"] == ["place"]
    assert properties["place"]["description"] == "Where it shall be known."
    assert properties["days"] == {
        "default": 3,
        "description": "How many days.",
        "maximum": 14,
        "minimum": 1,
        "type": "integer",
    }


async def test_arguments_arrive_as_their_types(context: ToolContext) -> None:
    arguments = {
        "place": {"name": "Ulm"},
        "unit": "k",
        "span": {"start": "2026-11-01", "end": "2026-11-02"},
    }
    outcome = await function_tool(weather).run(context, arguments)
    assert outcome.content == (
        '{"place":"Ulm","unit":"k","days":3,"start":"2026-11-01","style":"short","key":"run/3/call_1"}'
    )


@pytest.mark.parametrize(
    "arguments, field",
    [
        ({}, "place"),
        ({"place": {"height": 1}}, "name"),
        ({"place": {"name": "x"}, "days": 15}, "days"),
        ({"place": {"name": "x"}, "style": "epic"}, "style"),
        ({"place": {"name": "x"}, "context": {}}, "context"),
        ({"place": {"name": "x"}, "span": {"start": "soon", "end": "2026-11-02"}}, "span"),
    ],
)
async def test_bad_arguments_name_the_field(context: ToolContext, arguments: dict[str, Any], field: str) -> None:
    outcome = await function_tool(weather).run(context, arguments)
    assert outcome.failed
    assert field in outcome.content


def test_a_function_without_labels_is_unlabelled() -> None:
    def anything(text: str) -> str:
        """Do anything."""
        return text

    assert function_tool(anything).labels == UNLABELLED


async def test_a_plain_function_runs_in_a_thread_of_its_own(context: ToolContext) -> None:
    @tool(effect=Effect.READ)
    def where() -> str:
        """Tell the thread."""
        return threading.current_thread().name

    outcome = await function_tool(where).run(context, {})
    assert outcome.content != threading.current_thread().name


async def test_a_plain_function_that_never_returns(context: ToolContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_in_flight", set())
    release = threading.Event()

    @tool(effect=Effect.READ)
    def hang() -> None:
        """Hang."""
        release.wait(30)

    started = time.monotonic()
    outcomes = await asyncio.gather(*(replace(function_tool(hang), timeout=0.1).run(context, {}) for _ in range(50)))
    assert all(outcome.failed for outcome in outcomes)
    # The pool that everything else shares is not used up.
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
    assert time.monotonic() - started < 5
    release.set()
    await _until_no_call_runs()


async def test_there_is_a_limit_to_calls_that_hang(context: ToolContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_in_flight", set())
    monkeypatch.setattr(module, "_MOST_THREADS", 2)
    release = threading.Event()

    @tool(effect=Effect.READ)
    def hang() -> str:
        """Hang."""
        release.wait(30)
        return "let go"

    made = function_tool(hang)
    hanging = [asyncio.ensure_future(made.run(context, {})) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    refused = await made.run(context, {})
    assert refused.failed
    assert "still running" in refused.content
    release.set()
    assert [outcome.content for outcome in await asyncio.gather(*hanging)] == ["let go", "let go"]
    await _until_no_call_runs()
    assert not (await made.run(context, {})).failed


async def test_a_call_that_ends_after_its_loop_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_in_flight", set())
    release = threading.Event()

    def in_a_loop_that_closes() -> None:
        async def give_up() -> None:
            async with asyncio.timeout(0.05):
                await module.in_own_thread(lambda: release.wait(30))

        with pytest.raises(TimeoutError):
            asyncio.run(give_up())

    await asyncio.to_thread(in_a_loop_that_closes)
    release.set()
    await _until_no_call_runs()


async def _until_no_call_runs() -> None:
    async with asyncio.timeout(5):
        while module._in_flight:  # noqa: ASYNC110  # threads set no event when they end
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), StopIteration(), KeyboardInterrupt()])
async def test_a_plain_function_that_raises(context: ToolContext, error: BaseException) -> None:
    @tool(effect=Effect.READ)
    def fail() -> None:
        """Fail."""
        raise error

    outcome = await function_tool(fail).run(context, {})
    assert outcome.failed
    assert type(error).__name__ in outcome.content


async def test_a_plain_function_that_returns_a_coroutine(context: ToolContext) -> None:
    async def later() -> str:
        return "later"

    @tool(effect=Effect.READ)
    def now() -> Any:
        """Answer later."""
        return later()

    assert (await function_tool(now).run(context, {})).content == "later"


async def test_any_number_of_arguments(context: ToolContext) -> None:
    @tool(effect=Effect.READ)
    def many(first: int, **others: int) -> int:
        """Add."""
        return first + sum(others.values())

    assert (await function_tool(many).run(context, {"first": 1, "a": 2, "b": 3})).content == "6"


def positional(x: int, /) -> int:
    """Take what has no name."""
    return x


def undocumented(x: int) -> int:
    return x


def undescribable(x: threading.Lock) -> None:
    """Take what JSON has not."""


def unresolvable(x: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821  # the mistake it is about
    """Name a type that does not exist."""


@pytest.mark.parametrize("function", [positional, undocumented, undescribable, unresolvable])
def test_functions_that_cannot_be_tools(function: Any) -> None:
    with pytest.raises((ValueError, NameError)):
        function_tool(function)


def test_a_thread_that_hangs_does_not_keep_the_server_from_stopping() -> None:
    program = (
        "import asyncio, time\n"
        "from retinue.tools.functions import in_own_thread\n"
        "async def main():\n"
        "    task = asyncio.create_task(in_own_thread(lambda: time.sleep(60)))\n"
        "    await asyncio.sleep(0.05)\n"
        "asyncio.run(main())\n"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert time.monotonic() - started < 20
