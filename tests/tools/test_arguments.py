"""Holding arguments against schemas that somebody wrote who wants to do harm."""

from __future__ import annotations

import time
from typing import Any

import pytest

from retinue.tools import ArgumentCheck


def doubling(times: int) -> dict[str, Any]:
    """Return a small schema, each part of which refers to the one below it twice: 2^times steps."""
    parts: dict[str, Any] = {"a0": {"type": "string"}}
    for number in range(1, times):
        below = {"$ref": f"#/$defs/a{number - 1}"}
        parts[f"a{number}"] = {"allOf": [below, below]}
    return {"type": "object", "$defs": parts, "properties": {"goal": {"$ref": f"#/$defs/a{times - 1}"}}}


def slow_patterns(number: int) -> dict[str, Any]:
    """Return a schema of patterns, each of which takes its whole time."""
    return {"type": "object", "properties": {"goal": {"allOf": [{"pattern": f"(a|aa)+{n}$"} for n in range(number)]}}}


@pytest.mark.parametrize("schema", [doubling(40), slow_patterns(200)], ids=["references", "patterns"])
def test_a_schema_that_takes_for_ever_does_not_hold_the_server_and_is_not_fulfilled(schema: dict[str, Any]) -> None:
    """Without the clock this goes on for days: whoever writes a schema could stop the server for everybody."""
    began = time.thread_time()
    complaint = ArgumentCheck(schema).complaint({"goal": "a" * 60})
    assert complaint is not None
    assert "too long" in complaint
    assert time.thread_time() - began < 2


def test_distinct_elements_are_found_without_comparing_each_with_each() -> None:
    check = ArgumentCheck({"type": "object", "properties": {"all": {"uniqueItems": True}}}, seconds=5)
    many: list[dict[str, int]] = [{"n": number} for number in range(50_000)]
    began = time.thread_time()
    assert check.complaint({"all": many}) is None
    assert time.thread_time() - began < 5
    assert "non-unique" in (check.complaint({"all": [*many, {"n": 7}]}) or "")
    assert check.complaint({"all": [1, "1", True, [1]]}) is None


def test_a_schema_that_ends_nowhere_is_a_complaint_and_no_crash() -> None:
    """Both raised out of the check, and a grant with such a schema answered 500."""
    loop = ArgumentCheck({"type": "object", "properties": {"goal": {"$ref": "#/properties/goal"}}}, seconds=60)
    assert "cannot be checked" in (loop.complaint({"goal": "x"}) or "")
    nowhere = ArgumentCheck({"type": "object", "properties": {"goal": {"$ref": "#/$defs/none"}}})
    assert "cannot be checked" in (nowhere.complaint({"goal": "x"}) or "")
