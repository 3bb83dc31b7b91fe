"""The clock, and the question to the user."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from retinue.kernel import ManualClock
from retinue.tools import ToolContext
from retinue.tools.ask_user import ask_user_tool
from retinue.tools.clock import clock_tool


@pytest.mark.parametrize(
    "zone, said",
    [
        ("UTC", "2026-11-20T19:30:00+00:00 (Friday, UTC)"),
        ("Europe/Berlin", "2026-11-20T20:30:00+01:00 (Friday, Europe/Berlin)"),
        ("Asia/Tokyo", "2026-11-21T04:30:00+09:00 (Saturday, Asia/Tokyo)"),
    ],
)
async def test_the_time_in_a_zone(context: ToolContext, zone: str, said: str) -> None:
    at = replace(context, clock=ManualClock(datetime(2026, 11, 20, 19, 30, tzinfo=UTC)))
    assert (await clock_tool().run(at, {"zone": zone})).content == said


async def test_without_a_zone_it_is_utc(context: ToolContext) -> None:
    assert "UTC" in (await clock_tool().run(context, {})).content


@pytest.mark.parametrize(
    "zone", ["Nowhere/Land", "Europe", "../../etc/passwd", "/etc/localtime", "", "a\0b", "x" * 999]
)
async def test_there_is_no_such_zone(context: ToolContext, zone: str) -> None:
    outcome = await clock_tool().run(context, {"zone": zone})
    assert outcome.failed
    assert "time zone" in outcome.content
    assert len(outcome.content) < 300


async def test_a_question_waits_and_is_never_run(context: ToolContext) -> None:
    ask = ask_user_tool()
    assert ask.labels.waits
    assert (await ask.run(context, {"question": "Which one?", "options": ["a", "b"]})).failed
    for bad in ({}, {"question": ""}, {"question": "x" * 4001}, {"question": "x", "options": ["a"] * 21}):
        outcome = await ask.run(context, dict(bad))
        assert "arguments are not valid" in outcome.content
