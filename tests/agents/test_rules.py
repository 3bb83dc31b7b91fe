"""The pure decisions about agents."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.agents.events import AgentChanged, AgentDefinition, AgentPaused, AgentResumed
from retinue.agents.rules import (
    IDLE,
    Activity,
    Agent,
    change,
    checked_name,
    delete,
    is_name,
    normalised,
    pause,
    status,
)
from retinue.kernel import BadInput, Conflict

ID = UUID("01939d2c-8d0a-7cc1-9b3e-5a1f0c2d4e6f")
AT = datetime(2026, 11, 20, tzinfo=UTC)


def agent(*, paused: bool = False) -> Agent:
    return Agent(UUID(int=1), UUID(int=2), 3, AgentDefinition(name="Ada", instructions="Help."), paused, AT, AT, 7)


@pytest.mark.parametrize(
    "name",
    ["", "   ", "x" * 101, "two\nlines", "bell\a", "nul\x00", "half \ud800", "\u2028", str(ID), ID.hex],
)
def test_names_that_cannot_be_used_are_refused_by_field(name: str) -> None:
    with pytest.raises(BadInput) as refusal:
        checked_name(name)
    assert refusal.value.field == "name"
    assert not is_name(name)


@pytest.mark.parametrize("name", ["a", "x" * 100, "Ада", "图书管理员", "a.b/c #1", " kept inside  "])
def test_other_names_are_kept_without_the_spaces_around(name: str) -> None:
    assert checked_name(name) == name.strip()
    assert is_name(name)


def test_names_that_look_the_same_are_the_same() -> None:
    assert normalised("Straße  A") == normalised("STRASSE a") == normalised("\uff33tra\u00dfe \uff21")
    assert normalised("Ada") != normalised("Adam")


@given(st.text())
def test_normalising_again_changes_nothing(name: str) -> None:
    assert normalised(normalised(name)) == normalised(name)


def test_an_equal_definition_is_no_change() -> None:
    assert change(agent(), AgentDefinition(name="Ada", instructions="Help.")) == []
    other = AgentDefinition(name="Ada", instructions="Help more.")
    assert change(agent(), other) == [AgentChanged(agent_id=UUID(int=1), version=4, definition=other)]


def test_pausing_what_is_paused_changes_nothing() -> None:
    assert pause(agent(), True) == [AgentPaused(agent_id=UUID(int=1))]
    assert pause(agent(paused=True), True) == []
    assert pause(agent(paused=True), False) == [AgentResumed(agent_id=UUID(int=1))]
    assert pause(agent(), False) == []


@pytest.mark.parametrize("busy", [Activity(running=1), Activity(queued=1)])
def test_an_agent_with_runs_is_deleted_only_by_force(busy: Activity) -> None:
    runs = (uuid4(),)
    with pytest.raises(Conflict) as refusal:
        delete(agent(), Activity(busy.running, busy.queued, active=runs), force=False)
    assert refusal.value.extra == {"runs": [str(runs[0])]}
    assert len(delete(agent(), busy, force=True)) == 1
    assert len(delete(agent(), IDLE, force=False)) == 1


@pytest.mark.parametrize(
    "paused, activity, word",
    [
        (True, Activity(running=1, last_failed=True), "paused"),
        (False, Activity(running=1, last_failed=True), "busy"),
        (False, Activity(queued=1), "busy"),
        (False, Activity(last_failed=True), "error"),
        (False, IDLE, "ready"),
    ],
)
def test_status_is_the_most_pressing_word(paused: bool, activity: Activity, word: str) -> None:
    assert status(paused, activity) == word


def test_the_stored_shape_of_a_definition_is_still_read() -> None:
    """Events are never rewritten: this text was stored by the first release."""
    stored = (
        '{"name":"Ada","instructions":"Help.","model":"openai:gpt-5-mini","fallbacks":["demo:assistant"],'
        '"tools":["files"],"mcp":[{"name":"wiki","url":"https://wiki.example/mcp"}],"autonomy":"manual",'
        '"tool_policy":{"files_write":"deny"},"limits":{"concurrency":1,"budget":1500000000},"cache_seconds":60,'
        '"output_schema":{"type":"object"},"priority":5,"temperature":0.5,"max_tokens":100}'
    )
    definition = msgspec.json.decode(stored, type=AgentDefinition)
    assert msgspec.json.encode(definition).decode() == stored
    assert definition.limits.queue == 100
