"""Agents on a real database: versions, names, owners, tenants, pausing and deleting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from retinue.agents import Activity, AgentActivity, AgentDefinition, commands, definition, find, views
from retinue.agents.room import ROOM
from retinue.agents.rules import Agent
from retinue.database import Database
from retinue.kernel import BadInput, Conflict, NotFound, Scope, Services, Settings
from retinue.ledger import read_stream
from retinue.tools import Toolbox
from tests.support.scopes import ledger_services, scope_of
from tests.support.site import hooks_of


class House:
    """A tenant with one user, and scopes in it."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.tenant_id = uuid4()
        self.user_id = uuid4()

    def scope(self, user_id: UUID | None = None) -> AbstractAsyncContextManager[Scope]:
        return scope_of(self.services, self.tenant_id, user_id=user_id or self.user_id, role="member")

    async def make(self, name: str = "Ada", **fields: object) -> Agent:
        async with self.scope() as scope:
            return await commands.create(scope, msgspec.convert({"name": name, **fields}, AgentDefinition))

    async def change(self, agent_id: UUID, wanted: AgentDefinition) -> Agent:
        async with self.scope() as scope:
            return await commands.change(scope, await commands.locked(scope, agent_id), wanted)


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    views.cache.clear()
    services = ledger_services(database, [views.projection])
    toolbox = services.add(Toolbox, Toolbox(Settings(data=tmp_path, mcp_stdio=True)))
    with hooks_of([ROOM]):
        yield House(services)
    await toolbox.close()
    views.cache.clear()


async def test_an_agent_is_found_by_id_and_by_name(house: House) -> None:
    made = await house.make("Ada  Lovelace", instructions="Help.")
    async with house.scope() as scope:
        for reference in (made.agent_id, str(made.agent_id), made.agent_id.hex, "Ada  Lovelace", "ADA lovelace"):
            assert await find(scope, reference) == made
        for missing in (uuid4(), "Adam", "", "nul\x00", "x" * 5000, "half \ud800"):
            with pytest.raises(NotFound):
                await find(scope, missing)
    assert (made.version, made.paused, made.definition.limits.concurrency) == (1, False, 3)


async def test_every_change_is_a_version_that_stays(house: House) -> None:
    made = await house.make(instructions="One.")
    second = await house.change(made.agent_id, AgentDefinition(name="Ada", instructions="Two."))
    again = await house.change(made.agent_id, AgentDefinition(name="Ada", instructions="Two."))
    assert (second.version, again.version) == (2, 2)
    async with house.scope() as scope:
        assert [(await definition(scope, made.agent_id, n)).instructions for n in (1, 2)] == ["One.", "Two."]
        assert [row[0] for row in await views.versions(scope, made.agent_id, None, 10)] == [2, 1]
        with pytest.raises(NotFound):
            await definition(scope, made.agent_id, 3)
        types = [one.type for one in await read_stream(scope, f"agent:{made.agent_id}")]
    assert types == ["agent.created", "agent.changed"]


async def test_a_name_is_unique_among_an_owners_agents(house: House) -> None:
    made = await house.make("Ada")
    other = await house.make("Bob")
    for taken in ("Ada", "aDA", " ada "):
        with pytest.raises(Conflict, match="called"):
            await house.make(taken)
    with pytest.raises(Conflict):
        await house.change(other.agent_id, AgentDefinition(name="ADA"))
    renamed = await house.change(made.agent_id, AgentDefinition(name="ADA"))
    assert renamed.name == "ADA"
    async with house.scope(uuid4()) as scope:
        assert (await commands.create(scope, AgentDefinition(name="Ada"))).name == "Ada"
    async with house.scope() as scope:
        await commands.delete(scope, await commands.locked(scope, "ada"))
    assert (await house.make("Ada")).agent_id != made.agent_id


async def test_of_many_who_want_a_name_at_once_one_gets_it(house: House) -> None:
    results = await asyncio.gather(*(house.make("Ada") for _ in range(8)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Agent"] + ["Conflict"] * 7


async def test_of_many_changes_at_once_none_is_lost(house: House) -> None:
    made = await house.make()
    wanted = [AgentDefinition(name="Ada", instructions=f"{n}") for n in range(8)]
    await asyncio.gather(*(house.change(made.agent_id, one) for one in wanted))
    async with house.scope() as scope:
        rows = await views.versions(scope, made.agent_id, None, 20)
    assert [row[0] for row in rows] == list(range(9, 0, -1))
    assert {row[1].instructions for row in rows} == {"", *(one.instructions for one in wanted)}


async def test_another_user_and_another_tenant_find_nothing(house: House) -> None:
    made = await house.make()
    stranger = House(house.services)
    stranger.user_id = house.user_id
    for elsewhere in (house.scope(uuid4()), stranger.scope()):
        async with elsewhere as scope:
            for reference in (made.agent_id, "Ada"):
                with pytest.raises(NotFound):
                    await find(scope, reference)
                with pytest.raises(NotFound):
                    await commands.locked(scope, reference)
            assert await views.owned(scope, scope.owner(), None, 10) == []
    async with stranger.scope() as scope:
        with pytest.raises(NotFound):
            await definition(scope, made.agent_id, 1)


async def test_a_definition_that_was_rolled_back_is_not_remembered(house: House) -> None:
    made = await house.make()

    async def change_and_fail() -> None:
        async with house.scope() as scope:
            wanted = AgentDefinition(name="Ada", instructions="Never.")
            await commands.change(scope, await commands.locked(scope, made.agent_id), wanted)
            assert (await definition(scope, made.agent_id, 2)).instructions == "Never."
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        await change_and_fail()
    await house.change(made.agent_id, AgentDefinition(name="Ada", instructions="Always."))
    async with house.scope() as scope:
        assert (await definition(scope, made.agent_id, 2)).instructions == "Always."


async def test_a_definition_is_read_from_the_database_once(house: House) -> None:
    made = await house.make()
    key = (house.tenant_id, made.agent_id, 1)
    async with house.scope() as scope:
        first = await definition(scope, made.agent_id, 1)
    async with house.scope() as scope:
        assert await definition(scope, made.agent_id, 1) is first is views.cache.get(key)


def test_the_cache_is_bounded_and_drops_what_was_not_used() -> None:
    cache = views.DefinitionCache(characters=100)
    keys = [(UUID(int=1), UUID(int=n), 1) for n in range(3)]
    held = AgentDefinition(name="Ada")
    cache.put(keys[0], held, 40)
    cache.put(keys[1], held, 40)
    assert cache.get(keys[0]) is held
    cache.put(keys[2], held, 40)
    assert [cache.get(key) is held for key in keys] == [True, False, True]
    cache.put((UUID(int=1), UUID(int=9), 1), held, 101)
    assert [cache.get(key) is held for key in keys] == [True, False, True]


async def test_pausing_tells_the_runs_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await house.make()
    told: list[tuple[UUID, bool]] = []

    async def hook(scope: Scope, agent_id: UUID, paused: bool) -> None:
        assert (await find(scope, agent_id)).paused is paused
        told.append((agent_id, paused))

    monkeypatch.setattr(commands, "on_pause", [hook])
    for change in (commands.pause, commands.pause, commands.resume, commands.resume):
        async with house.scope() as scope:
            await change(scope, await commands.locked(scope, made.agent_id))
    assert told == [(made.agent_id, True), (made.agent_id, False)]


async def test_deleting_asks_what_runs_and_tells_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await house.make()
    run_id, told = uuid4(), []

    async def look(scope: Scope, agent_ids: Sequence[UUID]) -> Mapping[UUID, Activity]:
        return {agent_id: Activity(running=1, active=[run_id]) for agent_id in agent_ids}

    async def hook(scope: Scope, agent_id: UUID) -> None:
        told.append(agent_id)

    house.services.add(AgentActivity, AgentActivity(look))
    monkeypatch.setattr(commands, "on_delete", [hook])
    with pytest.raises(Conflict) as refusal:
        async with house.scope() as scope:
            await commands.delete(scope, await commands.locked(scope, made.agent_id))
    assert refusal.value.extra == {"runs": [str(run_id)]}
    assert told == []
    async with house.scope() as scope:
        await commands.delete(scope, await commands.locked(scope, made.agent_id), force=True)
    assert told == [made.agent_id]
    async with house.scope() as scope:
        with pytest.raises(NotFound):
            await find(scope, made.agent_id)
        assert (await definition(scope, made.agent_id, 1)).name == "Ada"


async def test_a_list_goes_on_where_it_stopped(house: House) -> None:
    made = [(await house.make(f"Agent {n}")).agent_id for n in range(5)]
    async with house.scope() as scope:
        first = await views.owned(scope, house.user_id, None, 3)
        rest = await views.owned(scope, house.user_id, first[-1].agent_id, 3)
    assert [agent.agent_id for agent in [*first, *rest]] == made


async def test_the_view_equals_a_fold_of_the_stream(house: House) -> None:
    made = await house.make()
    await house.change(made.agent_id, AgentDefinition(name="Bob"))
    async with house.scope() as scope:
        await commands.pause(scope, await commands.locked(scope, made.agent_id))
    tables = ("agents", "agent_versions")
    query = "SELECT (SELECT coalesce(json_agg(t ORDER BY t::text), '[]') FROM {} t)::text"
    async with house.scope() as scope:
        before = [await scope.queries.fetchval(query.format(table)) for table in tables]
        recorded = await read_stream(scope, f"agent:{made.agent_id}")
    replay = House(house.services)
    async with replay.scope() as scope:
        for one in recorded:
            handler = views.projection.handlers[type(one.event)]
            await handler(scope, one)
        after = [await scope.queries.fetchval(query.format(table)) for table in tables]
    assert [text.replace(str(replay.tenant_id), str(house.tenant_id)) for text in after] == before


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101])
async def test_a_bad_name_is_refused_below_http_too(house: House, name: str) -> None:
    with pytest.raises(BadInput):
        await house.make(name)


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"model": "gpt-5"}, "model"),
        ({"model": ":"}, "model"),
        ({"model": "nobody:gpt-5"}, "model"),
        ({"fallbacks": ["demo:assistant", "nobody:x"]}, "fallbacks.1"),
        ({"tools": ["files", "no_such_tool"]}, "tools[1]"),
        ({"mcp": [{"name": "wiki", "url": "ftp://wiki.example"}]}, "mcp[0].url"),
        ({"mcp": [{"name": "wiki", "url": "https://169.254.169.254/"}]}, "mcp[0].url"),
        ({"mcp": [{"name": "wiki"}]}, "mcp[0]"),
        ({"output_schema": {"type": 3}}, "output_schema"),
        ({"output_schema": {"$ref": "https://elsewhere.example/schema"}}, "output_schema"),
        ({"output_schema": {"description": "x" * 50_000}}, "output_schema"),
    ],
)
async def test_a_definition_that_could_never_run_is_refused_by_field(
    house: House, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadInput) as refusal:
        await house.make(**fields)
    assert refusal.value.field == field
    made = await house.make()
    with pytest.raises(BadInput):
        await house.change(made.agent_id, msgspec.convert({"name": "Ada", **fields}, AgentDefinition))


async def test_a_full_definition_is_kept_as_it_was_given(house: House) -> None:
    fields: dict[str, Any] = {
        "instructions": "Help.",
        "model": "openai:gpt-5-mini",
        "fallbacks": ["anthropic:claude-haiku-4-5", "demo:assistant"],
        "tools": ["files", "clock", "http_fetch", "ask_user"],
        "mcp": [
            {
                "name": "wiki",
                "url": "https://wiki.example/mcp",
                "headers": {"Authorization": "Bearer ${secret:wiki}"},
                "labels": {"search": {"effect": "read", "output": "untrusted"}},
            }
        ],
        "autonomy": "manual",
        "tool_policy": {"files_write": "deny"},
        "limits": {"concurrency": 1, "budget": 1_500_000_000},
        "output_schema": {"type": "object", "properties": {"answer": {"type": "string"}}},
        "temperature": 0.5,
    }
    made = await house.make(**fields)
    views.cache.clear()
    async with house.scope() as scope:
        assert await definition(scope, made.agent_id, 1) == msgspec.convert({"name": "Ada", **fields}, AgentDefinition)
